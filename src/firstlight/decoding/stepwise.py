"""The loop of strategies that choose one token at a time."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from firstlight.decoding import filters
from firstlight.decoding.base import Continuation, Decoding, Stop, derived_seed, finish_reason
from firstlight.decoding.context import Context, evaluating
from firstlight.model.base import LanguageModel


class Token(NamedTuple):
    """A chosen token, as it is streamed."""

    row: int
    """The row of prompt `row // num_samples` and sample `row % num_samples`."""
    id: int
    logprob: float
    """Its log-probability (natural) under the model, before temperature and filters."""
    finish_reason: Literal["end_of_text", "stop", "length"] | None
    """Set for the last token of a row."""


@dataclass
class _Row:
    """A row that is not complete yet."""

    ids: list[int]
    n_prompt: int
    generator: Generator
    number: int

    @property
    def new_ids(self) -> list[int]:
        return self.ids[self.n_prompt :]


class Stepwise(Decoding):
    """One token at a time, each chosen from the logits after all tokens before it."""

    @abstractmethod
    def next_token(
        self, logits: Tensor, rows: Sequence[Sequence[int]], generators: Sequence[Generator]
    ) -> Tensor:
        """Choose ids (B,) from logits (B, V); a logit of minus infinity rules an id out.

        `rows` are the ids so far, including the prompts. Random draws for a row use only its own
        generator, so that its text does not depend on the other rows.
        """

    def generate(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        *,
        num_samples: int = 1,
        **options: Any,
    ) -> list[list[Continuation]]:
        tokens = self.stream(model, prompts, num_samples=num_samples, **options)
        return gather(tokens, len(prompts), num_samples)

    @torch.inference_mode()
    def stream(
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
        make_context: Callable[[LanguageModel, Sequence[Sequence[int]]], Context] = Context,
    ) -> Iterator[Token]:
        """Yield each token as it is chosen; the arguments are those of `Decoding.generate`.

        `make_context` may make a faster `Context` with the same logits.
        """
        rows = _rows(prompts, num_samples, seeds, model.device)
        if unused is not None:
            unused = unused.to(model.device)
        with evaluating(model):
            # Each prompt is computed once, then copied for its samples.
            context = make_context(model, prompts)
            logits = context.start()  # (P, V)
            if num_samples > 1:
                copies = torch.arange(len(prompts), device=model.device).repeat_interleave(
                    num_samples
                )
                context.select(copies)
                logits = logits[copies]  # (B, V)
            while True:
                possible = filters.without(logits, unused)  # (B, V)
                generators = [row.generator for row in rows]
                chosen = self.next_token(possible, [row.ids for row in rows], generators)  # (B,)
                columns = zip(rows, chosen.tolist(), logprobs(logits, chosen).tolist(), strict=True)
                # Report the tokens, and see which rows continue.
                live = []
                for place, (row, token, logprob) in enumerate(columns):
                    row.ids.append(token)
                    reason = finish_reason(
                        row.new_ids, max_new_tokens=max_new_tokens, eos_id=eos_id, stop=stop
                    )
                    if reason is None:
                        live.append(place)
                    yield Token(row.number, token, logprob, reason)
                if not live:
                    return
                # Complete rows leave the batch, so that the others get faster.
                if len(live) < len(rows):
                    rows = [rows[place] for place in live]
                    kept = torch.tensor(live, device=model.device)
                    context.select(kept)
                    chosen = chosen[kept]
                logits = context.append(chosen[:, None])[:, 0]


def _rows(
    prompts: Sequence[Sequence[int]],
    num_samples: int,
    seeds: Sequence[int] | None,
    device: torch.device,
) -> list[_Row]:
    if not seeds:
        seeds = [derived_seed(0, prompt=number) for number in range(len(prompts))]
    rows: list[_Row] = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        for sample in range(num_samples):
            generator = torch.Generator(device).manual_seed(derived_seed(seed, sample=sample))
            rows.append(_Row(list(prompt), len(prompt), generator, number=len(rows)))
    return rows


def gather(tokens: Iterator[Token], n_prompts: int, num_samples: int) -> list[list[Continuation]]:
    """Collect streamed tokens into continuations, `num_samples` for each prompt."""
    rows = [Continuation() for _ in range(n_prompts * num_samples)]
    for token in tokens:
        row = rows[token.row]
        row.ids.append(token.id)
        row.logprobs.append(token.logprob)
        if token.finish_reason is not None:
            row.finish_reason = token.finish_reason
    return [rows[first : first + num_samples] for first in range(0, len(rows), num_samples)]


def logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probabilities (B,) that logits (B, V) give to ids (B,), in float32."""
    # Only the chosen entries of log_softmax, without a second (B, V) tensor.
    logits = logits.float()
    return logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(dim=-1)  # (B,)


def draw(probabilities: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Draw ids (B,) from probabilities (B, V), each with the generator of its row."""
    # One call per row, because torch.multinomial takes one generator.
    drawn: list[Tensor] = []
    for row, generator in zip(probabilities, generators, strict=True):
        drawn.append(torch.multinomial(row, num_samples=1, generator=generator))  # (1,)
    return torch.cat(drawn)  # (B,)
