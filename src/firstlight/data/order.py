"""Which windows make up a batch, and which random numbers training draws in it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from firstlight.config import Seed


class Order(ABC):
    """The order of windows, in batches of indices (B,) over all processes."""

    resumable: bool
    """Is the order a function of the position, so that a run can be continued anywhere?"""

    @abstractmethod
    def train_batches(
        self, n_windows: int, *, batch_size: int, shuffle: bool, drop_last: bool, start: int
    ) -> Iterator[Tensor]:
        """Batches of indices from batch number `start` on, epoch after epoch, without an end."""

    @abstractmethod
    def eval_batches(self, n_windows: int, *, batch_size: int, split: str, limit: int | None) -> Iterator[Tensor]:
        """Batches of indices for one evaluation of `split` ("train", "val" or "test"), `limit` of them at most."""

    @abstractmethod
    def seed_batch(self, batch: int, rank: int, device: torch.device) -> None:
        """Set the generators that dropout draws from, for the batch number `batch` of the run."""


class SeededOrder(Order):
    """Order = f(seed, epoch), random numbers = f(seed, batch, rank): position is a function, so nothing is saved.

    The training split is evaluated on windows spread evenly over it, the same ones every time.
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
            order = torch.randperm(n_windows, generator=generator) if shuffle else torch.arange(n_windows)
            yield from order.split(batch_size)[first:per_epoch]
            epoch, first = epoch + 1, 0

    def eval_batches(self, n_windows: int, *, batch_size: int, split: str, limit: int | None) -> Iterator[Tensor]:
        kept = n_windows if limit is None else min(n_windows, limit * batch_size)
        first_ones = torch.arange(kept)
        spread = first_ones * n_windows // kept
        yield from (spread if split == "train" else first_ones).split(batch_size)

    def seed_batch(self, batch: int, rank: int, device: torch.device) -> None:
        key = _key(self.seed, "batch", batch, rank)
        torch.default_generator.manual_seed(key)  # 1 us; torch.manual_seed, which visits every device, takes 100
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(key)
        elif device.type == "mps":
            torch.mps.manual_seed(key)


class BookOrder(Order):
    """The book's chapter 5: one global generator for everything, drawn from as torch's DataLoader draws.

    Every evaluation takes a new permutation of the training split, so it changes what training sees next; a run
    cannot be continued in the middle, because its position is the state of that generator.
    """

    resumable = False

    def train_batches(
        self, n_windows: int, *, batch_size: int, shuffle: bool, drop_last: bool, start: int
    ) -> Iterator[Tensor]:
        assert start == 0, "not resumable"
        while True:
            yield from DataLoader(_Indices(n_windows), batch_size, shuffle=shuffle, drop_last=drop_last)

    def eval_batches(self, n_windows: int, *, batch_size: int, split: str, limit: int | None) -> Iterator[Tensor]:
        is_train = split == "train"
        loader = DataLoader(_Indices(n_windows), batch_size, shuffle=is_train, drop_last=is_train)
        yield from islice(loader, limit)

    def seed_batch(self, batch: int, rank: int, device: torch.device) -> None:
        """Nothing: the global generator runs on."""


def batches_per_epoch(n_windows: int, batch_size: int, drop_last: bool) -> int:
    """Batches of one pass over `n_windows`."""
    return n_windows // batch_size if drop_last else -(-n_windows // batch_size)


class _Indices(Dataset[int]):
    """The numbers below `n`, as a dataset: the loader draws as it would over the windows themselves."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        return index


def _key(*parts: object) -> int:
    """A 63-bit seed that nearby parts do not share."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
