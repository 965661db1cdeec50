"""A worker of a sweep: takes a planned trial, has it made, and takes the next, until there is none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from firstlight.errors import RunError
from firstlight.output import say
from firstlight.processes import TRIAL
from firstlight.runs.later_keys import without
from firstlight.sweep import report
from firstlight.sweep.ledger import Ledger, Row
from firstlight.sweep.plan import Check, composed, digest, refusal
from firstlight.sweep.record import folder_name, space_of_record, trial_overrides
from firstlight.sweep.space import Parameter
from firstlight.training.stopping import Stopped

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[Any]]
"""Of a Hydra launcher: the overrides of some jobs, and the number of the first."""


@dataclass(frozen=True)
class Worker:
    """Makes the trials of the sweep in `ledger`, `at_once` of them at a time."""

    ledger: Ledger
    launch: Launch
    check: Check
    at_once: int

    def work(self) -> None:
        """Make trials until none is planned.

        Raises:
            Stopped: a signal has asked the sweep to stop.
        """
        while batch := self._take(self.at_once):
            for row in batch:
                say(report.begins(row, self.ledger))
            ended = self.launch([self._job(row) for row in batch], batch[0].number)
            outcomes = [job.return_value for job in ended]
            for row in batch:
                say(report.ends(self.ledger.row(row.number), self.ledger.rows()))
            if signums := [outcome.signal for outcome in outcomes if outcome.signal]:
                raise Stopped(signums[0])

    def _take(self, n: int) -> list[Row]:
        """Up to `n` rows that this worker has taken, drawn and checked."""
        batch: list[Row] = []
        while len(batch) < n and (number := self.ledger.take()) is not None:
            is_ready = False
            try:
                is_ready = self._prepare(self.ledger.row(number))
            except BaseException:
                self.ledger.free(number)
                raise
            if is_ready:
                batch.append(self.ledger.row(number))
            else:
                say(report.ends(self.ledger.row(number), self.ledger.rows()))
        return batch

    def _prepare(self, row: Row) -> bool:
        """Draw what is not drawn yet; False if what was drawn cannot be trained."""
        record, space = self.ledger.record, space_of_record(self.ledger.record)
        with self.ledger.locked():  # of the repetitions of a point one is drawn, whoever makes the others
            if (twin := self._twin(row)) is not None:
                self.ledger.fix(row.number, twin.params)
            trial = self.ledger.trial(row.number, sampler=sampler_of(record.settings, row.point))
            with self.ledger.used():
                point = space.point(lambda parameter: _suggested(trial, parameter))
                overrides = space.overrides(point)
        plain, kept = composed(trial_overrides(record, overrides, row.seed), record.config_dir, self.check)
        folder = row.folder or folder_name(row.number, overrides, row.seed, record.seeds)
        self.ledger.note(
            row.number, overrides=overrides, folder=folder, config=digest(without(kept, list(record.later)))
        )
        problem = refusal(plain)
        if problem is not None:
            self.ledger.finish(row.number, TrialState.FAIL, refused=True, error=f"cannot be trained: {problem}")
        return problem is None

    def _twin(self, row: Row) -> Row | None:
        """Another repetition of the same point that has been drawn, if this one has not."""
        if row.params:
            return None
        return next((r for r in self.ledger.rows() if r.point == row.point and r.params), None)

    def _job(self, row: Row) -> list[str]:
        overrides = trial_overrides(self.ledger.record, row.overrides, row.seed)
        return [*overrides, f"+hydra.job.env_set.{TRIAL}='{row.number}'"]


def _suggested(trial: optuna.trial.Trial, parameter: Parameter) -> Any:
    match parameter.distribution:
        case FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(parameter.key, low, high, log=log)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(parameter.key, low, high, step=step, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(parameter.key, choices)
    raise AssertionError(parameter.distribution)


def sampler_of(settings: dict[str, Any], number: int) -> BaseSampler:
    """What draws the point `number`: seeded by it, so that a resumed sweep draws what it would have drawn."""
    seed = (settings["seed"] + 1_000_003 * number) % 2**32
    match settings["sampler"]:
        case "random" | "grid":
            return RandomSampler(seed=seed)
        case "nsgaii":
            return NSGAIISampler(seed=seed)
        case _:
            return TPESampler(seed=seed)


def work_on(folder: Path, launch: Launch, check: Check, at_once: int) -> None:
    """Make the trials of the sweep in `folder` with a Hydra launcher, and say how it went.

    Raises:
        ConfigError: its config has changed since it was planned.
        RunError: trials have failed, or the ledger cannot be used.
        SystemExit: a signal has stopped the sweep; code 128 + its number.
    """
    ledger = Ledger.open(folder)
    try:
        if any(row.state == "planned" for row in ledger.rows()):
            say(report.opening(ledger))
        try:
            Worker(ledger, launch, check, at_once).work()
        except (Stopped, KeyboardInterrupt) as stop:
            say(f"\nstopped\n{report.whereabouts(ledger)}")
            raise SystemExit(stop.code if isinstance(stop, Stopped) else 130) from None
        report.show(ledger)
        rows = [row for row in ledger.rows() if row.replaced_by is None]
        failed = [row for row in rows if row.state == "failed"]
        if failed:
            some = f"{len(failed)} of {len(rows)} trials failed, the first: {failed[0].name}: {failed[0].error}"
            raise RunError(f"{some}\nmake them again with: {report.resuming(ledger, 'retry')}")
    finally:
        ledger.close()
