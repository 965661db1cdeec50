"""One training step, its optimizer and schedule, and what a checkpoint of it says."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from firstlight.data.datamodule import Batch, TextDataModule
from firstlight.errors import DivergedError
from firstlight.model.base import LanguageModel
from firstlight.optim.base import Schedule
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.trainer import Trainer
from firstlight.weights.checkpoint import FORMAT

OptimizerFactory = Callable[[nn.Module], Optimizer]


class PretrainingModule(EvaluationModule):
    """Next-token pre-training of `model`: cross-entropy, an optimizer, a schedule by step, clipping by norm.

    Logs `train/batch_loss` (in training mode, of the step's batches) and `grad_norm` (before clipping) every
    `log_every_n_steps`, and `train/...` and `val/...` (in evaluation mode) at every evaluation.
    `config` is the composed config as plain data, for the checkpoint.
    """

    trainer: Trainer  # type: ignore[assignment]

    def __init__(
        self,
        *,
        model: LanguageModel,
        data: TextDataModule,
        optimizer: OptimizerFactory,
        scheduler: Schedule,
        config: dict[str, Any],
    ) -> None:
        super().__init__(model, data.tokenizer.byte_lengths)
        self.splits = ["train", "val"]
        self.data, self.config = data, config
        self.optimizer_factory, self.schedule = optimizer, scheduler
        self.batch_losses: list[Tensor] = []
        self.grad_norm = torch.tensor(0.0)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer_factory(self.model)
        peak, max_steps = float(optimizer.param_groups[0]["lr"]), self.trainer.max_steps
        scheduler = LambdaLR(optimizer, lambda step: self.schedule.lr(step, max_steps=max_steps, peak=peak) / peak)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        if self.trainer.global_step == 0:
            self.trainer.evaluate_untrained()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.data.order.seed_batch(batch_idx, self.trainer.global_rank, self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.batch_losses.append(loss.detach())
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm, and keep the norm; Lightning's own refuses a fused optimizer under mixed precision."""
        limit = torch.inf if gradient_clip_val is None else gradient_clip_val
        self.grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if not torch.isfinite(self.grad_norm):  # before the update: the weights are still good
            losses = ", ".join(f"{float(loss):.4g}" for loss in self.batch_losses)
            raise DivergedError(
                f"the gradient norm of step {self.trainer.global_step + 1} is {float(self.grad_norm)} "
                f"(loss {losses}); a lower optimizer.lr or trainer.gradient_clip_val=1.0 may help"
            )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        trainer = self.trainer
        if trainer.is_log_step:
            loss = trainer.strategy.reduce(torch.stack(self.batch_losses).mean(), reduce_op="mean")
            trainer.collect({"train/batch_loss": float(loss), "grad_norm": float(self.grad_norm)})
            if not trainer.is_eval_step(trainer.global_step):  # else the evaluation completes the row
                trainer.flush()
        if trainer.at_step_end:
            self.batch_losses.clear()

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.trainer.collect(self.metrics)
        for name, value in self.metrics.items():  # for callbacks that monitor a metric by name
            self.trainer.callback_metrics[name] = torch.tensor(value, dtype=torch.float64)
        self.trainer.flush()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["firstlight"] = {
            "format": FORMAT,
            "config": self.config,
            "tokenizer": self.data.tokenizer.state_dict(),
            "fingerprint": self.data.fingerprint(),
            "tokens": self.trainer.tokens_seen,
            "metrics": dict(self.metrics),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.metrics = dict(checkpoint["firstlight"]["metrics"])
        # A run that had reached its end says so; with a new max_steps it has not.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
