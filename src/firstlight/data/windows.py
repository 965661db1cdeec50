"""Windows of a token sequence, cut as views and gathered a batch at a time."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of inputs and targets from ids (N,): windows of `context_length`, one every `stride` tokens.

    Targets are the inputs one token later. Indexed by a batch of indices (B,), not one by one. What follows the last
    window is one more, shorter window, which does not count as one of them: a batch of its own, `rest_index`.
    """

    def __init__(self, ids: Tensor, *, context_length: int, stride: int) -> None:
        self.context_length, self.stride = context_length, stride
        if len(ids) > context_length:
            self.windows = ids.unfold(0, context_length + 1, stride)  # (N,) -> (n, T + 1), a view
            predicted = (len(self.windows) - 1) * stride + context_length
        else:
            self.windows = ids.new_empty(0, context_length + 1)
            predicted = 0
        self.rest = ids[predicted:]  # (n_rest + 1,): the first of them is predicted, but nothing was predicted from it

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        is_rest = len(index) == 1 and index.item() == len(self)
        chunk = (self.rest[None] if is_rest else self.windows[index]).long()  # (B, T + 1)
        return chunk[:, :-1], chunk[:, 1:]

    @property
    def n_rest(self) -> int:
        """Predictions of the tokens after the last window: fewer than a window's, or than a stride's."""
        return max(len(self.rest) - 1, 0)

    @property
    def rest_index(self) -> Tensor:
        """The batch (1,) that is the shorter window after the last one."""
        return torch.tensor([len(self)])
