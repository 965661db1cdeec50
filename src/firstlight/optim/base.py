"""The contracts of an optimizer and of a learning-rate schedule."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated

from pydantic import Field
from torch.optim import Optimizer

from firstlight.config import Percentage
from firstlight.model.base import LanguageModel

OptimizerFactory = Callable[[LanguageModel], Optimizer]
"""What the section `optimizer` of a config builds: it is called with the model."""


PartOfRun = Annotated[int, Field(ge=0, le=10**12)] | Percentage
"""A number of steps, or a share of those of the run."""


def steps_of(part: PartOfRun, max_steps: int) -> int:
    """How many steps of a run of `max_steps` a part of it has.

    A share is rounded down, so that it leaves a step in a run of any length.
    """
    if isinstance(part, int):
        return part
    # In decimal figures: 0.29 * 100 is a little less than 29.
    return int(Decimal(part.removesuffix("%")) * max_steps / 100)


class Schedule(ABC):
    """A learning rate as a pure function of the step, so it has no state to save."""

    @abstractmethod
    def lr(self, step: int, *, max_steps: int, peak: float) -> float:
        """Return the learning rate of update `step`, counted from 0, of `max_steps` updates."""

    def check(self, *, max_steps: int, peak: float) -> None:  # noqa: B027 (a schedule may have nothing to refuse)
        """Check that this schedule fits the run.

        Raises:
            ValueError: the run is too short, or the peak learning rate too low.
        """


LOOKED_AT = 10_000
"""Steps of a run whose rates are looked at before it begins: all, or as many evenly apart."""


def rate_at(schedule: Schedule, step: int, *, max_steps: int, peak: float) -> float:
    """The learning rate of update `step`.

    torch asks for the one after the last, too, which no update has.

    Raises:
        ValueError: it is negative or not finite.
    """
    rate = schedule.lr(step, max_steps=max_steps, peak=peak)
    if step < max_steps and not 0 <= rate < math.inf:
        raise ValueError(
            f"{type(schedule).__name__} gives a learning rate of {rate:.4g} at step {step:,} of"
            f" {max_steps:,} (the first is 0); it must be finite, 0 or above"
        )
    return rate


def check_rates_of(schedule: Schedule, *, max_steps: int, peak: float) -> None:
    """Check that `schedule` fits the run, and its rates over the whole of it.

    Raises:
        ValueError: see `Schedule.check` and `rate_at`.
    """
    schedule.check(max_steps=max_steps, peak=peak)
    for step in range(0, max_steps, max(1, max_steps // LOOKED_AT)):
        rate_at(schedule, step, max_steps=max_steps, peak=peak)
    rate_at(schedule, max_steps - 1, max_steps=max_steps, peak=peak)


def phases_of(schedule: Schedule, *, max_steps: int, peak: float) -> tuple[int, int]:
    """How many steps come before the highest rate is reached, and how many after it is left.

    Of a run of more than `LOOKED_AT` squared steps to within that many.
    """
    apart = max(1, max_steps // LOOKED_AT)
    steps = range(0, max_steps, apart)
    rates = [rate_at(schedule, step, max_steps=max_steps, peak=peak) for step in steps]
    highest = max(rates)
    first, last = rates.index(highest), len(rates) - 1 - rates[::-1].index(highest)
    # Step by step around the places that were found among steps that are not all.
    before = _looked_at(max(first - 1, 0) * apart, steps[first])
    after = _looked_at(steps[last], min((last + 1) * apart, max_steps - 1))
    near = {
        step: rate_at(schedule, step, max_steps=max_steps, peak=peak) for step in (*before, *after)
    }
    highest = max(near.values())
    at_peak = [step for step, rate in near.items() if rate == highest]
    return min(at_peak), max_steps - 1 - max(at_peak)


def _looked_at(first: int, last: int) -> range:
    return range(first, last + 1, max(1, (last - first) // LOOKED_AT))
