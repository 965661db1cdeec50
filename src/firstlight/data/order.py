"""Which windows make up each batch, and which random numbers training draws for it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from firstlight.config import Seed
from firstlight.data.permutation import AT_ONCE, Permutation, hashed

MOST_STORED = 2**24
"""Windows of an epoch whose order is stored: 128 MB. Of more it is computed, batch by batch."""


class Order(ABC):
    """The order of windows: batches of indices (B,), for all processes together."""

    resumable: bool
    """Whether the order is a function of the position, so that a run can resume at any step."""
    seed: int | None = None
    """What the order follows from; None: from torch's global generator."""

    @abstractmethod
    def train_batches(
        self, n_windows: int, *, batch_size: int, shuffle: bool, drop_last: bool, start: int
    ) -> Iterator[Tensor]:
        """Yield batches of indices from batch number `start`, epoch after epoch, endlessly."""

    @abstractmethod
    def eval_batches(
        self, n_windows: int, *, batch_size: int, split: str, limit: int | None
    ) -> Iterator[Tensor]:
        """Yield at most `limit` batches of indices for one evaluation of `split`.

        `split` is "train", "val", "test" or "all"; `limit=None` yields all batches.
        """

    @abstractmethod
    def seed_batch(self, batch: int, shard: int, device: torch.device) -> None:
        """Seed the generators that dropout draws from, for a shard of batch `batch` of the run."""


class SeededOrder(Order):
    """The order as a function of (seed, epoch), and dropout's seed of (seed, batch, shard).

    Nothing has to be saved to resume a run. The training split is evaluated on the same windows
    every time, spread evenly over it, and so is the test split.
    """

    resumable = True

    def __init__(self, *, seed: Seed) -> None:
        self.seed = seed

    def train_batches(
        self, n_windows: int, *, batch_size: int, shuffle: bool, drop_last: bool, start: int
    ) -> Iterator[Tensor]:
        per_epoch = batches_per_epoch(n_windows, batch_size, drop_last)
        epoch, first = divmod(start, per_epoch)
        # With drop_last the last, smaller batch is left out.
        end = min(per_epoch * batch_size, n_windows)
        # Whole batches, so that a batch is the same wherever reading began.
        at_once = math.ceil(AT_ONCE / batch_size) * batch_size
        while True:
            windows = self._order_of(n_windows, epoch) if shuffle else torch.arange
            # Only the first epoch begins in the middle.
            for place in range(first * batch_size, end, at_once):
                yield from windows(place, min(place + at_once, end)).split(batch_size)
            epoch, first = epoch + 1, 0

    def _order_of(self, n_windows: int, epoch: int) -> Callable[[int, int], Tensor]:
        """Return a function that tells which windows have the places `first` to `end`."""
        if n_windows <= MOST_STORED:
            generator = torch.Generator().manual_seed(_key(self.seed, "epoch", epoch))
            order = torch.randperm(n_windows, generator=generator)
            return lambda first, end: order[first:end]
        permutation = Permutation(n_windows, self.seed, "epoch", epoch)
        return lambda first, end: torch.from_numpy(permutation(np.arange(first, end)))

    def eval_batches(
        self, n_windows: int, *, batch_size: int, split: str, limit: int | None
    ) -> Iterator[Tensor]:
        kept = n_windows if limit is None else min(n_windows, limit * batch_size)
        for first in range(0, kept, batch_size):
            places = range(first, min(first + batch_size, kept))
            if split in ("train", "test"):
                # Python's integers: a product of two numbers of windows may exceed 64 bits.
                yield torch.tensor([place * n_windows // kept for place in places])
            else:
                yield torch.arange(places.start, places.stop)

    def seed_batch(self, batch: int, shard: int, device: torch.device) -> None:
        key = _key(self.seed, "batch", batch, shard)
        # Not torch.manual_seed, which visits every device: 100 us a batch instead of 1.
        torch.default_generator.manual_seed(key)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(key)
        elif device.type == "mps":
            torch.mps.manual_seed(key)


class BookOrder(Order):
    """The book's order (chapter 5): torch's DataLoader drawing from the global generator.

    Every evaluation draws a new permutation of the training split, which changes what training
    sees next. A run cannot resume in the middle: its position is the state of that generator.
    """

    resumable = False

    def train_batches(
        self, n_windows: int, *, batch_size: int, shuffle: bool, drop_last: bool, start: int
    ) -> Iterator[Tensor]:
        assert start == 0, "not resumable"
        while True:
            yield from _loader(n_windows, batch_size, shuffle=shuffle, drop_last=drop_last)

    def eval_batches(
        self, n_windows: int, *, batch_size: int, split: str, limit: int | None
    ) -> Iterator[Tensor]:
        is_train = split == "train"
        yield from islice(
            _loader(n_windows, batch_size, shuffle=is_train, drop_last=is_train), limit
        )

    def seed_batch(self, batch: int, shard: int, device: torch.device) -> None:
        """Do nothing: dropout draws from the global generator as well."""


def batches_per_epoch(n_windows: int, batch_size: int, drop_last: bool) -> int:
    """Count the batches of one pass over `n_windows`."""
    return n_windows // batch_size if drop_last else math.ceil(n_windows / batch_size)


def _loader(
    n_windows: int, batch_size: int, *, shuffle: bool, drop_last: bool
) -> DataLoader[Tensor]:
    """Load batches of indices, with the same draws as a DataLoader over the windows."""
    return DataLoader(range(n_windows), batch_size, shuffle=shuffle, drop_last=drop_last)  # type: ignore[arg-type]


def _key(*parts: object) -> int:
    """Hash `parts` to a 63-bit seed, unrelated to those of similar parts."""
    return int.from_bytes(hashed(*parts)[:8], "little") >> 1
