"""The learning rate of each logged step."""

from typing import Any

from firstlight.training.callbacks.base import Watcher
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer


class LearningRateMonitor(Watcher):
    """Logs `lr`, the rate the step was made with.

    Lightning's own logs it one step early and under the optimizer's class name and group number.
    """

    def __init__(self) -> None:
        self.lr = 0.0

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: PretrainingModule, optimizer: Any
    ) -> None:
        # Here, since the scheduler has set the next step's rate when the batch ends.
        self.lr = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: PretrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.is_log_step:
            trainer.collect({"lr": self.lr})
