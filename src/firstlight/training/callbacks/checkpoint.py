"""Checkpoints: the last state of the run, and the weights that validated best."""

import math
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from pydantic import PositiveInt

from firstlight.training.trainer import Trainer
from firstlight.weights.find import CHECKPOINTS

Monitor = Literal["val/loss", "val/bits_per_byte", "val/perplexity", "train/loss"]


class Checkpoint(LightningCheckpoint):
    """`checkpoints/last.ckpt`, from which the run can be continued, and `checkpoints/best.ckpt`, weights only.

    Written after every evaluation, and `last.ckpt` also every `every_n_steps`. Only ever between two optimizer steps,
    with no evaluation left to do: a save inside an accumulation, or before an evaluation that is due, would lose it.
    `best.ckpt` is where `monitor` was lowest.
    """

    def __init__(self, *, monitor: Monitor = "val/loss", every_n_steps: PositiveInt | None = None) -> None:
        self.monitor = monitor
        self.every_n_steps = every_n_steps
        self.best = math.inf

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(trainer, Trainer)
        step = trainer.global_step
        if (
            self.every_n_steps is not None
            and step % self.every_n_steps == 0
            and trainer.at_step_end
            and not trainer.is_eval_step(step)
        ):
            trainer.save_checkpoint(folder(trainer) / "last.ckpt")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(trainer, Trainer)
        if trainer.global_step == 0:  # untrained: nothing to keep
            return
        value = float(trainer.callback_metrics[self.monitor])
        if value < self.best:
            self.best = value
            trainer.save_checkpoint(folder(trainer) / "best.ckpt", weights_only=True)
        trainer.save_checkpoint(folder(trainer) / "last.ckpt")


def folder(trainer: pl.Trainer) -> Path:
    """Where the checkpoints of a run lie."""
    return Path(trainer.default_root_dir) / CHECKPOINTS
