"""Which windows make up a batch, and the random numbers that training draws for it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from firstlight.config import Seed


class Order(ABC):
    """The order of windows, in batches of indices (B,) over all processes."""

    resumable: bool
    """Whether the order is a function of the position, so that a run can be resumed anywhere."""

    @abstractmethod
    def train_batches(
        self, n_windows: int, *, batch_size: int, shuffle: bool, drop_last: bool, start: int
    ) -> Iterator[Tensor]:
        """Batches of indices from batch number `start` on, epoch after epoch, without end."""

    @abstractmethod
    def eval_batches(
        self, n_windows: int, *, batch_size: int, split: str, limit: int | None
    ) -> Iterator[Tensor]:
        """At most `limit` batches of indices for one evaluation of `split` ("train", "val", "test"
        or "all").
        """

    @abstractmethod
    def seed_batch(self, batch: int, rank: int, device: torch.device) -> None:
        """Set the generators that dropout draws from, for batch number `batch` of the run."""


class SeededOrder(Order):
    """Order = f(seed, epoch), random numbers = f(seed, batch, rank): functions of the position, so
    nothing is saved.

    The training split is evaluated on the same windows every time, spread evenly over it.
    """

    resumable = True

    def __init__(self, *, seed: Seed) -> None:
        self.seed = seed

    def train_batches(
        self, n_windows: int, *, batch_size: int, shuffle: bool, drop_last: bool, start: int
    ) -> Iterator[Tensor]:
        per_epoch = batches_per_epoch(n_windows, batch_size, drop_last)
        epoch, first = divmod(start, per_epoch)
        while True:
            generator = torch.Generator().manual_seed(_key(self.seed, "epoch", epoch))
            order = (
                torch.randperm(n_windows, generator=generator)
                if shuffle
                else torch.arange(n_windows)
            )
            yield from order.split(batch_size)[first:per_epoch]
            epoch, first = epoch + 1, 0

    def eval_batches(
        self, n_windows: int, *, batch_size: int, split: str, limit: int | None
    ) -> Iterator[Tensor]:
        kept = n_windows if limit is None else min(n_windows, limit * batch_size)
        indices = torch.arange(kept)
        if split == "train":
            indices = indices * n_windows // kept
        yield from indices.split(batch_size)

    def seed_batch(self, batch: int, rank: int, device: torch.device) -> None:
        key = _key(self.seed, "batch", batch, rank)
        torch.default_generator.manual_seed(
            key
        )  # 1 us; torch.manual_seed visits every device and takes 100
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(key)
        elif device.type == "mps":
            torch.mps.manual_seed(key)


class BookOrder(Order):
    """The book's chapter 5: one global generator for everything, used as torch's DataLoader uses
    it.

    Every evaluation draws a new permutation of the training split, so it changes what training sees
    next. A run cannot be resumed in the middle, because its position is the state of that
    generator.
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

    def seed_batch(self, batch: int, rank: int, device: torch.device) -> None:
        """Do nothing: the global generator runs on."""


def batches_per_epoch(n_windows: int, batch_size: int, drop_last: bool) -> int:
    """Batches of one pass over `n_windows`."""
    return n_windows // batch_size if drop_last else -(-n_windows // batch_size)


def _loader(
    n_windows: int, batch_size: int, *, shuffle: bool, drop_last: bool
) -> DataLoader[Tensor]:
    """Batches of indices, with the draws that torch's DataLoader makes over the windows
    themselves."""
    return DataLoader(range(n_windows), batch_size, shuffle=shuffle, drop_last=drop_last)  # type: ignore[arg-type]


def _key(*parts: object) -> int:
    """A 63-bit seed, unrelated to the seeds of similar parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
