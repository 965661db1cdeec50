"""The base of schedules with a linear warm-up."""

from abc import abstractmethod

from firstlight.config import FiniteNonNegative
from firstlight.errors import counted
from firstlight.optim.base import PartOfRun, Schedule, steps_of


class Warmup(Schedule):
    """A line from `initial_lr` to the peak in `warmup_steps`; a subclass continues from there.

    It arrives at `min_lr` at the end of the run.
    """

    def __init__(
        self,
        *,
        warmup_steps: PartOfRun,
        initial_lr: FiniteNonNegative = 0.0,
        min_lr: FiniteNonNegative = 0.0,
    ) -> None:
        self.warmup = warmup_steps
        self.initial_lr = initial_lr
        self.min_lr = min_lr

    def warmup_of(self, max_steps: int) -> int:
        """The steps of warm-up of a run of `max_steps` updates."""
        return steps_of(self.warmup, max_steps)

    @property
    def warmup_steps(self) -> int:
        """The steps of warm-up where they are a number, as schedules knew it before `warmup_of`.

        Raises:
            ValueError: they are a share of the run.
        """
        if isinstance(self.warmup, int):
            return self.warmup
        raise ValueError(
            f"warmup_steps ({self.warmup}): {type(self).__name__} takes a number of steps; it takes"
            " a share of the run once it asks self.warmup_of(max_steps)"
        )

    @abstractmethod
    def after_warmup(self, step: int, *, max_steps: int, peak: float) -> float:
        """Return the learning rate of update `step`, at least `warmup_of(max_steps)`."""

    def lr(self, step: int, *, max_steps: int, peak: float) -> float:
        # Step 0 has `initial_lr` itself, and the first step after the warm-up the peak, as in the
        # book's appendix D.
        n_steps = self.warmup_of(max_steps)
        if step < n_steps:
            return self.initial_lr + step * (peak - self.initial_lr) / n_steps
        return self.after_warmup(step, max_steps=max_steps, peak=peak)

    def check(self, *, max_steps: int, peak: float) -> None:
        if self.warmup_of(max_steps) >= max_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup}) must be less than the run's"
                f" {counted(max_steps, 'step')}; add scheduler.warmup_steps={max_steps // 4},"
                " or train longer; a share of the run (10%) fits any length"
            )
        for name, value in (("initial_lr", self.initial_lr), ("min_lr", self.min_lr)):
            if value > peak:
                raise ValueError(
                    f"{name} ({value}) must be at most the peak, optimizer.lr ({peak})"
                )
