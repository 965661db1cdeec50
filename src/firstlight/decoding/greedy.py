"""Greedy decoding: always the most probable token."""

from collections.abc import Sequence

from torch import Generator, Tensor

from firstlight.decoding.stepwise import Stepwise


class Greedy(Stepwise):
    """Choose the most probable token of each row."""

    def next_token(
        self, logits: Tensor, rows: Sequence[Sequence[int]], generators: Sequence[Generator]
    ) -> Tensor:
        return logits.argmax(dim=-1)  # (B, V) -> (B,)
