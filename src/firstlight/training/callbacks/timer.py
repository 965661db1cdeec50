"""Stop after some time."""

from datetime import timedelta
from typing import Any

from lightning.pytorch.callbacks import Timer as LightningTimer

from firstlight.output import note
from firstlight.processes import is_further
from firstlight.training.callbacks.base import Callback


class Timer(Callback, LightningTimer):
    """Lightning's, which ends a run after `duration` (DD:HH:MM:SS), with an evaluation and saved.

    The time before a run was resumed counts.
    """

    def on_fit_start(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: whether there is time left is asked before (`why_ended`)."""

    def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        remaining = self.time_remaining()
        if remaining is None or not trainer.at_step_end or trainer.should_stop:
            return
        # Clocks of machines differ, and all processes must stop after the same step.
        if trainer.agreed(int(remaining <= 0)):
            trainer.should_stop = True
            if not is_further():
                elapsed = timedelta(seconds=round(self.time_elapsed()))
                note(f"time limit reached ({elapsed}): stopping after step {trainer.global_step}")

    def why_ended(self, state: dict[str, Any]) -> str | None:
        remaining, elapsed = self.time_remaining(), state.get("time_elapsed", {}).get("train", 0)
        if remaining is None or elapsed < remaining:
            return None
        return f"was stopped after {timedelta(seconds=round(elapsed))}; raise the duration of Timer"

    def why_stopped(self) -> str | None:
        remaining = self.time_remaining()
        return "its time was over" if remaining is not None and remaining <= 0 else None
