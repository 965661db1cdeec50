"""Stop when a metric no longer improves."""

from typing import Any, Literal

from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

from firstlight.config import FiniteNonNegative, Steps
from firstlight.training.callbacks.checkpoint import Monitor


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, with a metric and a mode that there are: its own ends a run with a traceback when it looks."""

    def __init__(
        self,
        *,
        monitor: Monitor = "val/loss",
        mode: Literal["min", "max"] = "min",
        patience: Steps = 3,
        min_delta: FiniteNonNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(monitor, mode=mode, patience=patience, min_delta=min_delta, **kwargs)
