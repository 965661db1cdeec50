"""Sampling in the order of the book's chapter 5: filters first, then temperature."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from firstlight.config import PositiveShare, VocabSize
from firstlight.decoding import filters
from firstlight.decoding.stepwise import Stepwise, draw
from firstlight.model.base import LanguageModel

COLDEST = 1e-30
"""Below this temperature logits would overflow; far above it, sampling is already greedy."""
Temperature = Annotated[float, Field(ge=0, le=1000)]
"""At the upper end all tokens are about equally probable; 0 is greedy."""
RepetitionPenalty = Annotated[float, Field(ge=0.01, le=100)]
"""Within this range no logit overflows."""


class Sample(Stepwise):
    """Draw from softmax(logits / temperature) over the tokens that pass the filters.

    The order is `repetition_penalty` (for every token of the row so far), `top_k`, `top_p`,
    `min_p`, `temperature`. So `top_p` and `min_p` refer to the model's own probabilities, whatever
    the temperature. A temperature of 0 is greedy.
    """

    def __init__(
        self,
        *,
        temperature: Temperature = 1.0,
        top_k: VocabSize | None = None,
        top_p: PositiveShare | None = None,
        min_p: PositiveShare | None = None,
        repetition_penalty: RepetitionPenalty | None = None,
    ) -> None:
        self.draws = temperature > 0 and top_k != 1
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.min_p = min_p
        self.repetition_penalty = repetition_penalty

    def check(self, model: LanguageModel, num_samples: int = 1) -> None:
        super().check(model, num_samples)
        if self.top_k is not None and self.top_k > model.vocab_size:
            raise ValueError(
                f"top_k ({self.top_k}) must be at most the vocabulary, {model.vocab_size}"
            )

    def probabilities(self, logits: Tensor, rows: Sequence[Sequence[int]] | None = None) -> Tensor:
        """Compute the probabilities (B, V) of drawing each token, from logits (B, V), in float32.

        `rows` are the ids so far, for the repetition penalty.
        """
        logits = self._filtered(logits, rows)
        if self.temperature == 0:
            return torch.zeros_like(logits).scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
        return torch.softmax(logits / max(self.temperature, COLDEST), dim=-1)  # (B, V)

    def next_token(
        self, logits: Tensor, rows: Sequence[Sequence[int]], generators: Sequence[Generator]
    ) -> Tensor:
        if self.temperature == 0:
            return self._filtered(logits, rows).argmax(dim=-1)
        return draw(self.probabilities(logits, rows), generators)  # (B,)

    def _filtered(self, logits: Tensor, rows: Sequence[Sequence[int]] | None) -> Tensor:
        """Apply the penalty and the filters, in float32, to logits (B, V)."""
        logits = logits.float()
        if self.repetition_penalty is not None and rows is not None:
            logits = filters.repetition_penalty(logits, seen(rows, logits), self.repetition_penalty)
        if self.top_k is not None:
            logits = filters.top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = filters.top_p(logits, self.top_p)
        if self.min_p is not None:
            logits = filters.min_p(logits, self.min_p)
        return logits


def seen(rows: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    """Return a mask like logits (B, V) of the ids that occur in each of `rows`."""
    mask = torch.zeros_like(logits, dtype=torch.bool)
    for row, ids in enumerate(rows):
        mask[row, torch.tensor(ids, device=logits.device)] = True
    return mask
