"""The gradient norm of each layer, and how far a step moves its weights."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from firstlight.config import Steps
from firstlight.optim.by_name import trained
from firstlight.training.callbacks.base import Watcher
from firstlight.training.lightning import norms_of
from firstlight.training.module import PretrainingModule
from firstlight.training.sharding import local
from firstlight.training.trainer import Trainer


class Layers(Watcher):
    """Logs `grad_norm/LAYER`, before clipping, and `update_ratio/LAYER` every `every_n_steps`.

    The ratio is |W after - W before| / |W before|, of all that the step did: the learning rate,
    clipping and weight decay included. `every_n_steps` None: in each row of the logs. A layer is a
    block (`trf_blocks.0`), or another part of the model (`tok_emb`).
    """

    def __init__(self, *, every_n_steps: Steps | None = None) -> None:
        self.every_n_steps = every_n_steps
        self.before: dict[str, Tensor] = {}
        """The trained weights before the step, where the step is measured."""

    def is_due(self, trainer: Trainer, step: int) -> bool:
        """Whether `step` is measured."""
        if self.every_n_steps is None:
            return trainer.clock.is_log_step(step)
        return step % self.every_n_steps == 0

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: PretrainingModule, optimizer: Any
    ) -> None:
        # The weights are those before the step here: gradients are not even clipped yet.
        if self.is_due(trainer, trainer.global_step + 1):
            self.before = {
                name: weight.detach().clone() for name, weight in trained(pl_module.model)
            }

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: PretrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not self.before or not trainer.at_step_end:
            return
        before, self.before = self.before, {}
        weights = dict(trained(pl_module.model))
        moved = [local(weight.detach()) - local(before[name]) for name, weight in weights.items()]
        sizes = [local(weight) for weight in before.values()]
        sums = torch.stack([_squares(moved), _squares(sizes)])  # (2, P)
        if trainer.is_sharded:  # each process has a part of every weight
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        name_of = {parameter: name for name, parameter in weights.items()}
        parameters, norms = pl_module.gradients
        gradients = _by_layer([name_of[p] for p in parameters], norms.square().tolist())
        moves, lengths = (_by_layer(weights, row) for row in sums.tolist())
        trainer.collect({f"grad_norm/{layer}": total**0.5 for layer, total in gradients.items()})
        # A layer whose weights are all zero, such as a new bias, has no ratio.
        trainer.collect(
            {
                f"update_ratio/{layer}": (total / lengths[layer]) ** 0.5
                for layer, total in moves.items()
                if lengths[layer] > 0
            }
        )


def layer_of(name: str) -> str:
    """The layer of the parameter `name`: `trf_blocks.0` of `trf_blocks.0.att.W_q.weight`."""
    first = re.match(r"[^.]+(\.\d+)?", name)
    assert first is not None
    return first[0]


def _squares(tensors: list[Tensor]) -> Tensor:
    """The squared 2-norm of each tensor (P,)."""
    # In 16 bits a sum of so many squares would be lost.
    return norms_of(tensors, torch.promote_types(tensors[0].dtype, torch.float32)).square()


def _by_layer(names: Iterable[str], squares: list[float]) -> dict[str, float]:
    """The sum of `squares`, one for each parameter of `names`, by layer."""
    totals: dict[str, float] = {}
    for name, square in zip(names, squares, strict=True):
        layer = layer_of(name)
        totals[layer] = totals.get(layer, 0.0) + square
    return totals
