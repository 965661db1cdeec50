"""An exponential moving average of the weights, measured beside them and kept as a model."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from firstlight.checkpoints.model_file import save_model_file
from firstlight.config import Ratio, Steps
from firstlight.errors import RunError, printable, reason_of
from firstlight.files import replacing_by_path
from firstlight.metrics.measured import values_of
from firstlight.optim.by_name import trained
from firstlight.output import note
from firstlight.runs.run_folder import EMA_MODEL
from firstlight.training.callbacks.base import Callback
from firstlight.training.evaluation import evaluating
from firstlight.training.module import PretrainingModule
from firstlight.training.plan import Plan
from firstlight.training.trainer import Trainer


class WeightAverage(Callback):
    """Averages the weights: average = d average + (1 - d) weights, every `every_n_steps` steps.

    d is `decay`, at first less: (1 + n) / (10 + n) for the n-th update. After each evaluation the
    average is measured on the same validation windows, logged as `val/ema_loss`, and written to
    `ema.safetensors` in the run folder. Training is not affected. The average is in float32, or in
    float64 where weights are; frozen parameters are taken as they are.
    """

    def __init__(self, *, decay: Ratio = 0.999, every_n_steps: Steps = 1) -> None:
        self.decay, self.every_n_steps = decay, every_n_steps
        self.average: dict[str, Tensor] = {}
        """By the names of the parameters that train."""
        self.n_updates = 0
        self.loss, self.loss_of_weights = math.nan, math.nan
        """Of the last evaluation: that of the average, and that of the weights themselves."""

    def check(self, plan: Plan) -> None:
        if plan.trainer.is_sharded:
            raise ValueError(
                "does not work with trainer.strategy=fsdp2, where each process has a part of every"
                " weight; take strategy=ddp"
            )

    def bytes_on_disk(self, plan: Plan, *, at_least: bool = False) -> int:
        """Bytes of `ema.safetensors`, and of the average in each checkpoint that can be resumed."""
        n_resumable = sum(getattr(c, "keep_last", 0) for c in plan.trainer.checkpoint_callbacks)
        return 4 * (plan.sizes.n_parameters + plan.network.n_trained * n_resumable)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "n_updates": self.n_updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.n_updates = dict(state_dict["average"]), int(state_dict["n_updates"])

    # Lightning's signature says pl.Trainer.
    def on_train_start(self, trainer: Trainer, pl_module: PretrainingModule) -> None:  # pyright: ignore
        """Begin with the weights as they are, or with the average of the checkpoint."""
        for name, weight in trained(pl_module.model):
            # A copy in any case: what a checkpoint has in it is mapped from its file.
            source = self.average.get(name, weight.detach())
            wide = torch.promote_types(weight.dtype, torch.float32)
            self.average[name] = source.to(weight.device, wide, copy=True)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: PretrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not trainer.at_step_end or trainer.global_step % self.every_n_steps != 0:
            return
        self.n_updates += 1
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        for name, weight in trained(pl_module.model):
            averages.append(self.average[name])
            weights.append(weight.detach().to(self.average[name].dtype))
        get_ema_multi_avg_fn(decay)(averages, weights, self.n_updates)

    def on_validation_end(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        if trainer.global_step == 0:  # the average is the model
            return
        with self.in_place(pl_module.model), evaluating(pl_module):
            self.loss = _validation_loss(trainer, pl_module)
            if trainer.is_global_zero:
                self._save(trainer, pl_module)
        self.loss_of_weights = pl_module.metrics["val/loss"]
        trainer.collect({"val/ema_loss": self.loss})

    def on_train_end(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        file = trainer.folder / EMA_MODEL
        if trainer.is_global_zero and file.is_file() and math.isfinite(self.loss):
            note(
                f"the average of the weights has a validation loss of {self.loss:.3f} (the weights:"
                f" {self.loss_of_weights:.3f}); it is in {printable(str(file))}"
            )

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Within the block the parameters of `model` have the values of the average."""
        kept = {name: weight.detach().clone() for name, weight in trained(model)}
        try:
            _copy(self.average, model)
            yield
        finally:
            _copy(kept, model)

    def _save(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        try:
            with replacing_by_path(trainer.folder / EMA_MODEL) as file:
                save_model_file(
                    pl_module.model.state_dict(),
                    file,
                    config=pl_module.config,
                    tokenizer=pl_module.tokenizer_state,
                )
        except OSError as error:
            raise RunError(
                f"{EMA_MODEL} cannot be written to {trainer.folder}: {reason_of(error)}"
            ) from error


def _copy(values: dict[str, Tensor], model: nn.Module) -> None:
    with torch.no_grad():
        for name, weight in trained(model):
            weight.copy_(values[name])


def _validation_loss(trainer: Trainer, pl_module: PretrainingModule) -> float:
    """The validation loss of the weights as they are, over all processes."""
    loss = pl_module.measured[:1]  # it is always the first
    sums = torch.zeros(loss[0].n_sums, dtype=torch.float64)
    loaders: Any = trainer.val_dataloaders
    loader = loaders[pl_module.splits.index("val")]
    with torch.no_grad(), trainer.precision_plugin.val_step_context():
        for batch in loader:
            trainer.advance()  # as a batch of any evaluation: this process is not stuck
            on_device = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
            pl_module.add_sums(sums, on_device, loss)
    return values_of(loss, pl_module.over_processes(sums).tolist())["loss"]
