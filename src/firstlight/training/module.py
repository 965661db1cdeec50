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

from firstlight.checkpoints.checkpoint import with_tied_names
from firstlight.checkpoints.folder_io import RECORD
from firstlight.data.datamodule import Batch, TextDataModule
from firstlight.errors import DivergedError
from firstlight.loss.base import Loss
from firstlight.metrics.base import Metric
from firstlight.metrics.measured import direction_of
from firstlight.model.base import LanguageModel
from firstlight.optim.base import Schedule
from firstlight.training.evaluation import EvaluationModule
from firstlight.training.late_check import LateCheck, StepRecord, handles_scaling
from firstlight.training.micro_batches import cut
from firstlight.training.nonfinite import MOST_SKIPPED, describe, largest, worst_windows
from firstlight.training.trainer import Trainer

OptimizerFactory = Callable[[LanguageModel], Optimizer]
OnNan = Literal["stop", "skip"]


class PretrainingModule(EvaluationModule):
    """Next-token pre-training of `model`: a loss, an optimizer, a schedule by step, clipping by norm.

    Logs `train/batch_loss` (in training mode, of the step's batches) and `grad_norm` (before clipping) every
    `log_every_n_steps`, and `train/...` and `val/...` (in evaluation mode) at every evaluation.
    `config` is the composed config as plain data, for the checkpoint. A step whose loss or gradient is nan or inf is
    not made (a GPU leaves it out itself, see `LateCheck`): the run stops, or with `on_nan="skip"` goes on, and logs
    `skipped_steps`, how many there have been.
    """

    trainer: Trainer  # type: ignore[assignment]

    def __init__(
        self,
        *,
        model: LanguageModel,
        data: TextDataModule,
        loss: Loss,
        optimizer: OptimizerFactory,
        scheduler: Schedule,
        config: dict[str, Any],
        metrics: list[Metric] | None = None,
        on_nan: OnNan = "stop",
    ) -> None:
        super().__init__(model, data.tokenizer.byte_lengths, metrics)
        self.splits = ["train", "val"]
        self.data, self.config = data, config
        self.loss = loss
        self.optimizer_factory, self.schedule = optimizer, scheduler
        self.on_nan: OnNan = on_nan
        self.skipped_steps, self.skipped_in_a_row = 0, 0
        self.batches: list[Batch] = []
        self.batch_losses: list[Tensor] = []
        self.batch_weights: list[float] = []
        """Of this step's batches their share of its tokens, relative to that of batches of equal size."""
        self.grad_norm = torch.tensor(0.0)
        self.late_check: LateCheck | None = None
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

    def token_losses(self, batch: Batch) -> Tensor:
        """The loss of each target (B * T,), given inputs (B, T) and targets (B, T)."""
        inputs, targets = batch
        return self.loss(self.hidden(inputs).flatten(0, 1), self.model.output_weight, targets.flatten())

    def mean_loss(self, batch: Batch) -> Tensor:
        """What training lowers: the mean loss of the tokens of a batch."""
        return self.token_losses(batch).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, weighted so that the step's gradient is the mean over all tokens of the step.

        Lightning divides by the number of batches, and DDP by the number of processes, as if all were of one size. With
        `drop_last=false` an epoch ends in a smaller batch, and a batch may not be a multiple of the processes.
        """
        n_windows = self.data.step_windows(batch_idx // self.accumulated, self.accumulated)
        n_batches = self.accumulated * self.trainer.world_size

        def weight_of(part: Batch) -> float:
            return len(part[0]) * n_batches / n_windows  # exactly 1 where all batches are of one size

        *first, last = self.parts(batch)
        if first and batch_idx % self.accumulated == 0:
            self.trainer.optimizers[0].zero_grad()  # where Lightning would, the gradients of these parts were lost
        others = [self._backward(part, weight_of(part)) for part in first]
        loss = self._weighted_loss(last, weight_of(last))
        if others:  # the mean over all tokens, with the gradient of the last part
            loss = loss + torch.stack(others).sum()
        weight = weight_of(batch)
        self.batches.append(batch)
        self.batch_weights.append(weight)
        self.batch_losses.append(loss.detach() if weight in (0.0, 1.0) else loss.detach() / weight)
        return loss

    @property
    def accumulated(self) -> int:
        """Batches of a step."""
        return self.trainer.accumulate_grad_batches

    def _weighted_loss(self, part: Batch, weight: float) -> Tensor:
        if len(part[0]) == 0:  # a process without a window of this batch, whose gradients DDP waits for: zeros
            stand_in = self.data.windows["train"][torch.tensor([0])]
            return self.mean_loss(self.transfer_batch_to_device(stand_in, self.device, 0)) * 0.0
        loss = self.mean_loss(part)
        return loss if weight == 1 else loss * weight

    def parts(self, batch: Batch) -> list[Batch]:
        return cut(batch, self.trainer.micro_batch_size)

    def _backward(self, part: Batch, weight: float) -> Tensor:
        """Add the gradient of a part of a batch; its share of the mean loss. DDP adds up processes with the last."""
        loss = self._weighted_loss(part, weight)
        profiled = self.trainer.profiler.profile("[LightningModule]PretrainingModule.backward")  # type: ignore[attr-defined]
        with torch.autocast(self.device.type, enabled=False), profiled:  # as Lightning's, which is not within autocast
            self.trainer.strategy.backward(loss / self.accumulated, optimizer=None)
        return loss.detach()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        if len(self.parts(self.batches[-1])) == 1:  # else it has been done
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm, and keep the norm; Lightning's own refuses a fused optimizer under mixed precision."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and handles_scaling(optimizer):
            scaler.unscale_(optimizer)  # Lightning leaves that to such an optimizer, whose step comes after the norm
        parameters = [p for p in self.all_parameters if p.grad is not None]
        grads = [p.grad for p in parameters if p.grad is not None]
        wide = torch.promote_types(grads[0].dtype, torch.float32)
        norms = torch.stack(torch._foreach_norm(grads, dtype=wide))  # type: ignore[attr-defined]
        self.grad_norm = torch.linalg.vector_norm(norms)
        if gradient_clip_val is not None:  # by a norm that is not finite it would spoil all of them
            norm = torch.where(self.grad_norm.isfinite(), self.grad_norm, 0.0)
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        step = self.trainer.global_step + 1
        losses = torch.stack(self.batch_losses)
        record = StepRecord(step, [*self.batches], losses, self.grad_norm, parameters, norms)
        if scaler is None and LateCheck.suits(optimizer, self.device):
            self.late_check = self.late_check or self._late_check()
            self.late_check.judge(record, optimizer)
            return
        # A gradient of 16-mixed overflows now and then: the scaler leaves out that step and scales by less.
        numbers = [*losses.tolist(), *([float(self.grad_norm)] if scaler is None else [])]
        if not self.trainer.agreed(int(not all(map(math.isfinite, numbers)))):
            self.skipped_in_a_row = 0
            return
        self.skipped_steps, self.skipped_in_a_row = self.skipped_steps + 1, self.skipped_in_a_row + 1
        if self.skipped_in_a_row > self.most_in_a_row:  # before the update: the weights are good
            raise DivergedError(self._describe(record))
        optimizer.zero_grad(set_to_none=True)  # without a gradient no weight and no moment changes

    @cached_property
    def all_parameters(self) -> list[nn.Parameter]:
        """The model's; to walk through its modules in every step takes longer than to clip a small one."""
        return list(self.model.parameters())

    @property
    def most_in_a_row(self) -> int:
        """Steps in a row that may be left out."""
        return 0 if self.on_nan == "stop" else MOST_SKIPPED

    def _late_check(self) -> LateCheck:
        def agree(number: Tensor) -> Tensor:
            return self.trainer.strategy.reduce(number, reduce_op="max") if self.trainer.world_size > 1 else number

        return LateCheck(self.device, most=self.most_in_a_row, in_a_row=self.skipped_in_a_row, agree=agree)

    def settle(self, *, all_but: int = 0) -> None:
        """Hear of the steps that the device has judged, but the last `all_but`.

        Raises:
            DivergedError: one of them was the end; the weights are those before it.
        """
        for record, in_a_row, has_ended in self.late_check.read(all_but=all_but) if self.late_check is not None else ():
            self.skipped_in_a_row = in_a_row
            self.skipped_steps += int(in_a_row > 0)
            if has_ended:
                raise DivergedError(self._describe(record))

    def _describe(self, record: StepRecord) -> str:
        def token_losses(batch: Batch) -> Tensor:
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                return self.token_losses(batch)

        self.eval()  # without dropout; this is the end of the run
        names = {p: name for name, p in self.model.named_parameters()}
        norms = zip((names[p] for p in record.parameters), record.norms.tolist(), strict=True)
        return describe(
            step=record.step,
            losses=record.losses.tolist(),
            grad_norm=float(record.grad_norm),
            gradient=largest(dict(norms)),
            windows=worst_windows(
                [part for batch in record.batches for part in self.parts(batch)],
                token_losses,
                self.data.tokenizer,
            ),
            skipped=self.skipped_in_a_row - 1,
        )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        trainer = self.trainer
        if trainer.at_step_end:
            self.settle(all_but=0 if trainer.is_log_step else 1)  # what is evaluated has been heard of
        if trainer.is_log_step:
            losses = torch.stack(self.batch_losses)
            mean = (losses * losses.new_tensor(self.batch_weights)).mean()  # over the tokens of this process's batches
            loss = trainer.strategy.reduce(mean, reduce_op="mean")
            trainer.collect({"train/batch_loss": float(loss), "grad_norm": float(self.grad_norm)})
            if self.on_nan == "skip":
                trainer.collect({"skipped_steps": self.skipped_steps})
            if not trainer.is_eval_step(trainer.global_step):  # else the evaluation completes the row
                trainer.flush()
        if trainer.at_step_end:
            self.batches.clear()
            self.batch_losses.clear()
            self.batch_weights.clear()
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
                "direction": direction_of(self.trainer.monitor, self.measured),
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
