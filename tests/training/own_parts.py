"""Parts of a user's that train as if nothing were wrong, or fail with a traceback, if let in."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from firstlight.loss.base import Loss
from firstlight.loss.cross_entropy import CrossEntropy
from firstlight.model.gpt import GPT
from firstlight.optim.base import Schedule
from firstlight.training.callbacks.base import Watcher
from firstlight.training.trainer import Trainer


class MeanLoss(Loss):
    def __call__(self, hidden: Tensor, output_weight: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(hidden @ output_weight.T, targets)


class LookingMeanLoss(MeanLoss):
    """Looks at a number, which a model without weights does not have: the first step finds it."""

    def __call__(self, hidden: Tensor, output_weight: Tensor, targets: Tensor) -> Tensor:
        return super().__call__(hidden, output_weight, targets) * float(hidden.isfinite().all())


class LookingLoss(CrossEntropy):
    def __call__(self, hidden: Tensor, output_weight: Tensor, targets: Tensor) -> Tensor:
        return super().__call__(hidden, output_weight, targets) * float(hidden.isfinite().all())


class Falling(Schedule):
    """Falls below 0 at `step`."""

    def __init__(self, *, step: int = 1, to: float = -1e-3) -> None:
        self.step, self.to = step, to

    def lr(self, step: int, *, max_steps: int, peak: float) -> float:
        return self.to if step >= self.step else peak


def part(model: nn.Module, *, lr: float) -> optim.SGD:
    return optim.SGD(list(model.parameters())[:1], lr=lr)


def unsaid(model: nn.Module, *, lr: float):
    return optim.SGD(model.parameters(), lr=lr)


def forgotten(model: nn.Module, *, lr: float) -> optim.Optimizer:
    optim.SGD(model.parameters(), lr=lr)  # type: ignore[return]


def no_schedule() -> Schedule:
    pass  # type: ignore[return]


def no_loss() -> Loss:
    pass  # type: ignore[return]


def no_model(**settings: Any) -> GPT:
    GPT(**settings)  # type: ignore[return]


class NoContext(GPT):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        del self.context_length


class Pooled(GPT):
    def hidden(self, ids, cache=None):
        return super().hidden(ids, cache).mean(1)


class NoReturn(GPT):
    def hidden(self, ids, cache=None):
        super().hidden(ids, cache)


class Wide(GPT):
    def hidden(self, ids, cache=None):
        return torch.cat([super().hidden(ids, cache)] * 2, dim=-1)


class LateCollector(Watcher):
    """Adds to the logs when the row of the step is written already."""

    def on_step_complete(self, trainer: Trainer) -> None:
        trainer.collect({"late": 1.0})
