"""Is a schedule a function of the step?"""

import math
from collections.abc import Collection

from firstlight.optim.base import Schedule
from firstlight.testing.properties import Broken, Property, check_all


def check_schedule(
    schedule: Schedule, *, max_steps: int = 100, peak: float = 1e-3, skip: Collection[str] = ()
) -> dict[str, str]:
    """Check that `schedule` keeps the contract of `Schedule` in a run of `max_steps` updates.

    Returns what became of each property.

    Raises:
        AssertionError: a property does not hold.
    """
    case = _Case(schedule, max_steps, peak)
    properties = [
        Property("check", case.check, "check refuses this run: choose another max_steps or peak."),
        Property(
            "range",
            case.range,
            "A learning rate is a finite number from 0 up to the peak, optimizer.lr.",
        ),
        Property(
            "determinism",
            case.determinism,
            "A run that is resumed asks for its step alone: keep no state between calls.",
        ),
        Property(
            "training",
            case.training,
            "Most rates are zero: steps are counted from 0, and max_steps is the whole run.",
        ),
    ]
    return check_all(type(schedule).__name__, properties, skip)


class _Case:
    def __init__(self, schedule: Schedule, max_steps: int, peak: float) -> None:
        self.schedule, self.max_steps, self.peak = schedule, max_steps, peak

    def lr(self, step: int) -> float:
        return self.schedule.lr(step, max_steps=self.max_steps, peak=self.peak)

    def check(self) -> None:
        self.schedule.check(max_steps=self.max_steps, peak=self.peak)

    def range(self) -> None:
        for step in range(self.max_steps + 1):  # torch asks for the one after the last
            rate = self.lr(step)
            if not math.isfinite(rate) or not 0 <= rate <= self.peak * (1 + 1e-9):
                raise Broken(f"at step {step} it is {rate:.4g}, the peak is {self.peak:.4g}")

    def determinism(self) -> None:
        forward = [self.lr(step) for step in range(self.max_steps)]
        # A schedule that counts its calls would give other rates in another order.
        backward = [self.lr(step) for step in reversed(range(self.max_steps))][::-1]
        for step, (one, other) in enumerate(zip(forward, backward, strict=True)):
            if one != other:
                raise Broken(f"step {step} has two rates, {one:.4g} and {other:.4g}")

    def training(self) -> None:
        above = sum(self.lr(step) > 0 for step in range(self.max_steps))
        if above < self.max_steps / 2:
            raise Broken(f"only {above} of {self.max_steps} steps have a rate above zero")
