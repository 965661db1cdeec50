"""One training step, its optimizer and schedule, and what a checkpoint of it says."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from firstlight.data.datamodule import Batch, TextDataModule
from firstlight.errors import DivergedError
from firstlight.model.base import LanguageModel
from firstlight.optim.base import Schedule
from firstlight.training.checkpoint_io import RECORD
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.nonfinite import MOST_SKIPPED, describe, largest_gradient, worst_windows
from firstlight.training.trainer import Trainer
from firstlight.weights.checkpoint import with_tied_names

OptimizerFactory = Callable[[LanguageModel], Optimizer]
OnNan = Literal["stop", "skip"]


class PretrainingModule(EvaluationModule):
    """Next-token pre-training of `model`: cross-entropy, an optimizer, a schedule by step, clipping by norm.

    Logs `train/batch_loss` (in training mode, of the step's batches) and `grad_norm` (before clipping) every
    `log_every_n_steps`, and `train/...` and `val/...` (in evaluation mode) at every evaluation.
    `config` is the composed config as plain data, for the checkpoint. A step whose loss or gradient is nan or inf is
    not made: the run stops, or with `on_nan="skip"` goes on, and logs `skipped_steps`, how many there have been.
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
        on_nan: OnNan = "stop",
    ) -> None:
        super().__init__(model, data.tokenizer.byte_lengths)
        self.splits = ["train", "val"]
        self.data, self.config = data, config
        self.optimizer_factory, self.schedule = optimizer, scheduler
        self.on_nan: OnNan = on_nan
        self.skipped_steps, self.skipped_in_a_row = 0, 0
        self.batches: list[Batch] = []
        self.batch_losses: list[Tensor] = []
        self.grad_norm = torch.tensor(0.0)
        self.evaluated_step: int | None = None

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
        self.batches.append(batch)
        self.batch_losses.append(loss.detach())
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm, and keep the norm; Lightning's own refuses a fused optimizer under mixed precision."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        self.grad_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if gradient_clip_val is not None and math.isfinite(float(self.grad_norm)):  # else it would spoil all of them
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, self.grad_norm)
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return  # in 16-mixed a gradient overflows now and then: the scaler leaves out such a step by itself
        if math.isfinite(float(self.grad_norm)) and all(math.isfinite(float(loss)) for loss in self.batch_losses):
            self.skipped_in_a_row = 0
            return
        self.skipped_steps, self.skipped_in_a_row = self.skipped_steps + 1, self.skipped_in_a_row + 1
        if self.on_nan == "stop" or self.skipped_in_a_row > MOST_SKIPPED:  # before the update: the weights are good
            raise DivergedError(self._describe_step())
        optimizer.zero_grad(set_to_none=True)  # without a gradient no weight and no moment changes

    def _describe_step(self) -> str:
        def token_losses(batch: Batch) -> Tensor:
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                return self.loss(batch, reduction="none")

        self.eval()  # without dropout; this is the end of the run
        return describe(
            step=self.trainer.global_step + 1,
            losses=[float(loss) for loss in self.batch_losses],
            grad_norm=float(self.grad_norm),
            gradient=largest_gradient(self.model),
            windows=worst_windows(self.batches, token_losses, self.data.tokenizer),
            skipped=self.skipped_in_a_row - 1,
        )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        trainer = self.trainer
        if trainer.is_log_step:
            loss = trainer.strategy.reduce(torch.stack(self.batch_losses).mean(), reduce_op="mean")
            trainer.collect({"train/batch_loss": float(loss), "grad_norm": float(self.grad_norm)})
            if self.on_nan == "skip":
                trainer.collect({"skipped_steps": self.skipped_steps})
            if not trainer.is_eval_step(trainer.global_step):  # else the evaluation completes the row
                trainer.flush()
        if trainer.at_step_end:
            self.batches.clear()
            self.batch_losses.clear()
            if not trainer.is_eval_step(trainer.global_step):
                trainer.step_complete()

    def on_validation_end(self) -> None:
        """After the callbacks': the samples and the figures of this evaluation are there."""
        if self.trainer.global_step > 0:
            self.trainer.step_complete()

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        for name, value in self.metrics.items():  # before anything is sampled or saved
            if name.endswith("/loss") and not math.isfinite(value):
                raise DivergedError(
                    f"{name} is {value} after step {self.trainer.global_step}; a lower optimizer.lr may help"
                )
        self.evaluated_step = self.trainer.global_step
        self.trainer.collect(self.metrics)
        for name, value in self.metrics.items():  # for callbacks that monitor a metric by name
            self.trainer.callback_metrics[name] = torch.tensor(value, dtype=torch.float64)
        self.trainer.flush()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        metrics = self.metrics if self.evaluated_step == self.trainer.global_step else {}
        checkpoint[RECORD] = {
            "config": self.config,
            "tokenizer": self.tokenizer_state,
            "metrics": dict(self.metrics),
            "skipped_steps": [self.skipped_steps, self.skipped_in_a_row],
            "manifest": {
                "tokens": self.trainer.tokens_seen,
                "monitor": self.trainer.monitor,
                "metrics": dict(metrics),
                "fingerprint": self.fingerprint,
            },
        }

    @cached_property
    def tokenizer_state(self) -> dict[str, Any]:
        """Of the tokenizer, which stays as it is; as the data does."""
        return self.data.tokenizer.state_dict()

    @cached_property
    def fingerprint(self) -> dict[str, int | str]:
        """Of the data."""
        return self.data.fingerprint()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = with_tied_names(self, checkpoint["state_dict"])
        self.metrics = dict(checkpoint[RECORD]["metrics"])
        self.skipped_steps, self.skipped_in_a_row = checkpoint[RECORD]["skipped_steps"]
        # A run that had reached its end says so; with a new max_steps it has not.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
