"""Windows of a token sequence, cut as views and gathered a batch at a time."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Inputs and targets from ids (N,), in windows of `context_length`, one every `stride` tokens.

    Targets are the inputs one token later. The index is a batch of window numbers (B,). The tokens
    after the last window make one more, shorter window, which is not counted: the batch
    `rest_index` is that window alone.
    """

    def __init__(self, ids: Tensor, *, context_length: int, stride: int) -> None:
        self.context_length, self.stride = context_length, stride
        if len(ids) > context_length:
            self.windows = ids.unfold(0, context_length + 1, stride)  # (N,) -> (n, T + 1), a view
            last_target = (len(self.windows) - 1) * stride + context_length
        else:
            self.windows = ids.new_empty(0, context_length + 1)
            last_target = 0
        self.rest = ids[
            last_target:
        ]  # (n_rest + 1,): the last target is the first input of the rest

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        is_rest = len(index) == 1 and index.item() == len(self)
        chunk = (self.rest[None] if is_rest else self.windows[index]).long()  # (B, T + 1)
        return chunk[:, :-1], chunk[:, 1:]

    @property
    def n_rest(self) -> int:
        """Predictions in the shorter window after the last one."""
        return max(len(self.rest) - 1, 0)

    @property
    def rest_index(self) -> Tensor:
        """The batch (1,) of the shorter window after the last one."""
        return torch.tensor([len(self)])
