"""Trials that fall behind are stopped: every evaluation is reported to the ledger, and compared with the others'."""

from pathlib import Path

import lightning.pytorch as pl
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner

from firstlight.errors import ConfigError, RunError
from firstlight.output import note
from firstlight.sweep.ledger import Ledger
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer


class Pruning(pl.Callback):
    """Reports `val/loss` of every evaluation, by step, and ends the run where `sweep.pruner` gives it up.

    What the other trials had reached at this step decides, so that it is the same whenever they ran before this one.
    A ledger that cannot be reached is told once, and never ends the run.
    """

    def __init__(self, *, sweep: str, number: int) -> None:
        self.sweep, self.number = Path(sweep), number
        self.trial: optuna.trial.Trial | None = None
        self.ledger: Ledger | None = None
        self.has_failed = self.is_silent = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(trainer, Trainer) and isinstance(pl_module, PretrainingModule)
        step, loss = trainer.global_step, pl_module.metrics.get("val/loss")
        if step == 0 or loss is None:
            return
        is_hopeless = self._is_hopeless(loss, step, trainer) if trainer.is_global_zero else False
        if trainer.strategy.broadcast(is_hopeless):
            trainer.should_stop = True

    def _is_hopeless(self, loss: float, step: int, trainer: Trainer) -> bool:
        if self.has_failed or self.is_silent:
            return False
        try:
            if self.trial is None:
                self.ledger = Ledger.open(self.sweep)
                self.is_silent = len(self.ledger.record.settings["objectives"]) > 1  # of which Optuna takes no reports
                if self.is_silent:
                    return False
                self.trial = self.ledger.trial(self.number, pruner_of(self.ledger.record.settings, trainer))
            assert self.ledger is not None
            with self.ledger.used():
                reported = self.ledger.frozen(self.number).intermediate_values
                if step not in reported:  # a resumed run evaluates again what was not saved
                    self.trial.report(loss, step)
                hopeless = self.trial.should_prune()
                if hopeless and step < trainer.max_steps:
                    self.trial.set_user_attr("pruned_at_step", step)
                    return True
        except (RunError, ConfigError) as error:
            self.has_failed = True
            note(f"nothing more is reported to the sweep; training continues ({error})")
        return False

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.ledger is not None:
            self.ledger.close()


def pruner_of(settings: dict[str, object], trainer: Trainer) -> BasePruner:
    """What `sweep.pruner` means for runs of this length."""
    wait = settings["prune_after_steps"]
    assert isinstance(wait, int)
    if settings["pruner"] == "median":
        return MedianPruner(n_startup_trials=2, n_warmup_steps=wait)
    if settings["pruner"] == "hyperband":
        least = max(wait, trainer.clock.eval_every_n_steps)
        return HyperbandPruner(min_resource=min(least, trainer.max_steps), max_resource=trainer.max_steps)
    return NopPruner()
