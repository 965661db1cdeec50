"""A callback that ends a run in the middle, as a crash would: named by the tests' configs."""

from typing import Any

import lightning.pytorch as pl


class Crash(Exception):
    """What a crash looks like to the tests."""


class StopAt(pl.Callback):
    def __init__(self, *, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.batch:
            raise Crash
