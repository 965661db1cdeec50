"""A callback as Lightning's documentation writes them: it logs through the module, and stops."""

import lightning.pytorch as pl


class LogsAndStops(pl.Callback):
    """Logs the number of each batch, and stops within batch `stop`."""

    def __init__(self, stop: int = 10**6) -> None:
        self.stop = stop

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pl_module.log("batch", float(batch_idx))
        if batch_idx == self.stop:
            trainer.should_stop = True

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, loader=0):
        pl_module.log("val_batches", 1.0, on_epoch=True, reduce_fx="sum")

    def on_train_end(self, trainer, pl_module):
        trainer.logger.log_metrics({"ended": 1.0}, step=0)
