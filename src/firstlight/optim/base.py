"""The contracts of an optimizer and of a learning-rate schedule."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch.optim import Optimizer

from firstlight.model.base import LanguageModel

OptimizerFactory = Callable[[LanguageModel], Optimizer]
"""What the section `optimizer` of a config builds: it is called with the model."""


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
