"""Beam search (Lowerre 1976), normalised by length as in Wu et al. 2016 without its constant."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from firstlight.decoding import filters
from firstlight.decoding.base import Continuation, Decoding, Stop, finish_reason
from firstlight.decoding.context import Context, evaluating
from firstlight.model.base import LanguageModel


@dataclass
class _Beam:
    """A candidate: its new ids and their log-probabilities."""

    ids: list[int]
    logprobs: list[float]
    total: float
    """The sum of `logprobs` as it was ranked: in float32, added one by one."""


_DEAD = _Beam([], [], -torch.inf)
"""Fills the place of a missing candidate; it is never extended or returned."""

LengthPenalty = Annotated[float, Field(ge=-10, le=10)]
"""The exponent of the length; within this range no power overflows."""


class BeamSearch(Decoding):
    """Extends the `n_beams` most probable candidates at each position; sets complete ones aside.

    A text is scored by (sum of log-probabilities) / (number of new tokens) ** length_penalty. The
    search for a prompt ends when `n_beams` texts are complete or, without `early_stopping`, when no
    candidate can score better than the worst of them. It returns the `num_samples` best.
    """

    def __init__(
        self,
        *,
        n_beams: Annotated[int, Field(gt=0, le=1024)],
        length_penalty: LengthPenalty = 1.0,
        early_stopping: bool = True,
    ) -> None:
        self.n_beams = n_beams
        self.length_penalty = length_penalty
        # One beam is greedy decoding, and ends like it.
        self.early_stopping = early_stopping or n_beams == 1

    def check(self, model: LanguageModel, num_samples: int = 1) -> None:
        if num_samples > self.n_beams:
            raise ValueError(
                f"num_samples ({num_samples}) must be at most n_beams ({self.n_beams})"
            )
        if 2 * self.n_beams > model.vocab_size:
            raise ValueError(
                f"n_beams ({self.n_beams}) must be at most half the vocabulary, {model.vocab_size}"
            )

    @torch.inference_mode()
    def generate(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        num_samples: int = 1,
        seeds: Sequence[int] | None = None,
        eos_id: int | None = None,
        stop: Stop | None = None,
        unused: Tensor | None = None,
    ) -> list[list[Continuation]]:
        if unused is not None:
            unused = unused.to(model.device)
        searches = [_Search(self, max_new_tokens, eos_id, stop, unused) for _ in prompts]
        with evaluating(model):
            # Each prompt is computed once, then copied for its beams.
            context = Context(model, prompts)
            logits = context.start()  # (P, V)
            copies = torch.arange(len(prompts), device=model.device).repeat_interleave(self.n_beams)
            context.select(copies)
            logits = logits[copies]  # (P * n_beams, V)
            while True:
                # For each new beam, the row that it extends and the token that it appends.
                parents: list[int] = []
                tokens: list[int] = []
                logprobs = logits.float().log_softmax(dim=-1).split(self.n_beams)
                for search, of_search in zip(searches, logprobs, strict=True):
                    first_row = len(parents)
                    parents += [first_row + beam for beam in search.advance(of_search)]
                    # A dead beam, without ids, appends any token.
                    tokens += [beam.ids[-1] if beam.ids else 0 for beam in search.beams]
                if all(search.done for search in searches):
                    return [search.complete[:num_samples] for search in searches]
                # Beams whose parents died out are dropped from the cache, and others are copied.
                context.select(torch.tensor(parents, device=model.device))
                logits = context.append(torch.tensor(tokens, device=model.device)[:, None])[:, 0]

    def score(self, total: float, n_tokens: int) -> float:
        """Score a text of `n_tokens` new tokens whose log-probabilities sum to `total`."""
        return total / n_tokens**self.length_penalty


class _Search:
    """The search for one prompt."""

    def __init__(
        self,
        strategy: BeamSearch,
        max_new_tokens: int,
        eos_id: int | None,
        stop: Stop | None,
        unused: Tensor | None,
    ) -> None:
        self.strategy = strategy
        self.max_new_tokens = max_new_tokens
        self.eos_id = eos_id
        self.stop = stop
        self.unused = unused
        # The first step has one candidate, the empty one: copies of it would all be extended alike.
        self.beams = [_Beam([], [], 0.0)] + [_DEAD] * (strategy.n_beams - 1)
        # The n_beams best complete texts, best first.
        self.complete: list[Continuation] = []
        self.done = False

    def advance(self, logprobs: Tensor) -> list[int]:
        """Extend the beams by one token, given logprobs (n_beams, V).

        Returns the number of the beam that each new one extends.
        """
        n_beams, vocab_size = logprobs.shape
        # The rows of a finished prompt are carried along until all prompts are done.
        if self.done:
            return list(range(n_beams))
        possible = filters.without(logprobs, self.unused)
        so_far = torch.tensor([[beam.total] for beam in self.beams], device=logprobs.device)
        flat = (possible + so_far).flatten()  # (n_beams * V,)
        # Twice as many as needed: each beam has one end-of-text token, so at least n_beams of these
        # are other tokens. Of equal ones `top_k` keeps the first, so that the result does not
        # depend on torch's order of equal numbers.
        kept = filters.top_k(flat[None], 2 * n_beams)[0]
        places = kept.isfinite().nonzero()[:, 0]
        ranked, order = flat[places].sort(descending=True, stable=True)
        places = places[order]
        own = logprobs.flatten()[places]
        beams: list[_Beam] = []
        parents: list[int] = []
        columns = zip(ranked.tolist(), places.tolist(), own.tolist(), strict=True)
        for rank, (total, place, logprob) in enumerate(columns):
            parent, token = divmod(place, vocab_size)
            old = self.beams[parent]
            beam = _Beam([*old.ids, token], [*old.logprobs, logprob], total)
            reason = finish_reason(
                beam.ids, max_new_tokens=self.max_new_tokens, eos_id=self.eos_id, stop=self.stop
            )
            # A complete text counts only if it ranks among the beams, as in transformers; one that
            # reaches the length limit is kept below.
            if reason in ("end_of_text", "stop"):
                if rank < n_beams:
                    self._keep(beam, reason)
            elif len(beams) < n_beams:
                beams.append(beam)
                parents.append(parent)
        length = len(self.beams[0].ids) + 1
        # A stop string may end many candidates of a beam at once, leaving fewer than n_beams.
        n_dead = n_beams - len(beams)
        self.beams = beams + [_DEAD] * n_dead
        if length == self.max_new_tokens:
            for beam in beams:
                self._keep(beam, "length")
        self.done = length == self.max_new_tokens or self._is_decided(length)
        return parents + [0] * n_dead

    def _keep(self, beam: _Beam, reason: Literal["end_of_text", "stop", "length"]) -> None:
        """Keep a complete text, if it is one of the n_beams best."""
        if beam.total > -torch.inf:
            score = self.strategy.score(beam.total, len(beam.ids))
            self.complete.append(Continuation(beam.ids, beam.logprobs, reason, score))
            # Stable: of equal scores the one that was complete first stays ahead.
            self.complete.sort(key=lambda c: -(c.score or 0.0))
            del self.complete[self.strategy.n_beams :]

    def _is_decided(self, length: int) -> bool:
        """Whether no beam of `length` new tokens can change the result."""
        best = max(beam.total for beam in self.beams)
        if best == -torch.inf:
            return True
        if len(self.complete) < self.strategy.n_beams:
            return False
        if self.strategy.early_stopping:
            return True
        # Totals only fall. A positive penalty favours long texts, so the best score that a beam can
        # still reach is its present total at the full length.
        length_then = self.max_new_tokens if self.strategy.length_penalty > 0 else length
        return self.strategy.score(best, length_then) <= (self.complete[-1].score or 0.0)
