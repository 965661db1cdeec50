"""Windows over a token sequence, gathered one batch at a time."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

CHUNK = 2**20
"""Tokens that are read together when all of them are."""


class Windows(Dataset[tuple[Tensor, Tensor]], ABC):
    """Windows of `context_length` inputs and targets over a sequence of tokens.

    Targets are the inputs shifted by one token. An index is a batch of window numbers (B,). The
    tokens after the last window form one more, shorter window, which `len` does not count: the
    batch `rest_index` is that window alone.
    """

    context_length: int
    stride: int
    """Tokens from one window to the next."""
    n_tokens: int
    n_rest: int
    """Number of predictions in the shorter window at the end."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, (B, T) each, int64."""

    @abstractmethod
    def without_overlap(self) -> "Windows":
        """Return windows over the same tokens of which none has a token of another."""

    @abstractmethod
    def chunks(self) -> Iterator[np.ndarray]:
        """Yield all tokens in their order, some (n,) at a time."""

    @property
    def n_predictions(self) -> int:
        """Number of tokens that could be predicted: all but the first."""
        return self.n_tokens - 1

    @property
    def rest_index(self) -> Tensor:
        """The batch (1,) that selects the shorter window at the end."""
        return torch.tensor([len(self)])

    def is_rest(self, index: Tensor | np.ndarray) -> bool:
        """Whether `index` is `rest_index`."""
        return len(index) == 1 and index.item() == len(self)


class TensorWindows(Windows):
    """Windows over ids (N,) in memory, one every `stride` tokens."""

    def __init__(self, ids: Tensor, *, context_length: int, stride: int) -> None:
        self.ids = ids
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
        self.n_tokens = len(ids)
        self.n_rest = max(len(self.rest) - 1, 0)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        chunk = self.rest[None] if self.is_rest(index) else self.windows[index]
        chunk = chunk.long()  # (B, T + 1); ids are stored as int32, and embeddings take int64
        return chunk[:, :-1], chunk[:, 1:]

    def without_overlap(self) -> Windows:
        return TensorWindows(
            self.ids, context_length=self.context_length, stride=self.context_length
        )

    def chunks(self) -> Iterator[np.ndarray]:
        for part in self.ids.split(CHUNK):
            yield part.numpy()
