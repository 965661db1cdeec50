"""The contract of a metric, and what it is given."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

Direction = Literal["min", "max"]
"""Which values of a metric are the better ones: the lowest, or the highest."""


@dataclass(frozen=True)
class Scored:
    """The predictions of a batch: N targets, window after window. All tensors are on the CPU."""

    losses: Tensor
    """-log p of the target in nats, float64 (N,)."""
    targets: Tensor
    """The ids that came next (N,)."""
    n_bytes: Tensor
    """The bytes of text that each target stands for (N,)."""
    window_length: int
    """Targets in each window, T: `losses.view(-1, T)` is (B, T). All windows of a batch are equally
    long; the last one of a text, which may be shorter, is a batch of its own."""
    predict: Callable[[], Tensor]
    """Computes `predictions`, which takes as long as the losses did."""

    @cached_property
    def predictions(self) -> Tensor:
        """The most probable id at each place (N,); computed only if a metric asks for it."""
        return self.predict()

    def windows(self) -> Iterator["Scored"]:
        """The windows of the batch, one by one."""
        n_tokens = self.window_length
        parts = zip(
            self.losses.split(n_tokens),
            self.targets.split(n_tokens),
            self.n_bytes.split(n_tokens),
            strict=True,
        )
        for n, (losses, targets, n_bytes) in enumerate(parts):
            rows = slice(n * n_tokens, (n + 1) * n_tokens)
            yield Scored(
                losses, targets, n_bytes, n_tokens, lambda rows=rows: self.predictions[rows]
            )


class Metric(ABC):
    """A number that evaluations measure, the same however its tokens are cut into batches.

    `metrics=[default,NAME]` adds one from conf/metrics/. It is logged as `train/<name>` and
    `val/<name>`.
    """

    name: str
    """Without the split: `top1_accuracy`."""
    direction: Direction
    text: str
    """What it is, in a few words: `compare` shows them."""
    n_sums: int = 2
    """How many numbers `sums` returns."""
    of_tokens: bool = True
    """Does it mean something else with another tokenizer?"""

    @abstractmethod
    def sums(self, scored: Scored) -> list[float]:
        """Of these tokens what is added up, in float64, over all batches and processes of an
        evaluation.
        """

    @abstractmethod
    def value(self, sums: list[float]) -> float | None:
        """The metric, of the totals of `sums`; None where there is none, which is then left out."""


class Mean(Metric):
    """A metric that is the first sum divided by the second: `compare` can tell by how much it
    varies by chance.

    A factor may come on top, in a `value` of its own.
    """

    def value(self, sums: list[float]) -> float | None:
        total, count = sums
        return total / count if count else None
