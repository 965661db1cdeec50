"""Tokens to batches: windows of each split, in an order, for each process its share."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, ClassVar

import lightning.pytorch as pl
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from firstlight.config import BatchSize, ContextLength, Steps
from firstlight.data.leakage import Leakage, leakage_of
from firstlight.data.loader import Batch, WorkerLoader
from firstlight.data.order import Order, batches_per_epoch
from firstlight.data.passes import EpochLoader, EvalLoader, eval_passes, train_passes
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.data.windows import Windows

Loader = DataLoader[Batch] | WorkerLoader
Share = tuple[int, int] | tuple[int, int, int]
"""The part of each batch that a process takes: its rank, the number of processes, and of how many
shards each consists (1)."""
WHOLE: Share = (0, 1)
CUT_BY = (
    "context_length",
    "stride",
    "batch_size",
    "shuffle",
    "drop_last",
    "num_workers",
    "eval_batches",
    "untrained_eval_batches",
    "test_batches",
    "eval_last_window",
    "cache_dir",
)
"""Settings that do not decide which tokens the splits have, but how they are used, or kept."""


class TokenDataModule(pl.LightningDataModule):
    """Tokens in training, validation and test splits, served as batches of windows.

    A subclass makes the windows in `read`. `batch_size` is global: processes share it.

    Validation and test windows do not overlap, whatever the training `stride`, so that no token
    counts twice. The tokens at the end that do not fill a window form a shorter one with
    `eval_last_window`. Otherwise they are not evaluated, nor are they if `eval_batches` limits the
    evaluation.

    Raises:
        ValueError: the stride skips tokens, or the order does not allow workers.
    """

    not_in_config: ClassVar[Mapping[str, str]] = {
        "tokenizer": "the tokenizer is set by the section tokenizer",
        "order": "the order of the windows is set by the section order",
    }

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        order: Order,
        context_length: ContextLength,
        stride: ContextLength | None = None,
        batch_size: BatchSize = 8,
        shuffle: bool = True,
        drop_last: bool = True,
        num_workers: Annotated[int, Field(ge=0, le=64)] = 0,
        eval_batches: Steps | None = None,
        untrained_eval_batches: Steps | None = None,
        test_batches: Annotated[int, Field(ge=0, le=10**12)] | None = None,
        eval_last_window: bool = False,
    ) -> None:
        super().__init__()
        if stride is not None and stride > context_length:
            raise ValueError(
                f"stride ({stride}) must be at most context_length ({context_length}): a longer one"
                " skips tokens"
            )
        if num_workers > 0 and not order.resumable:
            raise ValueError(
                f"num_workers ({num_workers}) must be 0 with this order: it draws from torch's"
                " global generator, and workers that load batches ahead would draw too early"
            )
        self.tokenizer = tokenizer
        self.order = order
        self.context_length = context_length
        self.stride = stride or context_length
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.eval_batches = eval_batches
        self.untrained_eval_batches = untrained_eval_batches
        self.test_batches = test_batches
        self.eval_last_window = eval_last_window
        self.windows: dict[str, Windows] = {}
        self.notes: list[str] = []
        """Warnings about the data, found by `setup`."""
        self.left_out = ""
        """What was skipped in the user's folder although it may be text, e.g. "3 hidden"."""
        self.worker_failures: list[str] = []
        """Why workers failed; since then this process has loaded the batches itself."""
        self._leakages: dict[int | None, Leakage] = {}

    @abstractmethod
    def read(self, stage: str | None) -> dict[str, Windows]:
        """Return the windows of each split; with `stage="all"` of a single split, "all".

        Afterwards the tokenizer has its vocabulary.

        Raises:
            ValueError: there are none, or a split is too short for one window.
        """

    @abstractmethod
    def sha256(self) -> str:
        """Return a hash of all tokens, by which a resumed run knows that they are the same."""

    @classmethod
    def stored_tokenizer(cls, section: dict[str, Any]) -> tuple[dict[str, Any], Tokenizer] | None:
        """Return the tokenizer that comes with the data, and its section of the config.

        `section` is the section `data`, with paths that lead somewhere from here. None: the tokens
        are made with the tokenizer that the config names.

        Raises:
            ValueError: it cannot be read.
        """
        return None

    def setting(self) -> str:
        """Name the setting that says where the data is, with its value, for messages."""
        return "data"

    def source(self) -> str:
        """Return one line about where the data came from, or "" before it is read."""
        return ""

    def window_size(self, split: str) -> dict[str, int]:
        """Return how long the windows of a split are, and how far one begins after another."""
        stride = self.stride if split == "train" else self.context_length
        return {"context_length": self.context_length, "stride": stride}

    def setup(self, stage: str | None = None) -> None:
        """Read the data and cut it into windows; later calls do nothing.

        `stage="all"` makes a single split, "all".

        Raises:
            ValueError: a split is too short for one window, or the training split for one batch.
        """
        # Lightning calls it in every stage; the splits are made once.
        if self.windows:
            return
        self.windows = self.read(stage)
        if "train" in self.windows and self.batches_per_epoch == 0:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be at most {len(self.windows['train'])}, the"
                " number of training windows, or drop_last=false"
            )

    @property
    def batches_per_epoch(self) -> int:
        """Number of training batches in one epoch."""
        return batches_per_epoch(len(self.windows["train"]), self.batch_size, self.drop_last)

    def tokens_after(self, batches: int) -> int:
        """Return the number of training tokens in the first `batches` batches of the run."""
        epochs, rest = divmod(batches, self.batches_per_epoch)
        windows_per_epoch = len(self.windows["train"])
        # Without drop_last the last batch of an epoch is smaller, so batches cannot be multiplied.
        if self.drop_last:
            windows_per_epoch = self.batches_per_epoch * self.batch_size
        return (epochs * windows_per_epoch + rest * self.batch_size) * self.context_length

    def windows_of(self, first: int, stop: int) -> int:
        """Count the training windows of the batches numbered `first` to `stop`, without `stop`."""
        return (self.tokens_after(stop) - self.tokens_after(first)) // self.context_length

    def passes_after(self, batches: int) -> float:
        """Return how often the first `batches` batches predict each training token, on average.

        With overlapping windows (`stride`) that is more than once an epoch.
        """
        # Predictions, not tokens: the first token of a text has none before it.
        return self.tokens_after(batches) / self.windows["train"].n_predictions

    def fingerprint(self) -> dict[str, int | str]:
        """Return what a resumed run must find unchanged: the tokens, and how they are cut."""
        return {
            "sha256": self.sha256(),
            "context_length": self.context_length,
            "stride": self.stride,
            "batch_size": self.batch_size,
            "train_windows": len(self.windows["train"]),
        }

    def leakage(self, n: int | None = None) -> Leakage:
        """Compare validation with training, in n-grams of `n` tokens; see `leakage_of`.

        Both texts are read, the first time that it is asked.
        """
        if n not in self._leakages:
            found = leakage_of(self.windows, self.tokenizer, n)
            self._leakages |= {n: found, found.n: found}
        return self._leakages[n]

    def train_batches(self, *, start: int, stop: int, share: Share = WHOLE) -> Loader:
        """Load the training batches numbered `start` to `stop`, counted across epochs."""

        # A function, called for each pass: a loader may be iterated more than once.
        def batches() -> Iterator[Tensor]:
            return islice(self.train_order(start), stop - start)

        return self._loader(self.windows["train"], batches, stop, share)

    def train_order(self, start: int) -> Iterator[Tensor]:
        """Yield the training windows of each batch from number `start` on, endlessly."""
        return self.order.train_batches(
            len(self.windows["train"]),
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            start=start,
        )

    def evaluations(
        self, *, is_untrained: Callable[[], bool], share: Share = WHOLE
    ) -> list[Loader]:
        """Make the loaders of a run's evaluations: training windows, then validation windows.

        Both are iterated anew at each evaluation, and `is_untrained()` then tells whether it is
        the one before the first step. Without a limit, as many training batches are read as
        validation has.
        """

        def limit() -> int | None:
            return self.untrained_eval_batches if is_untrained() else self.eval_batches

        def train_limit() -> int:
            return limit() or self.n_eval_batches(self.windows["val"])

        # In the order of `PretrainingModule.splits`.
        return [
            self.eval_batches_of("train", train_limit, share),
            self.eval_batches_of("val", limit, share),
        ]

    @property
    def has_test(self) -> bool:
        """Whether a run scores the test split at its end."""
        return "test" in self.windows and self.test_batches != 0

    @property
    def n_final(self) -> int:
        """How many tokens of the test split a run scores at its end."""
        return self.n_scored("test", self.test_batches) if self.has_test else 0

    def final_batches(self, share: Share = WHOLE) -> Loader:
        """Load the batches of the test split that a run scores at its end."""
        limit = None if self.test_batches is None else (lambda: self.test_batches)
        return self.eval_batches_of("test", limit, share)

    def train_dataloader(self) -> EpochLoader:
        """Load an epoch a pass, for Lightning's own Trainer; our runs use `train_batches`."""
        return train_passes(self)

    def val_dataloader(self) -> EvalLoader:
        """Load all of validation, for Lightning's own Trainer."""
        return eval_passes(self, "val")

    def test_dataloader(self) -> EvalLoader:
        """Load all of the test split, for Lightning's own Trainer."""
        return eval_passes(self, "test")

    def eval_batches_of(
        self, split: str, limit: Callable[[], int | None] | None = None, share: Share = WHOLE
    ) -> Loader:
        """Load the batches of one evaluation of `split`.

        `limit` is called when the evaluation begins and returns the number of batches (None: all).
        """
        # With a limit the windows are those of training: an estimate during a run need not count
        # each token once.
        windows = self.eval_windows(split) if limit is None else self.windows[split]
        has_last_window = self.eval_last_window and windows.n_rest > 0

        def batches() -> Iterator[Tensor]:
            # Asked at each pass: the evaluation before the first step has a limit of its own.
            most = None if limit is None else limit()
            yield from self.order.eval_batches(
                len(windows), batch_size=self.batch_size, split=split, limit=most
            )
            # As a batch of its own: its window is shorter than the others.
            if most is None and has_last_window:
                yield windows.rest_index

        return self._loader(
            windows, batches, self.n_eval_batches(windows) + int(has_last_window), share
        )

    def eval_windows(self, split: str) -> Windows:
        """Return the windows for an evaluation of all of `split`.

        Training windows overlap if the stride is shorter than a window. With `eval_last_window`,
        which scores every token once, they are cut anew without overlap.
        """
        windows = self.windows[split]
        if self.eval_last_window and windows.stride < self.context_length:
            return windows.without_overlap()
        return windows

    def n_scored(self, split: str, limit: int | None = None) -> int:
        """Count the tokens scored by evaluating at most `limit` batches of `split` (None: all)."""
        if limit is not None:
            return min(len(self.windows[split]), limit * self.batch_size) * self.context_length
        windows = self.eval_windows(split)
        n_rest = windows.n_rest if self.eval_last_window else 0
        return len(windows) * self.context_length + n_rest

    def n_eval_batches(self, windows: Windows) -> int:
        """Count the batches of whole windows in one evaluation."""
        return batches_per_epoch(len(windows), self.batch_size, drop_last=False)

    def _loader(
        self, windows: Windows, batches: Callable[[], Iterator[Tensor]], length: int, share: Share
    ) -> Loader:
        # The share of a process is cut from the global batch, so that a step is the same on any
        # number of devices.
        sampler = _BatchSampler(batches, length, *share)
        if self.num_workers > 0:
            return WorkerLoader(windows, sampler, length, self.num_workers, self.worker_failures)
        return DataLoader(
            windows,
            # The sampler yields whole batches of indices, and `Windows` gathers them at once.
            batch_size=None,
            sampler=sampler,
            # Without a generator, each pass draws a seed from the global one, which training uses.
            generator=torch.Generator(),
        )

    @property
    def worker_failure(self) -> str | None:
        """Why a data worker failed, and what to do; None if none did."""
        if not self.worker_failures:
            return None
        return (
            f"a data worker {self.worker_failures[0]}; data.num_workers=0 loads batches without"
            " workers"
        )

    def summary(self) -> str:
        """Describe the data, each split's tokens and windows, and what is not evaluated."""
        lines = [self.source()] if self.source() else []
        for name, windows in self.windows.items():
            line = (
                f"{name:<5} {windows.n_tokens:>9,} tokens  {len(windows):>7,} windows of"
                f" {self.context_length}"
            )
            n_left_out = windows.n_predictions - self.n_scored(name, self.eval_batches)
            if name == "val" and n_left_out > 0:
                line += (
                    f", {n_left_out:,} of {windows.n_predictions:,} predictions are not evaluated"
                )
            lines.append(line)
        return "\n".join(lines)


class _BatchSampler(Sampler[Tensor]):
    """Yields this process's share of each batch of indices."""

    def __init__(
        self,
        batches: Callable[[], Iterator[Tensor]],
        length: int,
        rank: int,
        world_size: int,
        shards_each: int = 1,
    ) -> None:
        self.batches, self.length = batches, length
        self.rank, self.world_size, self.shards_each = rank, world_size, shards_each

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches():
            yield share_of(batch, self.rank, self.world_size, self.shards_each)


def share_of(batch: Tensor, rank: int, world_size: int, shards_each: int = 1) -> Tensor:
    """The part of `batch` that a process takes: so many of the shards of torch's `tensor_split`.

    No process is left without a window unless there are fewer windows than shards.
    """
    # Not `tensor_split` itself, which makes all parts: 1 ms a batch for 1,024 processes.
    size, n_larger = divmod(len(batch), world_size * shards_each)
    shards = rank * shards_each, (rank + 1) * shards_each
    first, stop = (shard * size + min(shard, n_larger) for shard in shards)
    return batch[first:stop]
