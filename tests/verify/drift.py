"""A callback whose effect depends on the time: named by the tests' configs."""

import time
from typing import Any

import lightning.pytorch as pl
import torch


class Drift(pl.Callback):
    """Adds to a weight what no other run adds, after the step `at`."""

    def __init__(self, *, at: int) -> None:
        self.at = at

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.at:
            with torch.no_grad():
                pl_module.model.final_norm.bias[0] += time.monotonic_ns() % 1_000_000 / 1e6
