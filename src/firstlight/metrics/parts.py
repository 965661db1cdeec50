"""The loss of some tokens: of those whose number, such as a position, lies in a range."""

from abc import abstractmethod
from itertools import pairwise
from typing import Annotated

from pydantic import Field, NonNegativeInt
from torch import Tensor

from firstlight.metrics.base import Mean, Metric, MetricGroup, Scored

Bounds = Annotated[list[NonNegativeInt], Field(min_length=1, max_length=100)]


class LossOfRange(Mean):
    """The mean loss of the targets whose number is `first` to `last` (None: or more)."""

    direction, on_screen = "min", False

    def __init__(self, number: str, first: int, last: int | None) -> None:
        self.first, self.last = first, last
        if last is None:
            label = f"from_{first}"
        else:
            label = str(first) if first == last else f"{first}_to_{last}"
        self.name = f"loss_at_{number}_{label}"
        self.text = f"loss of the tokens with {number} {label.replace('_', ' ')}"

    @abstractmethod
    def numbers(self, scored: Scored) -> Tensor | None:
        """Return the number of each target (N,), or None if the numbers are not known."""

    def sums(self, scored: Scored) -> list[float]:
        numbers = self.numbers(scored)
        if numbers is None:
            return [0.0, 0.0]  # of no token: such a metric is not logged
        counts = numbers >= self.first
        if self.last is not None:
            counts &= numbers <= self.last
        return [float(scored.losses[counts].sum()), float(counts.sum())]


class LossByRange(MetricGroup):
    """The loss in ranges of a number: up to each of `bounds`, and above the last of them.

    A range without a token in an evaluation is not logged.

    Raises:
        ValueError: the bounds do not rise.
    """

    kind: type[LossOfRange]
    number: str
    """What it is, in a word, for the names of the metrics."""
    first: int
    """The smallest number that there is."""

    def __init__(self, *, bounds: Bounds) -> None:
        is_rising = all(low < high for low, high in pairwise(bounds))
        if not is_rising or bounds[0] < self.first:
            raise ValueError(f"bounds ({bounds}) must rise, from {self.first} or more")
        self.bounds = bounds

    def metrics(self) -> list[Metric]:
        firsts = [self.first, *(bound + 1 for bound in self.bounds)]
        lasts = [*self.bounds, None]
        return [
            self.kind(self.number, first, last) for first, last in zip(firsts, lasts, strict=True)
        ]
