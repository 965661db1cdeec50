"""The ledger of a sweep: one Optuna study, with a row for each trial.

It is in `sweep.db` of the sweep's folder, or in a database elsewhere.

A row is taken by one worker at a time. It is never taken again once it is done, and is resumed from
its own checkpoint if its worker died. After every change the file is copied, whole, to
`sweep.db.backup`.
"""

import os
import shlex
import socket
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import optuna
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field
from sqlalchemy.exc import SQLAlchemyError

from firstlight import lock
from firstlight.config import Seed
from firstlight.errors import ConfigError, RunError, one_line, shorten
from firstlight.files import inside, temporary_of
from firstlight.metrics.base import Direction
from firstlight.output import note
from firstlight.overrides import command, named
from firstlight.private import id_of_study, id_of_trial, replace_distributions
from firstlight.process_group import started
from firstlight.sweep.record import SWEEP_FILE, SweepRecord, first_problem, read_sweep
from firstlight.sweep.space import Parameter
from firstlight.sweep.storage import (
    DATABASE,
    TOLD,
    appearing,
    back_up,
    backup_of,
    check_exists,
    check_told,
    close,
    damage,
    database_errors,
    database_files,
    ledger_locked,
    open_copy,
    open_file,
    open_storage,
    restore,
    storage_url,
)
from firstlight.sweep.study import make_study

