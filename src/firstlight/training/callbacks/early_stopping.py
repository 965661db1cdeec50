"""Stop when a metric no longer improves."""

from functools import partial
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

from firstlight.config import FiniteNonNegative, NonEmpty, Steps
from firstlight.metrics.base import Direction


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, with a metric and a mode that there are: its own ends a run with a traceback when it looks.

    `mode` is whether the lowest or the highest values of `monitor` are the better ones; None: as the metric says.
    """

    def __init__(
        self,
        *,
        monitor: NonEmpty = "val/loss",
        mode: Direction | None = None,
        patience: Steps = 3,
        min_delta: FiniteNonNegative = 0.0,
        **kwargs: Any,
    ) -> None:
        self.is_free = mode is None
        self.begin = partial(super().__init__, monitor, patience=patience, min_delta=min_delta, **kwargs)
        self.begin(mode=mode or "min")

    def follow(self, direction: Direction) -> None:
        """Take the direction of the metric, unless `mode` was given."""
        if self.is_free:
            self.begin(mode=direction)
