"""Stop when a metric no longer improves."""

from typing import Any, Literal

from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from firstlight.config import FiniteNonNegative, Steps
from firstlight.training.callbacks.base import Callback
from firstlight.training.callbacks.checkpoint import Monitor


class EarlyStopping(Callback, LightningEarlyStopping):
    """Lightning's, for a run that is resumed: with the patience of today, not the one that it was saved with."""

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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        running = EarlyStoppingReason.NOT_STOPPED.value  # else a run that was stopped would not resume
        super().load_state_dict({**state_dict, "patience": self.patience, "stopping_reason": running})

    def why_ended(self, state: dict[str, Any]) -> str | None:
        reason = EarlyStoppingReason(state.get("stopping_reason", 0))
        if reason == EarlyStoppingReason.NOT_STOPPED:
            return None
        if reason == EarlyStoppingReason.PATIENCE_EXHAUSTED and state["wait_count"] < self.patience:
            return None
        return (
            "was stopped early; raise callbacks.early_stopping.patience to resume it, or remove the callback with "
            "'~callbacks.early_stopping'"
        )