BEAT, DEAD_AFTER = 10.0, 120.0
"""Seconds between two signs of life of a worker, and after how many without one another machine
presumes it dead."""
LOGS = "logs"
"""Folder in that of the sweep, for the output of each trial."""
STUDY, PLANNING = "sweep", ".planning.lock"
"""The study's name in a file of its own, and the lock of the process that plans the sweep."""
KEPT_BY_RETRY = ("point", "seed", "overrides", "folder", "seconds")
"""Attributes that the retry of a failed trial takes over."""
STATES = {
    TrialState.WAITING: "planned",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

DIRECTIONS: dict[Direction, StudyDirection] = {
    "min": StudyDirection.MINIMIZE,
    "max": StudyDirection.MAXIMIZE,
}
"""Optuna's names of the directions of an objective."""
NewRow = dict[str, Any]
"""A row to plan: its `params`, as far as they are known, and its `attributes` (see `Row`)."""


class Row(BaseModel):
    """A trial as the ledger stores it; checked, since a ledger may come from somebody else."""

    model_config = ConfigDict(strict=True, frozen=True)

    number: int
    state: str
    point: int
    seed: Seed
    overrides: list[str] = []
    """Its point, as overrides without the seed; empty until a sampler has drawn it."""
    params: dict[str, Any] = {}
    folder: str | None = None
    metrics: dict[str, float] = {}
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    error: str | None = None
    worker: Annotated[str, Field(max_length=1000)] | None = None
    alive: float = Field(0.0, exclude=True)
    """When its worker last said that it was alive, in seconds of the clock."""
    refused: bool = Field(False, exclude=True)
    retry_of: int | None = Field(None, exclude=True)
    replaced_by: int | None = None
    """The row that retries this failed trial."""

    @property
    def name(self) -> str:
        return " ".join([*self.overrides, f"seed={self.seed}"])

    @property
    def host(self) -> str:
        """The machine of its worker."""
        return str(self.worker).partition(":")[0]

    @property
    def is_elsewhere(self) -> bool:
        """Whether a worker of another machine makes this trial, or did until it was lost."""
        return self.state == "running" and self.host != socket.gethostname()

    @computed_field
    @property
    def is_alive(self) -> bool:
        """Whether a worker is making this trial now.

        On this machine the process is looked up; a worker elsewhere is presumed dead after
        DEAD_AFTER seconds of silence.
        """
        if self.state != "running":
            return False
        # `worker` is HOST:PID:BEGUN. A process id is used again some day, its start time is not.
        _, _, process = str(self.worker).partition(":")
        pid, _, begun = process.partition(":")
        if not self.is_elsewhere and pid.isdecimal():
            return begun != "" and started(int(pid)) == begun
        return time.time() - self.alive < DEAD_AFTER


@dataclass
class Ledger:
    """The rows of a sweep.

    Where a method fails because of the database, it raises a `RunError`; where the ledger is not
    what firstlight writes, a `ConfigError`. Both are one line.
    """

    folder: Path
    record: SweepRecord
    storage: RDBStorage
    study: optuna.Study
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}:{started()}")
    stamp: tuple[int, int] | None = None
    """What tells whether `sweep.yaml` is the file that `record` was read from."""

    @classmethod
    def create(
        cls,
        folder: Path,
        record: SweepRecord,
        directions: Sequence[Direction],
        rows: Sequence[NewRow] = (),
    ) -> Self:
        """Create a ledger in `folder` with `rows` (see `add`).

        A file of that name is replaced by a whole one.

        `directions` are those of the objectives.

        Raises:
            RunError: the database refuses, or the disk is full.
        """
        wanted = [DIRECTIONS[direction] for direction in directions]
        with database_errors(storage_url(folder, record.storage)):
            if record.storage is None:
                # The rows are written to a temporary file: `sweep.db` never lacks some of them.
                with (
                    appearing(folder / DATABASE) as file,
                    _closed_after(open_file(file)) as storage,
                ):
                    study = make_study(storage=storage, study_name=STUDY, directions=wanted)
                    _plan(study, rows)
            storage = open_storage(folder, record.storage)
            study = make_study(
                storage=storage,
                study_name=study_name(folder, record),
                directions=wanted,
                load_if_exists=True,
            )
        ledger = cls(folder, record, storage, study)
        # Of a file all rows are there by now. A database has no temporary place.
        ledger.add(rows)
        return ledger

    @classmethod
    def open(cls, folder: Path, told: str | None = None, *, read_only: bool = False) -> Self:
        """The ledger in `folder`; if it is damaged its backup, with a note.

        `told` is the storage that the user's own command names; in the processes of trials the
        environment variable `TOLD` has it. With `read_only` nothing in the folder is made or
        changed: what is shown is a copy.

        Raises:
            ConfigError: there is none, or none yet, as its process was killed while it planned the
                sweep; or it is in a storage that the command does not name.
            RunError: the database refuses.
        """
        stamp = _stamp(folder)  # first: what replaces the file while it is read is read again
        record = read_sweep(folder)
        check_told(folder, record.storage, told or os.environ.get(TOLD))
        url, file = storage_url(folder, record.storage), folder / DATABASE
        # A missing or damaged ledger is found before Optuna, which would create an empty one.
        if record.storage is not None:
            check_exists(url)
        elif is_unplanned(folder) and damage(file, read_only=read_only) is not None:
            raise _unplanned(folder)
        elif not read_only:
            restore(file)
        with database_errors(url), understood(folder):
            is_copy = read_only and record.storage is None
            storage = open_copy(file) if is_copy else open_storage(folder, record.storage)
            name = study_name(folder, record)
            try:
                study = optuna.load_study(storage=storage, study_name=name)
            except KeyError:
                close(storage)
                # An earlier version made the database before the study, and was killed in between.
                if record.storage is None and is_unplanned(folder):
                    raise _unplanned(folder) from None
                raise ConfigError(f"{shorten(url)}: the study '{name}' is not in it") from None
        return cls(folder, record, storage, study, stamp=stamp)

    def signs(self) -> list[int]:
        """For each objective 1 if lower values are better, -1 if higher ones are."""
        with self.used():
            directions = self.study.directions
        return [-1 if direction == DIRECTIONS["max"] else 1 for direction in directions]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Turn what the database refuses within the block, or Optuna cannot read, into one line.

        Raises:
            ConfigError: the ledger is not what firstlight writes.
            RunError: the database refuses.
        """
        with database_errors(DATABASE), understood(self.folder):
            yield

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Like `used`, for one worker at a time of all on this file system."""
        with self.used(), ledger_locked(self.folder):
            yield

    def add(self, rows: Sequence[NewRow]) -> None:
        """Plan those of `rows` that are missing: planning was interrupted, or the sweep grows."""
        with self.locked():
            _plan(self.study, _missing(rows, self.rows()))
        self.back_up()

    def read_again(self) -> None:
        """Read `sweep.yaml` again if it has been replaced: the sweep may have grown since."""
        stamp = _stamp(self.folder)
        if stamp == self.stamp:
            return
        self.record, self.stamp = read_sweep(self.folder), stamp
        # A study keeps the choices that it has seen, and refuses others.
        name = self.study.study_name
        self.study = optuna.load_study(storage=self.storage, study_name=name)

    def take_over(self, parameters: Iterable[Parameter]) -> None:
        """Give the listed `parameters` of all trials the choices that a sweep has grown to have."""
        listed = {}
        for parameter in parameters:
            if parameter.values is not None:
                listed[parameter.key] = parameter.distribution
        with self.used():
            replace_distributions(self.storage, id_of_study(self.study), listed)

    def rows(self) -> list[Row]:
        """All rows, by number."""
        with self.used():
            trials = self.study.get_trials(deepcopy=False)
        rows = [self._row(trial) for trial in trials]
        retries = {row.retry_of: row.number for row in rows}
        return [row.model_copy(update={"replaced_by": retries.get(row.number)}) for row in rows]

    def row(self, number: int) -> Row:
        return self._row(self.frozen(number))

    def frozen(self, number: int) -> FrozenTrial:
        """A row as Optuna has it."""
        with self.used():
            return self.storage.get_trial(self._id(number))

    def run_of(self, row: Row) -> Path | None:
        """The run folder of a row; None while it has none.

        Raises:
            ConfigError: the ledger names something that is not a folder of this sweep.
        """
        return None if row.folder is None else inside(self.folder, row.folder)

    def log_of(self, row: Row) -> Path:
        """Where the process of a row that has a folder prints to.

        Raises:
            ConfigError: the ledger names something that is not a folder of this sweep.
        """
        run = self.run_of(row)
        assert run is not None
        return inside(inside(self.folder, LOGS), f"{run.name}.log")

    def take(self) -> int | None:
        """Take the first planned row for this worker; return its number, None if there is none."""
        with self.locked():
            self.read_again()
            # Rows whose worker has died are planned again: their runs are resumed.
            for trial in self._trials(TrialState.RUNNING):
                row = self._row(trial)
                if not row.is_alive:
                    if row.is_elsewhere and row.worker is not None:
                        note(
                            f"trial {row.number}: its worker on {row.host} has given no sign of"
                            f" life for {DEAD_AFTER:.0f} s; another one makes it"
                        )
                    self.storage.set_trial_state_values(
                        id_of_trial(trial), state=TrialState.WAITING
                    )
            for trial in self._trials(TrialState.WAITING):
                # Where the file system has no locks, another worker may have finished it meanwhile.
                with suppress(UpdateFinishedTrialError):
                    if self.storage.set_trial_state_values(
                        id_of_trial(trial), state=TrialState.RUNNING
                    ):
                        self.note(trial.number, worker=self.worker, alive=time.time())
                        return trial.number
        return None

    def trial(
        self, number: int, pruner: BasePruner | None = None, sampler: BaseSampler | None = None
    ) -> optuna.trial.Trial:
        """A row that was taken, for Optuna to draw its parameters or to judge its course."""
        self.study.sampler = sampler or self.study.sampler
        self.study.pruner = pruner or self.study.pruner
        with self.used():
            return optuna.trial.Trial(self.study, self._id(number))

    def fix(self, number: int, params: dict[str, Any]) -> None:
        """Give a planned row the parameters of another, of which it is a repetition."""
        with self.used():
            self.storage.set_trial_system_attr(self._id(number), "fixed_params", params)

    def note(self, number: int, **attributes: Any) -> None:
        """Keep `attributes` with a row."""
        with self.used():
            for name, value in attributes.items():
                self.storage.set_trial_user_attr(self._id(number), name, value)

    def free(self, number: int) -> None:
        """Plan a row again that this worker does not finish."""
        # A worker of another machine may have presumed this one dead, and finished the row.
        with self.used(), suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(self._id(number), state=TrialState.WAITING)
        self.back_up()

    def give_back(self, row: Row) -> None:
        """Plan a row again that was taken as `row`, unless it is finished or another's by now."""
        left = self.row(row.number)
        if left.state == "running" and left.worker == row.worker:
            self.free(row.number)

    def finish(
        self, number: int, state: TrialState, values: list[float] | None = None, **attributes: Any
    ) -> None:
        """Write down how a trial has ended, and why."""
        with self.used():
            self.note(number, **attributes)
            self.storage.set_trial_state_values(self._id(number), state=state, values=values)
        self.back_up()

    def retry(self) -> list[int]:
        """Plan every failed trial again, as a new row with the same folder.

        Returns the numbers of the failed rows.
        """
        with self.locked():
            rows = self.rows()
            failed = [row for row in rows if row.state == "failed" and row.replaced_by is None]
            for row in failed:
                kept = self.frozen(row.number).user_attrs
                attributes: dict[str, Any] = {"retry_of": row.number}
                for name in KEPT_BY_RETRY:
                    if name in kept:
                        attributes[name] = kept[name]
                _plan(self.study, [{"params": row.params, "attributes": attributes}])
        self.back_up()
        return [row.number for row in failed]

    @contextmanager
    def alive(self, number: int) -> Iterator[None]:
        """Say every few seconds, within the block, that the worker of this row lives.

        The seconds it has worked are kept as well.
        """
        over, began = threading.Event(), time.perf_counter() - self.row(number).seconds

        def beat() -> None:
            while not over.wait(BEAT):
                # The next beat may succeed, and results are not written here.
                with suppress(RunError):
                    self.note(number, alive=time.time(), seconds=time.perf_counter() - began)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def back_up(self) -> None:
        """Copy the ledger to its backup, if it is a file."""
        if self.record.storage is None:
            with ledger_locked(self.folder):
                back_up(self.folder / DATABASE)

    def close(self) -> None:
        """Close all connections to the database."""
        close(self.storage)

    def _trials(self, state: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(state,))

    def _id(self, number: int) -> int:
        # Optuna's own number of a trial is unique in the database, which may hold other studies.
        return self.storage.get_trial_id_from_study_id_trial_number(id_of_study(self.study), number)

    def _row(self, trial: FrozenTrial) -> Row:
        """A row without what others say of it.

        Raises:
            ConfigError: it is not what firstlight writes.
        """
        wrong = f"{self.folder}: trial {trial.number} of its ledger is not what firstlight writes"
        attributes = trial.user_attrs
        # What Optuna itself knows of the trial wins over attributes of the same name.
        ours = {
            "number": trial.number,
            "state": "refused" if attributes.get("refused") is True else STATES[trial.state],
            "params": trial.params or trial.system_attrs.get("fixed_params", {}),
            "replaced_by": None,
        }
        try:
            row = Row.model_validate({**attributes, **ours})
        except ValidationError as error:
            raise ConfigError(f"{wrong}: {first_problem(error)}") from None
        missing = [name for name in self.record.objectives if name not in row.metrics]
        if trial.state == TrialState.COMPLETE and missing:
            raise ConfigError(f"{wrong}: it is done and has no {missing[0]}")
        return row


