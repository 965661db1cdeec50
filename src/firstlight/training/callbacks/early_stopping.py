"""Stop when a metric no longer improves."""

from functools import partial
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from firstlight.config import FiniteNonNegative, NonEmpty, Steps
from firstlight.errors import counted
from firstlight.metrics.base import Direction
from firstlight.training.callbacks.base import Callback


class EarlyStopping(Callback, LightningEarlyStopping):
    """Lightning's early stopping; a run that is resumed has the patience that is set now.

    `mode` is whether the lowest or the highest values of `monitor` are the better ones; None: as
    the metric says.
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
        # Lightning's constructor derives the sign of min_delta and the first best score from
        # `mode`: `follow` calls it again.
        self.begin = partial(
            super().__init__, monitor, patience=patience, min_delta=min_delta, **kwargs
        )
        self.begin(mode=mode or "min")

    def follow(self, direction: Direction) -> None:
        """Take the direction of the metric, unless `mode` was given."""
        if self.is_free:
            self.begin(mode=direction)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A run that was stopped early could not be resumed otherwise.
        running = EarlyStoppingReason.NOT_STOPPED.value
        super().load_state_dict(
            {**state_dict, "patience": self.patience, "stopping_reason": running}
        )

    def why_ended(self, state: dict[str, Any]) -> str | None:
        reason = EarlyStoppingReason(state.get("stopping_reason", 0))
        if reason == EarlyStoppingReason.NOT_STOPPED:
            return None
        if reason == EarlyStoppingReason.PATIENCE_EXHAUSTED and state["wait_count"] < self.patience:
            return None
        return (
            "was stopped early; raise callbacks.early_stopping.patience to resume it, or remove the"
            " callback with '~callbacks.early_stopping'"
        )

    def why_stopped(self) -> str | None:
        state = self.state_dict()
        if EarlyStoppingReason(state["stopping_reason"]) == EarlyStoppingReason.NOT_STOPPED:
            return None
        if state["wait_count"] < self.patience:
            return f"{self.monitor} has passed a limit of callbacks.early_stopping"
        return f"{self.monitor} has not improved in {counted(self.patience, 'evaluation')}"
