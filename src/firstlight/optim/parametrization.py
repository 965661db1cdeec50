"""How first weights and learning rates follow the width of a model."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch.optim import Optimizer

from firstlight.model.base import LanguageModel


class Parametrization(ABC):
    """What is changed of a model that has just been made, and of an optimizer that is its own.

    The passes of the model stay as they are, so its weights are used and exported as ever.
    """

    @abstractmethod
    def begin(self, model: LanguageModel) -> None:
        """Change the first weights of `model`, in place."""

    @abstractmethod
    def adapt(self, optimizer: Optimizer, model: LanguageModel) -> None:
        """Change the groups of `optimizer`, in place; the rate of its first one stays."""

    @abstractmethod
    def describe(self, model: LanguageModel) -> str:
        """What is done to `model`, in a few words."""


def begun(
    make: Callable[[], LanguageModel], parametrization: Parametrization | None
) -> LanguageModel:
    """Build a model with `make`, with the first weights of `parametrization`.

    Raises:
        ConfigError: it is not defined for this model.
    """
    # After construction, not in it: what is drawn is the same for all parametrizations.
    model = make()
    if parametrization is not None:
        parametrization.begin(model)
    return model


def adapted(
    model: LanguageModel,
    *,
    make: Callable[[LanguageModel], Optimizer],
    parametrization: Parametrization | None,
) -> Optimizer:
    """Make the optimizer of `model`, with the groups of `parametrization`.

    Raises:
        ConfigError: it is not defined for this optimizer.
    """
    optimizer = make(model)
    if parametrization is not None:
        parametrization.adapt(optimizer, model)
    return optimizer