@contextmanager
def _closed_after(storage: RDBStorage) -> Iterator[RDBStorage]:
    try:
        yield storage
    finally:
        close(storage)


@contextmanager
def understood(folder: Path) -> Iterator[None]:
    """Say in one line that Optuna cannot make sense of a ledger.

    Raises:
        ConfigError: it cannot.
    """
    try:
        yield
    except (ConfigError, SQLAlchemyError, sqlite3.Error, OptunaError, OSError):
        raise  # `database_errors` has the words
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        if isinstance(error, KeyError):  # whose text is the key alone
            reason = f"{error} is missing"
        else:
            reason = shorten(one_line(error), 100)
        raise ConfigError(
            f"{folder}: its ledger is not what firstlight writes: {reason}{_way_out(folder)}"
        ) from None


def _way_out(folder: Path) -> str:
    """How to use the backup in place of a ledger that Optuna cannot read; "" if it is no better."""
    file = folder / DATABASE
    try:
        with _closed_after(open_copy(backup_of(file))) as storage:
            optuna.load_study(storage=storage, study_name=STUDY).get_trials(deepcopy=False)
    except Exception:  # whatever is wrong with the backup, too
        return ""
    move = shlex.join(["mv", str(file), f"{file}.wrong"])
    return f"; its backup, of the last trial that changed, is used after: {move}"


