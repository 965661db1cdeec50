"""Sampling with top-k and temperature, in the order of the book's chapter 5: filter, then temperature."""

import torch
from pydantic import PositiveInt
from torch import Generator, Tensor

from firstlight.config import FiniteNonNegative
from firstlight.decoding import filters
from firstlight.decoding.base import Decoding
from firstlight.model.base import LanguageModel


class Sample(Decoding):
    """Draw from softmax(logits / temperature) over the `top_k` most probable tokens; temperature 0 is greedy."""

    def __init__(self, *, temperature: FiniteNonNegative = 1.0, top_k: PositiveInt | None = None) -> None:
        self.temperature = temperature
        self.top_k = top_k

    def check(self, model: LanguageModel) -> None:
        if self.top_k is not None and self.top_k > model.vocab_size:
            raise ValueError(f"top_k ({self.top_k}) must be at most the vocabulary, {model.vocab_size}")

    def probabilities(self, logits: Tensor) -> Tensor:
        """What each token of logits (B, V) is drawn with, (B, V), in float32."""
        if self.top_k is not None:
            logits = filters.top_k(logits, self.top_k)
        return torch.softmax(logits.float() / self.temperature, dim=-1)

    def next_token(self, logits: Tensor, generator: Generator | None = None) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        return torch.multinomial(self.probabilities(logits), num_samples=1, generator=generator)[:, 0]  # (B,)
