"""One training step, its optimizer and schedule, and what a checkpoint of it says."""

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from firstlight.checkpoints.checkpoint import with_tied_names
from firstlight.checkpoints.folder_io import RECORD
from firstlight.data.loader import Batch
from firstlight.data.token_data import Loader, TokenDataModule
from firstlight.errors import ConfigError, DivergedError
from firstlight.loss.base import Loss
from firstlight.metrics.base import Metric
from firstlight.metrics.measured import direction_of
from firstlight.model.base import LanguageModel
from firstlight.optim.base import OptimizerFactory, Schedule
from firstlight.output import note
from firstlight.runs.run_folder import SPIKES
from firstlight.training.bad_steps import BadSteps
from firstlight.training.lightning import forget_end, handles_scaling, norms_of, scaler_of
from firstlight.training.memory.micro_batches import cut, cut_into, n_parts_of
from firstlight.training.next_token import NextTokenModule
from firstlight.training.nonfinite.guard import Guard, OnNan
from firstlight.training.nonfinite.late_check import StepRecord
from firstlight.training.sharding import clip, is_sharded, local, shard
from firstlight.training.spikes.recent import OnSpike
from firstlight.training.spikes.record import forget_later
from firstlight.training.token_counts import TokenCounts
from firstlight.training.trainer import Trainer


def sent(batch: Batch, device: torch.device) -> Batch:
    """Send a batch to a GPU through pinned memory: from other memory the host may wait.

    Contiguous first: a part of a larger tensor would be sent through a copy that is not pinned.
    """
    inputs, targets = (
        part.contiguous().pin_memory().to(device, non_blocking=True) for part in batch
    )
    return inputs, targets