def is_unplanned(folder: Path) -> bool:
    """Whether a folder holds only what a sweep leaves that was killed while it was planned.

    No trial of such a sweep has ever been taken: there is a backup before the first one is.
    """
    known = database_files(folder / DATABASE) | lock.files_of(folder / PLANNING)
    known |= {SWEEP_FILE, temporary_of(folder / SWEEP_FILE).name}
    return all(path.name in known for path in folder.iterdir())


def _unplanned(folder: Path) -> ConfigError:
    return ConfigError(
        f"{shorten(str(folder))}: this sweep was stopped before its first trial was planned; give"
        " its command again, or:"
        f" {command('sweep', 'resume', named('folder', str(folder)))}"
    )


def study_name(folder: Path, record: SweepRecord) -> str:
    """The study's name: that of its folder where the database has others, too."""
    return str(folder.absolute()) if record.storage else STUDY


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Another value for each file that has been `sweep.yaml`, as it is only replaced as a whole.

    None if it cannot be found: whoever reads it is told why.
    """
    try:
        status = (folder / SWEEP_FILE).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _missing(rows: Sequence[NewRow], planned: Sequence[Row]) -> list[NewRow]:
    """Those of `rows` that are not planned yet.

    A listed point is known by its overrides, and gets a number that no other has; a drawn one is
    known by its number.
    """
    number_of = {frozenset(row.overrides): row.point for row in planned}
    taken = {(row.point, row.seed) for row in planned}
    next_point = max((row.point for row in planned), default=-1) + 1
    missing: list[NewRow] = []
    for row in rows:
        attributes = dict(row["attributes"])
        if "overrides" in attributes:
            point = frozenset(attributes["overrides"])
            if point not in number_of:
                number_of[point] = next_point
                next_point += 1
            attributes["point"] = number_of[point]
        if (attributes["point"], attributes["seed"]) not in taken:
            missing.append({**row, "attributes": attributes})
    return missing


def _plan(study: optuna.Study, rows: Sequence[NewRow]) -> None:
    for row in rows:
        # Optuna's `enqueue_trial` keeps them under this name too, for suggest_* to return.
        fixed = {"fixed_params": row["params"]}
        study.add_trial(
            create_trial(state=TrialState.WAITING, system_attrs=fixed, user_attrs=row["attributes"])
        )
