"""The contracts of an optimizer and of a learning-rate schedule."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch.optim import Optimizer

from firstlight.model.base import LanguageModel

OptimizerFactory = Callable[[LanguageModel], Optimizer]
"""What a config's section `optimizer` becomes: it is completed with the model."""


class Schedule(ABC):
    """A learning rate as a pure function of the step: nothing to save, nothing to restore."""

    @abstractmethod
    def lr(self, step: int, *, max_steps: int, peak: float) -> float:
        """The learning rate of update `step`, counted from 0, in a run of `max_steps` updates."""

    def check(self, *, max_steps: int, peak: float) -> None:  # noqa: B027 (a schedule may have nothing to refuse)
        """Check that this schedule fits the run.

        Raises:
            ValueError: the run is too short, or the peak learning rate too low.
        """