class PretrainingModule(NextTokenModule):
    """Pre-trains `model` on next tokens: a loss, an optimizer, a schedule, clipping by norm.

    Logs `train/batch_loss` (in training mode, of the step's batches) and `grad_norm` (before
    clipping) every `log_every_n_steps`, and `train/...` and `val/...` (in evaluation mode) at every
    evaluation. `config` is the composed config as plain data, for the checkpoint. With
    `on_nan="skip"` or `on_spike="skip"` it also logs `skipped_steps`, how many there have been (see
    `Guard`).
    """

    trainer: Trainer  # type: ignore[assignment]

    def __init__(
        self,
        *,
        model: LanguageModel,
        data: TokenDataModule,
        loss: Loss,
        optimizer: OptimizerFactory,
        scheduler: Schedule,
        config: dict[str, Any],
        metrics: list[Metric] | None = None,
        on_nan: OnNan = "stop",
        on_spike: OnSpike = "record",
    ) -> None:
        super().__init__(
            model=model,
            byte_lengths=data.tokenizer.byte_lengths,
            loss=loss,
            optimizer=optimizer,
            scheduler=scheduler,
            config=config,
            metrics=metrics,
        )
        self.splits = ["train", "val"]
        self.data = data
        told = BadSteps(self)
        self.guard = Guard(
            on_nan,
            on_spike,
            describe=told.describe,
            record_spike=told.record_spike,
            mean_of_all=self._mean_of_all,
        )
        self.batches: list[Batch] = []
        self.batch_losses: list[Tensor] = []
        self.batch_weights: list[float] = []
        """Of this step's batches their share of its tokens, relative to that of batches of equal
        size."""
        self.n_parts = 1
        """Those of the present batch, which go through the model one after another."""
        self.grad_norm = torch.tensor(0.0)
        self.step_loss = torch.tensor(0.0)
        """The mean over the tokens of this process's batches, in training mode."""
        self.gradients: tuple[list[nn.Parameter], Tensor] = [], torch.empty(0)
        """Of the present step: the parameters with a gradient, and its norms (P,) unclipped."""
        self.token_counts: TokenCounts | None = None
        """Counted if a metric needs it."""
        self.evaluated_step: int | None = None
        self.compile_seconds: float | None = None
        """Seconds that `Compilation` took; None: the model is not compiled."""

    def setup(self, stage: str) -> None:
        if not isinstance(self.trainer, Trainer):
            raise ConfigError(
                "PretrainingModule needs firstlight's Trainer; for Lightning's own use"
                " LanguageModule (docs/lightning.md)"
            )
        if any(metric.needs_counts for metric in self.measured):
            device = self.trainer.strategy.root_device
            # As the sums of evaluations, which stay on the CPU where MPS trains.
            place = torch.device("cpu") if device.type == "mps" else device
            self.token_counts = TokenCounts(self.model.vocab_size, place, self.over_processes)

    def configure_model(self) -> None:
        if self.trainer.is_sharded and not is_sharded(self.parameters()):
            shard(self, self.model, ["mean_loss", "scored"])

    def train_dataloader(self) -> Loader:
        """What is left of the run, as one pass: a run is only saved between two steps."""
        clock = self.trainer.clock
        done = self.trainer.global_step * clock.batches_per_step
        stop, share = clock.total_batches, self.training_share
        return self.data.train_batches(start=done, stop=stop, share=share)

    def val_dataloader(self) -> list[Loader]:
        """The loaders of an evaluation: training windows, in evaluation mode, and validation."""
        return self.data.evaluations(
            is_untrained=lambda: self.trainer.global_step == 0, share=self.training_share[:2]
        )

    @property
    def training_share(self) -> tuple[int, int, int]:
        """The shards of each training batch that this process takes."""
        return self.trainer.global_rank, self.trainer.world_size, self.trainer.shards_each

    def on_train_start(self) -> None:
        if self.trainer.is_global_zero:
            trainer = self.trainer
            trainer.failures.attempt(SPIKES, forget_later, trainer.folder, trainer.global_step)
        if self.trainer.global_step == 0:
            self.trainer.evaluate_untrained()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.trainer.advance()
        self.loss.begin_step(self.trainer.global_step, max_steps=self.trainer.max_steps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, weighted so that the gradient is the mean over a step's tokens.

        Lightning divides by the number of batches, and DDP by the number of processes, as if all
        were of one size. With `drop_last=false` an epoch ends in a smaller batch, and a batch may
        not be a multiple of the processes.
        """
        step = batch_idx // self.accumulated + 1
        n_windows = self.trainer.clock.windows_of(step)
        n_batches = self.accumulated * self.trainer.world_size

        def weight_of(part: Batch) -> float:
            # Exactly 1 where all batches have one size, so that nothing is rounded.
            return len(part[0]) * n_batches / n_windows

        parts = self.training_parts(batch, batch_idx)
        self.n_parts, of_a_shard = len(parts), len(parts) // self.trainer.shards_each
        # Lightning would do this later, and lose the gradients of these parts.
        if self.n_parts > 1 and batch_idx % self.accumulated == 0:
            self.trainer.optimizers[0].zero_grad()
        others: list[Tensor] = []
        for number, part in enumerate(parts):
            if number % of_a_shard == 0:
                self._seed_shard(batch_idx, number // of_a_shard)
            if number < self.n_parts - 1:
                others.append(self._backward(part, weight_of(part)))
        loss = self._weighted_loss(parts[-1], weight_of(parts[-1]))
        if others:  # the mean over all tokens, with the gradient of the last part
            loss = loss + torch.stack(others).sum()
        weight = weight_of(batch)
        if self.token_counts is not None:
            self.token_counts.add(batch[1])
        self.batches.append(batch)
        self.batch_weights.append(weight)
        self.batch_losses.append(loss.detach() if weight in (0.0, 1.0) else loss.detach() / weight)
        return loss

    def training_parts(self, batch: Batch, number: int) -> list[Batch]:
        """The parts of training batch `number`, as many of each shard that this process has."""
        trainer, most = self.trainer, self.trainer.micro_batch_size
        if trainer.virtual_shards is None and not trainer.is_sharded:
            return cut(batch, most)
        # By the largest shard of all processes: what a shard is cut into does not depend on who
        # computes it, and with fsdp2 all processes gather a block for each part.
        largest = -(-self.data.windows_of(number, number + 1) // trainer.n_shards)
        n_parts = n_parts_of(largest, most)
        shards = cut_into(batch, trainer.shards_each)
        return [part for shard in shards for part in cut_into(shard, n_parts)]

    def _seed_shard(self, batch: int, number: int) -> None:
        """Seed what dropout draws for one of this process's shards of a batch."""
        # Batches count over the whole run, which is one pass: a resumed run continues with its
        # number.
        shard = self.trainer.global_rank * self.trainer.shards_each + number
        self.data.order.seed_batch(batch, shard, self.device)

    @property
    def accumulated(self) -> int:
        """Batches of a step."""
        return self.trainer.accumulate_grad_batches

    def _weighted_loss(self, part: Batch, weight: float) -> Tensor:
        # This process has no window of the batch, but DDP waits for its gradients: zeros.
        if len(part[0]) == 0:
            return self.mean_loss(self._stand_in()) * 0.0
        loss = self.mean_loss(part)
        return loss if weight == 1 else loss * weight

    def parts(self, batch: Batch) -> list[Batch]:
        most = self.trainer.micro_batch_size
        if not self.trainer.is_sharded or most is None:
            return cut(batch, most)
        # All gather a block for each part: those with a smaller share make as many passes.
        return cut_into(batch, self.trainer.agreed(n_parts_of(len(batch[0]), most)))

    # Not in a class above: Lightning warns of this hook where a stock trainer has a data module.
    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        if device.type != "cuda":
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return sent(batch, device)

    def _stand_in(self) -> Batch:
        """A batch for a process without a window, where the others wait for its pass."""
        first = self.data.windows["train"][torch.tensor([0])]
        return self.transfer_batch_to_device(first, self.device, 0)

    def pass_without_windows(self) -> None:
        if self.trainer.is_sharded:  # the others need this process's part of the weights
            self.scored(self._stand_in())

    def _backward(self, part: Batch, weight: float) -> Tensor:
        """Add the gradient of a part of a batch; return its share of the mean loss.

        DDP adds up the processes with the last part.
        """
        loss = self._weighted_loss(part, weight)
        profiled = self.trainer.profiler.profile("[LightningModule]PretrainingModule.backward")  # type: ignore[attr-defined]
        # As in Lightning's own backward, which is outside of autocast.
        with torch.autocast(self.device.type, enabled=False), profiled:
            self.trainer.strategy.backward(loss / self.accumulated, optimizer=None)
        return loss.detach()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        if self.n_parts == 1:  # else it has been done
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm, and keep the norm.

        Lightning's own method refuses a fused optimizer under mixed precision.
        """
        scaler = scaler_of(self.trainer)
        if scaler is not None and handles_scaling(optimizer):
            # Lightning leaves unscaling to such an optimizer, but its step comes after the norm is
            # taken.
            scaler.unscale_(optimizer)
        # Norms of 16-bit gradients are taken in float32, where their squares do not overflow.
        parameters = [p for p in self.all_parameters if p.grad is not None]
        grads = [local(p.grad) for p in parameters if p.grad is not None]
        wide = torch.promote_types(grads[0].dtype, torch.float32)
        norms = norms_of(grads, wide)  # (P,)
        if self.trainer.is_sharded:
            norms = self.trainer.strategy.reduce(norms.square(), reduce_op="sum").sqrt()
        self.grad_norm, self.gradients = torch.linalg.vector_norm(norms), (parameters, norms)
        # Divided by a norm that is not finite, all gradients would be lost: one must be blamed.
        if gradient_clip_val is not None:
            norm = torch.where(self.grad_norm.isfinite(), self.grad_norm, 0.0)
            clip(parameters, gradient_clip_val, norm)
        # The last moment before the update, at which the whole step is known.
        losses = torch.stack(self.batch_losses)  # (batches of the step,)
        # Weighted, so that it is the mean over tokens; by numbers, since a tensor of them would be
        # sent to the device.
        weighted = zip(self.batch_losses, self.batch_weights, strict=True)
        self.step_loss = torch.stack([loss * weight for loss, weight in weighted]).mean()
        step = self.trainer.global_step + 1
        record = StepRecord(
            step, [*self.batches], losses, self.step_loss, self.grad_norm, parameters, norms
        )
        self.guard.judge(record, optimizer, scaler, self.device)

    @cached_property
    def all_parameters(self) -> list[nn.Parameter]:
        """The model's parameters; cached: collecting them takes longer than clipping them."""
        return list(self.model.parameters())

    def _mean_of_all(self, numbers: Tensor) -> Tensor:
        """The mean of `numbers` over all processes: they must decide alike.

        One that skips a step alone would have other weights from then on.
        """
        if self.trainer.world_size == 1:
            return numbers
        return self.trainer.strategy.reduce(numbers, reduce_op="mean")

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        trainer = self.trainer
        trainer.advance()
        if not trainer.at_step_end:
            return
        # On a logged step the host must know of all steps: what is evaluated has been judged.
        self.guard.settle(all_but=0 if trainer.is_log_step else 1)
        if trainer.is_log_step:
            loss = trainer.strategy.reduce(self.step_loss, reduce_op="mean")
            trainer.collect({"train/batch_loss": float(loss), "grad_norm": float(self.grad_norm)})
            if "skip" in (self.guard.on_nan, self.guard.on_spike):
                trainer.collect({"skipped_steps": self.guard.skipped})
        self.batches.clear()
        self.batch_losses.clear()
        self.batch_weights.clear()
        # After other steps the evaluation completes the row, and the step.
        if not trainer.is_eval_step:
            trainer.flush()
            trainer.step_complete()

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Collect what a callback logs in training; Lightning would write it after the row."""
        if not self.trainer.training:
            super().log(name, value, *args, **kwargs)
        elif self.trainer.in_log_step:
            self.trainer.collect({name: float(value)})

    def on_train_end(self) -> None:
        """After the callbacks': nothing of what they have logged is lost."""
        self.trainer.flush()

    def on_validation_end(self) -> None:
        """After the callbacks': the samples and the figures of this evaluation are there."""
        self.trainer.flush()
        if self.trainer.global_step > 0:
            self.trainer.step_complete()

    def times_trained(self, ids: Tensor) -> Tensor | None:
        return None if self.token_counts is None else self.token_counts.of(ids)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        if self.token_counts is not None:
            self.token_counts.gather()

    def on_validation_batch_start(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.trainer.advance()

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        for name, value in self.metrics.items():  # before anything is sampled or saved
            if name.endswith("/loss") and not math.isfinite(value):
                raise DivergedError(
                    f"{name} is {value} after step {self.trainer.global_step}; a lower optimizer.lr"
                    " may help"
                )
        self.evaluated_step = self.trainer.global_step
        self.trainer.collect(self.metrics)
        for name, value in self.metrics.items():  # for callbacks that monitor a metric by name
            self.trainer.callback_metrics[name] = torch.tensor(value, dtype=torch.float64)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # What was measured at another step is not the score of these weights.
        metrics = self.metrics if self.evaluated_step == self.trainer.global_step else {}
        checkpoint[RECORD] = {
            "config": self.config,
            "tokenizer": self.tokenizer_state,
            "metrics": dict(self.metrics),
            "skipped_steps": self.guard.state(),
            "recent_steps": self.guard.recent.state(),
            "manifest": {
                "tokens": self.trainer.tokens_seen,
                "monitor": self.trainer.monitor,
                "direction": direction_of(self.trainer.monitor, self.measured),
                "metrics": dict(metrics),
                "fingerprint": self.fingerprint,
            },
        }
        if self.token_counts is not None:
            self.token_counts.gather()
            checkpoint[RECORD]["token_counts"] = self.token_counts.total

    def _load_counts(self, total: Tensor | None) -> None:
        assert self.token_counts is not None
        if total is not None:
            self.token_counts.total.copy_(total)
            return
        self.token_counts = None
        if self.trainer.is_global_zero:
            note(
                "how often each token was trained on was not counted when this run began: metrics"
                " that need it, such as loss_by_count, are not measured"
            )

    @cached_property
    def tokenizer_state(self) -> dict[str, Any]:
        """Cached: the tokenizer does not change during a run."""
        return self.data.tokenizer.state_dict()

    @cached_property
    def fingerprint(self) -> dict[str, int | str]:
        """Cached: the data does not change during a run."""
        return self.data.fingerprint()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A tied tensor is stored once, and load_state_dict wants all of its names.
        checkpoint["state_dict"] = with_tied_names(self, checkpoint["state_dict"])
        self.metrics = dict(checkpoint[RECORD]["metrics"])
        self.guard.load(checkpoint[RECORD]["skipped_steps"])
        recent = checkpoint[RECORD].get("recent_steps")
        if recent is not None:  # earlier versions kept none
            self.guard.recent.load(recent)
        if self.token_counts is not None:
            self._load_counts(checkpoint[RECORD].get("token_counts"))
        forget_end(checkpoint)  # with a new max_steps the run has not reached its end
