"""The run of a range test: the learning rate rises from step to step until the loss does."""

import math
import tempfile
from pathlib import Path
from typing import Any

from firstlight.bench.runs import FailedError, run_quietly
from firstlight.commands.short_run import shortened_to_measure
from firstlight.data.files import user_path
from firstlight.errors import DivergedError
from firstlight.files import existing_place
from firstlight.lr_find.settings import RangeSettings
from firstlight.optim.base import Schedule
from firstlight.runs.run_config import RunConfig
from firstlight.training.callbacks.base import Callback
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer

SMOOTHING = 0.8
"""Share of the running mean that decides when to stop; the curve is smoothed in another way."""


class Rising(Schedule):
    """From `lowest` to `highest`, by the same factor in every step."""

    def __init__(self, lowest: float, highest: float) -> None:
        self.lowest, self.highest = lowest, highest

    def lr(self, step: int, *, max_steps: int, peak: float) -> float:
        share = step / (max_steps - 1)
        return self.lowest ** (1 - share) * self.highest**share


class Watch(Callback):
    """Keeps the rate and the loss of each step, and ends the run when the loss has risen.

    That is when the running mean of the loss is `stop_at` times its lowest value.
    """

    def __init__(self, stop_at: float) -> None:
        self.stop_at = stop_at
        self.rates: list[float] = []
        self.losses: list[float] = []
        """Of each step: that before its update, in training mode."""
        self.mean, self.lowest = math.nan, math.inf
        self.rate = 0.0
        self.has_diverged = False

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: PretrainingModule, optimizer: Any
    ) -> None:
        # Here, since the schedule has set the next step's rate when the batch ends.
        self.rate = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: PretrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not trainer.at_step_end:
            return
        loss = float(pl_module.step_loss)
        if not math.isfinite(loss):  # the guard will end the run
            return
        self.rates.append(self.rate)
        self.losses.append(loss)
        is_first = math.isnan(self.mean)
        self.mean = loss if is_first else SMOOTHING * self.mean + (1 - SMOOTHING) * loss
        self.lowest = min(self.lowest, self.mean)
        if self.mean > self.stop_at * self.lowest:
            self.has_diverged = trainer.should_stop = True

    def on_exception(
        self, trainer: Trainer, pl_module: PretrainingModule, exception: BaseException
    ) -> None:
        self.has_diverged = self.has_diverged or isinstance(exception, DivergedError)


def watched(run: RunConfig, settings: RangeSettings) -> Watch:
    """Make the run of a range test in a folder that is removed again.

    Raises:
        ConfigError: the run was refused.
        FailedError: it failed, and not because the rate was too high.
    """
    changes = shortened_to_measure(run.plain, steps=settings.steps, eval_batches=1)
    watch = Watch(settings.stop_at)

    def alone(arguments: dict[str, Any]) -> None:
        arguments["callbacks"], arguments["logger"] = {"watch": watch}, {}
        arguments["scheduler"] = Rising(settings.lowest, settings.highest)
        # A step that is left out would hide where training becomes unstable.
        arguments["on_nan"], arguments["on_spike"] = "stop", "record"

    place = existing_place(user_path(run.plain["output_dir"]))
    with tempfile.TemporaryDirectory(prefix=".lr_find_", dir=place) as work:
        try:
            run_quietly(run.changed(changes), Path(work) / "run", alone)
        except FailedError:
            # What has diverged has told what it was asked, however it ended.
            if not watch.has_diverged:
                raise
    return watch
