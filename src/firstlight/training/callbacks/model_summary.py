"""A table of the model's layers."""

from typing import Any

from lightning.pytorch.callbacks import ModelSummary as LightningModelSummary
from lightning.pytorch.utilities.model_summary.model_summary import summarize
from pydantic import PositiveInt

from firstlight.output import tell
from firstlight.training.callbacks.base import Watcher


class ModelSummary(Watcher, LightningModelSummary):
    """Shows the parameters, operations (FLOPs) and shapes of each layer for one window.

    Lightning's logs the same table, to a logger that is silenced here. The first level of
    `max_depth` is the model itself.
    """

    def __init__(self, max_depth: PositiveInt = 2, **kwargs: Any) -> None:
        super().__init__(max_depth=max_depth, **kwargs)
        self.max_depth = max_depth

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            tell(str(summarize(pl_module, max_depth=self.max_depth)))
