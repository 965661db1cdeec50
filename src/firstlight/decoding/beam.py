"""Beam search (Lowerre 1976; with length normalisation as in Wu et al. 2016, without their
constant).
"""

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
    """A candidate: new ids and the log-probability of each."""

    ids: list[int]
    logprobs: list[float]
    total: float
    """Sum of `logprobs`, in the rounding by which it was ranked."""


_DEAD = _Beam([], [], -torch.inf)
"""Fills a place for which there is no candidate."""

LengthPenalty = Annotated[float, Field(ge=-10, le=10)]
"""In this range no power of a length overflows."""


class BeamSearch(Decoding):
    """At each position the `n_beams` most probable candidates are extended; complete ones are set
    aside.

    The score of a text is (sum of log-probabilities) / (number of new tokens) ** length_penalty.
    The search for a prompt ends as soon as `n_beams` texts are complete or, without
    `early_stopping`, when no candidate can score better than the worst of them. It returns the
    `num_samples` best.
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
        self.early_stopping = (
            early_stopping or n_beams == 1
        )  # one beam is greedy decoding, and ends like it

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
            context = Context(model, prompts)
            logits = context.start()  # (P, V)
            context.select(
                torch.arange(len(prompts), device=model.device).repeat_interleave(self.n_beams)
            )
            logits = logits.repeat_interleave(self.n_beams, dim=0)  # (P * n_beams, V)
            while True:
                parents: list[int] = []  # for each new beam the row that it extends
                tokens: list[int] = []
                logprobs = logits.float().log_softmax(dim=-1).split(self.n_beams)
                for search, of_search in zip(searches, logprobs, strict=True):
                    first_row = len(parents)
                    parents += [first_row + beam for beam in search.advance(of_search)]
                    tokens += [beam.ids[-1] if beam.ids else 0 for beam in search.beams]
                if all(search.done for search in searches):
                    return [search.complete[:num_samples] for search in searches]
                context.select(torch.tensor(parents, device=model.device))
                logits = context.append(torch.tensor(tokens, device=model.device)[:, None])[:, 0]

    def score(self, total: float, n_tokens: int) -> float:
        """The score of a text of `n_tokens` new tokens whose log-probabilities sum to `total`."""
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
        self.beams = [_Beam([], [], 0.0)] + [_DEAD] * (strategy.n_beams - 1)
        self.complete: list[Continuation] = []  # the best n_beams, best first
        self.done = False

    def advance(self, logprobs: Tensor) -> list[int]:
        """Extend the beams by one token, given logprobs (n_beams, V); return which beam each new
        one extends.
        """
        n_beams, vocab_size = logprobs.shape
        if self.done:  # carried along until the other prompts are done
            return list(range(n_beams))
        possible = filters.without(logprobs, self.unused)
        totals = possible + torch.tensor(
            [[beam.total] for beam in self.beams], device=logprobs.device
        )
        # Twice as many as needed: end-of-text is one token of each beam, so at least n_beams others
        # are among them.
        flat = totals.flatten()
        places = (
            filters.top_k(flat[None], 2 * n_beams)[0].isfinite().nonzero()[:, 0]
        )  # of equal ones the first
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
            if reason in ("end_of_text", "stop"):
                if rank < n_beams:
                    self._keep(beam, reason)
            elif len(beams) < n_beams:
                beams.append(beam)
                parents.append(parent)
        length = len(self.beams[0].ids) + 1
        n_dead = n_beams - len(beams)  # a stop string may end many candidates of a beam at once
        self.beams = beams + [_DEAD] * n_dead
        if length == self.max_new_tokens:
            for beam in beams:
                self._keep(beam, "length")
        self.done = length == self.max_new_tokens or self._is_decided(length)
        return parents + [0] * n_dead

    def _keep(self, beam: _Beam, reason: Literal["end_of_text", "stop", "length"]) -> None:
        if beam.total > -torch.inf:
            score = self.strategy.score(beam.total, len(beam.ids))
            self.complete.append(Continuation(beam.ids, beam.logprobs, reason, score))
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
        # A positive penalty favours long texts, so the best that a beam can reach is its total at
        # the full length.
        length_then = self.max_new_tokens if self.strategy.length_penalty > 0 else length
        return self.strategy.score(best, length_then) <= (self.complete[-1].score or 0.0)
