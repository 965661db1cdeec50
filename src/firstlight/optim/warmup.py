"""The base of schedules with a linear warm-up."""

from abc import abstractmethod
from typing import Annotated

from pydantic import Field

from firstlight.config import FiniteNonNegative
from firstlight.errors import counted
from firstlight.optim.base import Schedule


class Warmup(Schedule):
    """A line from `initial_lr` to the peak in `warmup_steps`; a subclass continues from there.

    It arrives at `min_lr` at the end of the run.
    """

    def __init__(
        self,
        *,
        warmup_steps: Annotated[int, Field(ge=0, le=10**12)],
        initial_lr: FiniteNonNegative = 0.0,
        min_lr: FiniteNonNegative = 0.0,
    ) -> None:
        self.warmup_steps = warmup_steps
        self.initial_lr = initial_lr
        self.min_lr = min_lr

    @abstractmethod
    def after_warmup(self, step: int, *, max_steps: int, peak: float) -> float:
        """Return the learning rate of update `step`, which is at least `warmup_steps`."""

    def lr(self, step: int, *, max_steps: int, peak: float) -> float:
        # Step 0 has `initial_lr` itself, and step `warmup_steps` the peak, as in the book's
        # appendix D.
        if step < self.warmup_steps:
            return self.initial_lr + step * (peak - self.initial_lr) / self.warmup_steps
        return self.after_warmup(step, max_steps=max_steps, peak=peak)

    def check(self, *, max_steps: int, peak: float) -> None:
        if self.warmup_steps >= max_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be less than the run's"
                f" {counted(max_steps, 'step')}; add scheduler.warmup_steps={max_steps // 4},"
                " or train longer"
            )
        for name, value in (("initial_lr", self.initial_lr), ("min_lr", self.min_lr)):
            if value > peak:
                raise ValueError(
                    f"{name} ({value}) must be at most the peak, optimizer.lr ({peak})"
                )
