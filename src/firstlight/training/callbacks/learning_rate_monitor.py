"""The learning rate of each logged step."""

from typing import Any

import lightning.pytorch as pl

from firstlight.training.trainer import Trainer
from firstlight.training.watching import Watcher


class LearningRateMonitor(Watcher):
    """Logs `lr`, the rate the step was made with.

    Lightning's own logs it one step early and under the optimizer's class name and group number.
    """

    def __init__(self) -> None:
        self.lr = 0.0

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.lr = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(trainer, Trainer)
        if trainer.is_log_step:
            trainer.collect({"lr": self.lr})
