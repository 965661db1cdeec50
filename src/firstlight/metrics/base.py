"""The contract of a metric, and the predictions it is computed from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Direction = Literal["min", "max"]
"""Whether lower or higher values of a metric are better."""


@dataclass(frozen=True)
class Scored:
    """The N predictions of a batch, window after window; all tensors are on the CPU."""

    losses: Tensor
    """-log p(target) in nats, float64 (N,)."""
    targets: Tensor
    """The ids that follow (N,)."""
    n_bytes: Tensor
    """Bytes of text that each target stands for (N,)."""
    window_length: int
    """Targets in each window, T: `losses.view(-1, T)` is (B, T).

    All windows of a batch are equally long; the last one of a text, which may be shorter, is a
    batch of its own."""
    # A function, since most metrics need no predictions, and those take another product with the
    # output matrix.
    predict: Callable[[], Tensor]
    """Computes `predictions`, which takes as long as the losses took."""

    rank: Callable[[], Tensor]
    """Computes `ranks`, which takes as long again."""

    times_trained: Tensor | None = None
    """How often each target was trained on until now (N,); None if this was not counted."""

    locate: Callable[[], Tensor] | None = None
    """Computes `positions` of a part of a window; None: these are whole windows."""

    @cached_property
    def positions(self) -> Tensor:
        """The place of each target in its window (N,), from 1: how many tokens precede it."""
        if self.locate is not None:
            return self.locate()
        n_windows = len(self.losses) // self.window_length
        return torch.arange(1, self.window_length + 1).repeat(n_windows)

    @cached_property
    def predictions(self) -> Tensor:
        """The most probable ids (N,), computed when a metric first asks for them."""
        return self.predict()

    @cached_property
    def ranks(self) -> Tensor:
        """The place of each target among all ids by probability (N,), 1 for the most probable.

        Ids that are equally probable share the better place. Computed when a metric first asks.
        """
        return self.rank()

    def windows(self) -> Iterator["Scored"]:
        """Yield the windows of the batch one by one."""
        return self.split(self.window_length)

    def split(self, n_tokens: int) -> Iterator["Scored"]:
        """Yield parts of `n_tokens` predictions, each as a window; the last may be shorter."""
        parts = zip(
            self.losses.split(n_tokens),
            self.targets.split(n_tokens),
            self.n_bytes.split(n_tokens),
            strict=True,
        )
        for n, (losses, targets, n_bytes) in enumerate(parts):
            # `rows=rows` binds this part's rows: a plain closure would see those of the last one.
            rows = slice(n * n_tokens, (n + 1) * n_tokens)
            yield Scored(
                losses,
                targets,
                n_bytes,
                len(losses),
                predict=lambda rows=rows: self.predictions[rows],
                rank=lambda rows=rows: self.ranks[rows],
                times_trained=None if self.times_trained is None else self.times_trained[rows],
                locate=lambda rows=rows: self.positions[rows],
            )


class MetricGroup(ABC):
    """What a file of conf/metrics/ adds: a metric, or several that belong together."""

    @abstractmethod
    def metrics(self) -> list["Metric"]:
        """Return the metrics, each with a name of its own."""


class Metric(MetricGroup):
    """A number that evaluations measure, whatever batches its tokens come in.

    `metrics=[default,NAME]` adds one from conf/metrics/. It is logged as `train/<name>` and
    `val/<name>`, and at the end of a run as `test/<name>`.
    """

    name: str
    """The name without the split, such as `top1_accuracy`."""
    direction: Direction
    text: str
    """A description in a few words, which `compare` shows."""
    n_sums: int = 2
    """Number of sums that `sums` returns."""
    of_tokens: bool = True
    """Whether values are per token, and so not comparable between tokenizers."""
    on_screen: bool = True
    """Whether it has a column in what a run shows."""
    needs_counts: bool = False
    """Whether it reads `times_trained`, which a run counts for such metrics alone."""

    def metrics(self) -> list["Metric"]:
        """Return this metric: it is a group of its own."""
        return [self]

    @abstractmethod
    def sums(self, scored: Scored) -> list[float]:
        """Return `n_sums` numbers for these tokens.

        They are added up, in float64, over all batches and processes of an evaluation.
        """

    @abstractmethod
    def value(self, sums: list[float]) -> float | None:
        """Compute the metric from the totals of `sums`; None if undefined, which is not logged."""


class Mean(Metric):
    """A metric that is its first sum divided by its second, perhaps times a factor (in `value`).

    `compare` can estimate how much such a metric varies by chance.
    """

    def value(self, sums: list[float]) -> float | None:
        # Divided at the end, not per batch: every token weighs the same, however batches were cut.
        total, count = sums
        return total / count if count else None
