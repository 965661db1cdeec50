"""Text -> split by characters -> ids -> windows -> batches."""

import hashlib
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Annotated

import lightning.pytorch as pl
import torch
from pydantic import Field
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Sampler

from firstlight.config import BatchSize, ContextLength, PositiveRatio, Ratio, Steps
from firstlight.data.loader import Batch, WorkerLoader
from firstlight.data.order import Order, batches_per_epoch
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.data.windows import Windows

Loader = DataLoader[Batch] | WorkerLoader
Share = tuple[int, int]
"""Of a batch: the number of a process, and how many processes there are."""
WHOLE: Share = (0, 1)
CUT_BY = (
    *("context_length", "stride", "batch_size", "shuffle", "drop_last", "num_workers"),
    *("eval_batches", "untrained_eval_batches", "eval_last_window"),
)
"""Settings of a text that say what is made of its tokens, and leave the tokens themselves as they are."""


class TextDataModule(pl.LightningDataModule):
    """A text, split by characters into training, validation and (if asked) test parts, in windows and batches.

    A dataset is a subclass that says where its documents come from. `batch_size` is global: processes share it.
    Validation and test windows do not overlap, whatever the `stride` of training: no token counts twice. What is left
    at the end, fewer tokens than a window's, is evaluated as a shorter window with `eval_last_window`; without it (as
    in runs whose config does not have that key), or where `eval_batches` limits an evaluation, it is left out.

    Raises:
        ValueError: the ratios leave no validation split, or the stride would skip tokens.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        order: Order,
        context_length: ContextLength,
        stride: ContextLength | None = None,
        batch_size: BatchSize = 8,
        train_ratio: PositiveRatio = 0.9,
        test_ratio: Ratio = 0.0,
        shuffle: bool = True,
        drop_last: bool = True,
        special_tokens: bool = False,
        num_workers: Annotated[int, Field(ge=0, le=64)] = 0,
        eval_batches: Steps | None = None,
        untrained_eval_batches: Steps | None = None,
        eval_last_window: bool = False,
    ) -> None:
        super().__init__()
        if train_ratio + test_ratio >= 1:
            raise ValueError(
                f"train_ratio ({train_ratio}) + test_ratio ({test_ratio}) must be less than 1: "
                "the rest is the validation split"
            )
        if stride is not None and stride > context_length:
            raise ValueError(f"stride ({stride}) must not be above context_length ({context_length}): it skips tokens")
        if num_workers > 0 and not order.resumable:
            raise ValueError(
                f"num_workers ({num_workers}) must be 0 with this order: it draws from torch's global generator, and "
                "processes that gather batches ahead would draw too early"
            )
        self.tokenizer, self.order = tokenizer, order
        self.context_length, self.stride = context_length, stride or context_length
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.train_ratio, self.test_ratio = train_ratio, test_ratio
        self.special_tokens, self.num_workers = special_tokens, num_workers
        self.eval_batches, self.untrained_eval_batches = eval_batches, untrained_eval_batches
        self.eval_last_window = eval_last_window
        self.ids: dict[str, Tensor] = {}
        self.windows: dict[str, Windows] = {}
        self.notes: list[str] = []
        """What is odd about the text, though it can be trained on."""
        self.left_out = ""
        """What of the user's folder is not read, though it may be text: "3 hidden"."""
        self.worker_failures: list[str] = []
        """What has happened to a process that gathered batches; they are gathered in this one since."""

    @abstractmethod
    def documents(self) -> list[str]:
        """The documents of this dataset.

        Raises:
            ValueError: they cannot be had; the message says what was wanted and what to do.
        """

    def setting(self) -> str:
        """The setting that says where the documents are, and its value, for messages about them."""
        return "data"

    def source(self) -> str:
        """Where the documents came from, in a line, once they have been read; "" if there is nothing to tell."""
        return ""

    def setup(self, stage: str | None = None) -> None:
        """Read, split, tokenise and cut into windows, once; `stage="all"` leaves the text whole, as one split.

        Raises:
            ValueError: a split is too short for one window, or training for one batch.
        """
        if self.windows:
            return
        documents = self.documents()
        if n_nul := sum(document.count("\0") for document in documents):
            self.notes.append(f"the text has {n_nul:,} NUL characters in it; is it text, in UTF-8?")
        splits = {"all": documents} if stage == "all" else self._split(documents, self.train_ratio)
        if not self.tokenizer.is_fitted and stage != "all":
            self.tokenizer.fit(splits["train"])
            if self.tokenizer.note is not None:
                self.notes.append(self.tokenizer.note)
        self.ids = {name: self._encode(texts) for name, texts in splits.items()}
        self._check_sizes(documents)
        self.windows = {
            name: Windows(
                ids,
                context_length=self.context_length,
                stride=self.stride if name == "train" else self.context_length,
            )
            for name, ids in self.ids.items()
        }
        if "train" in self.windows and self.batches_per_epoch == 0:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be at most {len(self.windows['train'])}, the number of training "
                "windows, or drop_last=false"
            )

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of one pass."""
        return batches_per_epoch(len(self.windows["train"]), self.batch_size, self.drop_last)

    def tokens_after(self, batches: int) -> int:
        """Training tokens in the first `batches` batches of the run."""
        epochs, rest = divmod(batches, self.batches_per_epoch)
        n_windows = len(self.windows["train"])
        per_epoch = self.batches_per_epoch * self.batch_size if self.drop_last else n_windows
        return (epochs * per_epoch + rest * self.batch_size) * self.context_length

    def passes_after(self, batches: int) -> float:
        """How often the first `batches` batches of the run have predicted each token of the training text, on average.

        With windows that overlap (`stride`) that is more than once an epoch.
        """
        return self.tokens_after(batches) / (len(self.ids["train"]) - 1)

    def fingerprint(self) -> dict[str, int | str]:
        """What a run must find again to be continued: the tokens themselves, and how they are cut."""
        digest = hashlib.sha256()
        for name in sorted(self.ids):
            digest.update(name.encode())
            digest.update(self.ids[name].numpy().data)
        return {
            "sha256": digest.hexdigest(),
            "context_length": self.context_length,
            "stride": self.stride,
            "batch_size": self.batch_size,
            "train_windows": len(self.windows["train"]),
        }

    def train_batches(self, *, start: int, stop: int, share: Share = WHOLE) -> Loader:
        """The training batches `start` to `stop` of the order, as one long pass, whatever the epochs."""

        def batches() -> Iterator[Tensor]:
            endless = self.order.train_batches(
                len(self.windows["train"]),
                batch_size=self.batch_size,
                shuffle=self.shuffle,
                drop_last=self.drop_last,
                start=start,
            )
            return islice(endless, stop - start)

        return self._loader(self.windows["train"], batches, stop, share)

    def evaluations(self, *, is_untrained: Callable[[], bool], share: Share = WHOLE) -> list[Loader]:
        """The two loaders of the evaluations of a run: of training windows, then of validation windows.

        They are read at each evaluation; `is_untrained()` then says whether it is the one before the first step. Of
        training no more batches are read than of validation, unless both were limited.
        """

        def limit() -> int | None:
            return self.untrained_eval_batches if is_untrained() else self.eval_batches

        def train_limit() -> int:
            return limit() or self._n_eval_batches(self.windows["val"])

        return [self.eval_batches_of("train", train_limit, share), self.eval_batches_of("val", limit, share)]

    def train_dataloader(self) -> Loader:
        """The first epoch, for a Trainer of Lightning's own; a run of firstlight reads `train_batches`."""
        return self.train_batches(start=0, stop=self.batches_per_epoch, share=_share_of_this_process())

    def val_dataloader(self) -> list[Loader]:
        """All of validation, for a Trainer of Lightning's own."""
        return [self.eval_batches_of("val", share=_share_of_this_process())]

    def eval_batches_of(
        self, split: str, limit: Callable[[], int | None] | None = None, share: Share = WHOLE
    ) -> Loader:
        """One evaluation of `split`, on as many batches as `limit` says when it begins (None: all)."""
        windows = self.windows[split] if limit is not None else self.eval_windows(split)

        def batches() -> Iterator[Tensor]:
            most = limit() if limit is not None else None
            yield from self.order.eval_batches(len(windows), batch_size=self.batch_size, split=split, limit=most)
            if most is None and self._has_last_window(windows):
                yield windows.rest_index

        length = self._n_eval_batches(windows) + int(self._has_last_window(windows))
        return self._loader(windows, batches, length, share)

    def eval_windows(self, split: str) -> Windows:
        """The windows of an evaluation of all of `split`.

        Those of training overlap, if its stride is shorter than a window. With `eval_last_window`, which has every
        token scored once, they are cut again.
        """
        windows = self.windows[split]
        if self.eval_last_window and windows.stride < self.context_length:
            return Windows(self.ids[split], context_length=self.context_length, stride=self.context_length)
        return windows

    def n_scored(self, split: str, limit: int | None = None) -> int:
        """Predictions that an evaluation of `split` on at most `limit` batches (None: all) scores."""
        windows = self.eval_windows(split) if limit is None else self.windows[split]
        n_windows = len(windows) if limit is None else min(len(windows), limit * self.batch_size)
        n_rest = windows.n_rest if limit is None and self.eval_last_window else 0
        return n_windows * self.context_length + n_rest

    def _has_last_window(self, windows: Windows) -> bool:
        return self.eval_last_window and windows.n_rest > 0

    def _n_eval_batches(self, windows: Windows) -> int:
        """Batches of whole windows."""
        return batches_per_epoch(len(windows), self.batch_size, drop_last=False)

    def _loader(self, windows: Windows, batches: Callable[[], Iterator[Tensor]], length: int, share: Share) -> Loader:
        sampler = _Batches(batches, length, *share)
        if self.num_workers > 0:
            return WorkerLoader(windows, sampler, length, self.num_workers, self.worker_failures)
        return DataLoader(
            windows,
            batch_size=None,  # the sampler yields whole batches of indices
            sampler=sampler,
            generator=torch.Generator(),  # else iterating would draw from the global one
        )

    @property
    def worker_failure(self) -> str | None:
        """What has happened to a process that gathered batches, and the way out; None if nothing has."""
        if not self.worker_failures:
            return None
        return f"a process that gathers batches {self.worker_failures[0]}; with data.num_workers=0 there are none"

    def _encode(self, texts: list[str]) -> Tensor:
        return self.tokenizer.encode_documents(texts, special_tokens=self.special_tokens)

    def _split(self, documents: list[str], train_ratio: float) -> dict[str, list[str]]:
        total = sum(map(len, documents))
        train_end, val_end = int(train_ratio * total), total - int(self.test_ratio * total)
        bounds = {"train": (0, train_end), "val": (train_end, val_end), "test": (val_end, total)}
        return {
            name: _cut(documents, *bound) for name, bound in bounds.items() if name != "test" or self.test_ratio > 0
        }

    def _check_sizes(self, documents: list[str]) -> None:
        short = {name: len(ids) for name, ids in self.ids.items() if len(ids) <= self.context_length}
        if not short:
            return
        name, n_tokens = next(iter(short.items()))
        ways = [f"model.context_length={min(short.values()) - 1}"] if min(short.values()) > 1 else []
        if list(short) == ["val"] and (ratio := self._smaller_ratio(documents)) is not None:
            ways.append(f"data.train_ratio={ratio}")
        raise ValueError(
            f"the {name} split has {n_tokens} tokens, too few for one window of {self.context_length} + 1; "
            f"use {' or '.join([*ways, 'a longer text'])}"
        )

    def _smaller_ratio(self, documents: list[str]) -> float | None:
        """The largest `train_ratio`, in steps of 0.01, that leaves every split one window; None if there is none."""

        def shortest(hundredths: int, *names: str) -> int:
            splits = self._split(documents, hundredths / 100)
            self.tokenizer.fit(splits["train"])  # a vocabulary that is learned becomes another one
            return min(len(self._encode(splits[name])) for name in names)

        smaller = range(1, round(self.train_ratio * 100))  # the larger the ratio, the shorter validation
        too_large = bisect_left(smaller, True, key=lambda ratio: shortest(ratio, "val") <= self.context_length)
        if too_large == 0 or shortest(smaller[too_large - 1], *self.ids) <= self.context_length:
            return None
        return smaller[too_large - 1] / 100

    def summary(self) -> str:
        """Where the text is from, token and window counts of every split, and what of validation is not evaluated."""
        lines = {
            name: f"{name:<5} {len(ids):>9,} tokens  {len(self.windows[name]):>7,} windows of {self.context_length}"
            for name, ids in self.ids.items()
        }
        n_predictions = len(self.ids["val"]) - 1
        left_out = n_predictions - self.n_scored("val", self.eval_batches)
        if left_out > 0:
            lines["val"] += f", {left_out:,} of {n_predictions:,} predictions are not evaluated"
        return "\n".join([*filter(None, [self.source()]), *lines.values()])


def _share_of_this_process() -> Share:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return WHOLE


class _Batches(Sampler[Tensor]):
    """This process's share of each batch of indices."""

    def __init__(self, batches: Callable[[], Iterator[Tensor]], length: int, rank: int, world_size: int) -> None:
        self.batches, self.length = batches, length
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches():
            yield batch.tensor_split(self.world_size)[self.rank]


def _cut(documents: list[str], start: int, end: int) -> list[str]:
    """The characters `start` to `end` of all `documents` in a row, still apart; none that is empty."""
    parts, offset = [], 0
    for document in documents:
        parts.append(document[max(start - offset, 0) : max(end - offset, 0)])
        offset += len(document)
    return [part for part in parts if part]
