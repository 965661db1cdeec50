"""A worker of a sweep: it takes planned trials, one after another, until none is left."""

import signal
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from firstlight.errors import RunError
from firstlight.output import say
from firstlight.process_group import main_not_run_again
from firstlight.processes import TRIAL
from firstlight.sweep import report
from firstlight.sweep.launchers import Launch, LauncherError
from firstlight.sweep.ledger import Ledger, Row
from firstlight.sweep.plan import compose_trial, why_untrainable
from firstlight.sweep.points import current
from firstlight.sweep.record import folder_name, space_of_record, trial_overrides
from firstlight.sweep.signs import await_signs
from firstlight.sweep.space import Parameter
from firstlight.training.stopping import (
    REQUEUE_SIGNAL,
    Stopped,
    StopSignals,
    in_slurm_job,
    requeue_slurm_job,
)


def work_on(folder: Path, launch: Launch, at_once: int, *, as_part: bool = False) -> None:
    """Make the trials of the sweep in `folder` with a Hydra launcher, and report how it went.

    `at_once` trials run at a time. Of a sweep that is made `as_part` of something larger, which
    reports by itself, the tables are left out, and how it is resumed.

    Raises:
        ConfigError: its config has changed since it was planned.
        RunError: trials have failed, the launcher has lost one, or the ledger cannot be used.
        Stopped: a signal has stopped the sweep; as SystemExit with the code 128 + its number.
    """
    with closing(Ledger.open(folder)) as ledger:
        if any(row.state == "planned" for row in ledger.rows()):
            say(report.opening_line(ledger))
        try:
            Worker(ledger, launch, at_once).work()
        except LauncherError as error:
            # A trial whose process is gone is resumed by whoever takes it next.
            again = report.resuming(ledger, "resume")
            raise RunError(
                f"{error}\ntrials that are done are kept; resume with: {again}"
            ) from error
        except (Stopped, KeyboardInterrupt) as stop:
            if not as_part:
                say(f"\nstopped\n{report.progress_line(ledger)}")
            signum = stop.signum if isinstance(stop, Stopped) else signal.SIGINT
            # Here, and not by the trial: the signal may come between two of them.
            if signum == REQUEUE_SIGNAL and in_slurm_job():
                requeue_slurm_job()
            raise Stopped(signum, folder) from None
        if not as_part:
            report.show(ledger)
        rows = current(ledger.rows())
        failed = [row for row in rows if row.state == "failed"]
        if failed:
            problem = f"{len(failed)} of {len(rows)} trials failed, the first: {failed[0].name}:"
            again = "" if as_part else f"\nretry them with: {report.resuming(ledger, 'retry')}"
            raise RunError(f"{problem} {failed[0].error}{again}")


@dataclass(frozen=True)
class Worker:
    """Makes the trials of the sweep in `ledger`, `at_once` of them at a time."""

    ledger: Ledger
    launch: Launch
    at_once: int

    def work(self) -> None:
        """Make trials until none is planned.

        Raises:
            Stopped: a signal has asked the sweep to stop.
        """
        # The signals of launchers that start several processes are theirs.
        signals = StopSignals(after="this trial") if self.at_once == 1 else None
        with signals or nullcontext():
            self._make_planned(signals)
            # Whoever was making a trial elsewhere may be gone: then it is planned again.
            while await_signs(self.ledger, lambda: signals is not None and signals.received > 0):
                self._make_planned(signals)

    def _make_planned(self, signals: StopSignals | None) -> None:
        """Make trials until none is planned now.

        Raises:
            Stopped: a signal has asked the sweep to stop.
        """
        while batch := self._take():
            if signals is not None and signals.received:  # while its values were drawn
                for row in batch:
                    self.ledger.free(row.number)
            else:
                self._make(batch)
            if signals is not None and signals.received:
                raise Stopped(signals.received)

    def _make(self, batch: list[Row]) -> None:
        jobs = []
        for row in batch:
            say(report.begins(row, self.ledger))
            overrides = trial_overrides(self.ledger.record, row.overrides, row.seed)
            jobs.append([*overrides, f"+hydra.job.env_set.{TRIAL}='{row.number}'"])
        # A launcher of several processes would have them import the user's script.
        try:
            with main_not_run_again():
                ended = self.launch(jobs, batch[0].number)
        except LauncherError:
            # As they would be if this process ended now: in a notebook it lives on, and `resume`
            # there would take its rows for those of a worker that is alive.
            for row in batch:
                self.ledger.give_back(row)
            raise
        # What `make_trial` has returned; `return_value` raises what a job has raised.
        signums = [job.return_value for job in ended]
        for row in batch:
            self._say_end(row.number)
        for signum in signums:
            if signum:
                raise Stopped(signum)

    def _take(self) -> list[Row]:
        """Up to `at_once` rows that this worker has taken, drawn and checked."""
        batch: list[Row] = []
        while len(batch) < self.at_once:
            number = self.ledger.take()
            if number is None:
                break
            try:
                can_be_trained = self._prepare(self.ledger.row(number))
            except BaseException:  # Ctrl-C as well: the row must not stay taken
                self.ledger.free(number)
                raise
            if can_be_trained:
                batch.append(self.ledger.row(number))
            else:
                self._say_end(number)
        return batch

    def _prepare(self, row: Row) -> bool:
        """Draw what is not drawn yet; False if what was drawn cannot be trained."""
        # Locked, since workers on several machines may prepare repetitions of the same point:
        # one of them draws it, the others take over what was drawn.
        with self.ledger.locked():
            # Another command may have extended the sweep since this row was taken.
            self.ledger.read_again()
            record = self.ledger.record
            space = space_of_record(record)
            self.ledger.take_over(space.parameters)
            if not row.params:
                for twin in self.ledger.rows():
                    if twin.point == row.point and twin.params:
                        self.ledger.fix(row.number, twin.params)
                        break
            trial = self.ledger.trial(row.number, sampler=sampler_of(record.settings, row.point))
            point = space.point(lambda parameter: _drawn(trial, parameter))
            overrides = space.overrides(point)
        is_checked = row.overrides == overrides  # when it was planned, or before it failed
        self.ledger.note(
            row.number,
            overrides=overrides,
            folder=row.folder or folder_name(row.number, overrides, row.seed, record.seeds),
        )
        if is_checked:
            return True
        plain, _ = compose_trial(trial_overrides(record, overrides, row.seed), record.config_dir)
        problem = why_untrainable(plain)
        if problem is not None:
            self.ledger.finish(
                row.number, TrialState.FAIL, refused=True, error=f"cannot be trained: {problem}"
            )
        return problem is None

    def _say_end(self, number: int) -> None:
        say(report.ends(self.ledger.row(number), self.ledger.rows(), self.ledger.record.objectives))


def _drawn(trial: optuna.trial.Trial, parameter: Parameter) -> Any:
    """A value of a parameter, drawn by the sampler of the study unless the row has it already."""
    key, distribution = parameter.key, parameter.distribution
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        low, high, step = distribution.low, distribution.high, distribution.step
        return trial.suggest_int(key, low, high, step=step, log=distribution.log)
    return trial.suggest_categorical(key, distribution.choices)


def sampler_of(settings: dict[str, Any], number: int) -> BaseSampler:
    """The sampler of point `number`, seeded by it: a resumed sweep draws the same points."""
    # The factor keeps the seeds of this sweep apart from those of sweep.seed + 1.
    seed = (settings["seed"] + 1_000_003 * number) % 2**32
    if settings["sampler"] == "nsgaii":
        return NSGAIISampler(seed=seed)
    if settings["sampler"] in ("random", "grid"):
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed)
