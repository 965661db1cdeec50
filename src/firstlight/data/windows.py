"""Windows over a token sequence: views, gathered one batch at a time."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of `context_length` inputs and targets over ids (N,), one every `stride` tokens.

    Targets are the inputs shifted by one token. An index is a batch of window numbers (B,). The
    tokens after the last window form one more, shorter window, which `len` does not count: the
    batch `rest_index` is that window alone.
    """

    def __init__(self, ids: Tensor, *, context_length: int, stride: int) -> None:
        self.context_length, self.stride = context_length, stride
        if len(ids) > context_length:
            # One token more than T, so that inputs and targets are slices of one window. A view:
            # overlapping windows take no memory.
            self.windows = ids.unfold(0, context_length + 1, stride)  # (N,) -> (n, T + 1)
            last_target = (len(self.windows) - 1) * stride + context_length
        else:
            self.windows = ids.new_empty(0, context_length + 1)
            last_target = 0
        # The last target has been predicted, and is the first input of the rest.
        self.rest = ids[last_target:]  # (n_rest + 1,)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        is_rest = len(index) == 1 and index.item() == len(self)
        chunk = self.rest[None] if is_rest else self.windows[index]
        chunk = chunk.long()  # (B, T + 1); ids are stored as int32, and embeddings take int64
        return chunk[:, :-1], chunk[:, 1:]

    @property
    def n_rest(self) -> int:
        """Number of predictions in the shorter window at the end."""
        return max(len(self.rest) - 1, 0)

    @property
    def rest_index(self) -> Tensor:
        """The batch (1,) that selects the shorter window at the end."""
        return torch.tensor([len(self)])
