"""Pruning: each evaluation is reported to the ledger; trials that fall behind are stopped."""

from typing import Any

import lightning.pytorch as pl
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner

from firstlight.errors import ConfigError, RunError
from firstlight.output import note
from firstlight.processes import SweepTrial
from firstlight.sweep.ledger import Ledger
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer


class Pruning(pl.Callback):
    """Reports `val/loss` of every evaluation, and ends the run where `sweep.pruner` says so.

    What the other trials had reached at this step decides, so that it is the same whenever they ran
    before this one. A ledger that cannot be used is reported once, and never ends the run.
    """

    def __init__(self, trial: SweepTrial) -> None:
        self.sweep, self.number = trial.sweep, trial.number
        self.ledger: Ledger | None = None
        self.trial: optuna.trial.Trial | None = None
        self.is_over = False
        """Whether reporting has ended: it failed, or there are several objectives."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(trainer, Trainer) and isinstance(pl_module, PretrainingModule)
        step, loss = trainer.global_step, pl_module.metrics.get("val/loss")
        if step == 0 or loss is None:
            return
        # Only the first process uses the ledger; the others must stop at the same step.
        is_hopeless = False
        if trainer.is_global_zero and not self.is_over:
            try:
                is_hopeless = self._is_hopeless(loss, step, trainer)
            except (RunError, ConfigError) as error:
                self.is_over = True
                note(f"nothing more is reported to the sweep; training continues ({error})")
        if trainer.strategy.broadcast(is_hopeless):
            trainer.should_stop = True

    def _is_hopeless(self, loss: float, step: int, trainer: Trainer) -> bool:
        if self.ledger is None:
            self.ledger = Ledger.open(self.sweep)
        settings = self.ledger.record.settings
        if len(settings["objectives"]) > 1:  # Optuna takes reports of one objective only
            self.is_over = True
            return False
        if self.trial is None:
            self.trial = self.ledger.trial(self.number, pruner_of(settings, trainer))
        with self.ledger.used():
            # A resumed run evaluates some steps again, and Optuna warns of a second report.
            if step not in self.ledger.frozen(self.number).intermediate_values:
                self.trial.report(loss, step)
            is_hopeless = self.trial.should_prune() and step < trainer.max_steps
            if is_hopeless:
                self.trial.set_user_attr("pruned_at_step", step)
        return is_hopeless

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.ledger is not None:
            self.ledger.close()


def pruner_of(settings: dict[str, Any], trainer: Trainer) -> BasePruner:
    """Optuna's pruner for `sweep.pruner` and runs of this length."""
    wait = settings["prune_after_steps"]
    if settings["pruner"] == "median":
        return MedianPruner(n_startup_trials=2, n_warmup_steps=wait)
    if settings["pruner"] == "hyperband":
        least = max(wait, trainer.clock.eval_every_n_steps)
        return HyperbandPruner(
            min_resource=min(least, trainer.max_steps), max_resource=trainer.max_steps
        )
    return NopPruner()
