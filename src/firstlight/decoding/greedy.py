"""Greedy decoding: always the most probable token."""

from torch import Generator, Tensor

from firstlight.decoding.base import Decoding


class Greedy(Decoding):
    """The most probable token of each row; draws nothing."""

    def next_token(self, logits: Tensor, generator: Generator | None = None) -> Tensor:
        return logits.argmax(dim=-1)  # (B, V) -> (B,)
