"""The ledger of a sweep: every trial is a row of one Optuna study, in `sweep.db` of the sweep's folder or a database.

A row is taken by one worker at a time. It is never taken again once it is done, and is resumed, from its own
checkpoint, if its worker died. After every change the file is copied, whole, to `sweep.db.backup`.
"""

import os
import shlex
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import optuna
from filelock import Timeout
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from firstlight import lock
from firstlight.config import Seed
from firstlight.errors import ConfigError, RunError, one_line, shorten
from firstlight.files import inside, locked, temporary_of
from firstlight.metrics.base import Direction
from firstlight.overrides import command, named
from firstlight.process_group import started
from firstlight.sweep import storage as files
from firstlight.sweep.record import RECORD, Record, read_record
from firstlight.sweep.storage import (
    DATABASE,
    LOCK,
    TOLD,
    appearing,
    back_up,
    backup_of,
    check_exists,
    check_told,
    close,
    damage,
    explained,
    files_of,
    open_copy,
    open_file,
    open_storage,
    restore,
    storage_url,
)

BEAT, DEAD_AFTER = 10.0, 120.0
"""Seconds: how often a worker says that it is alive, and after how long another machine presumes it dead."""
LOGS = "logs"
"""Folder of the sweep: what the process of each trial has printed."""
STUDY, PLANNING = "sweep", ".planning.lock"
"""The study's name in a file of its own, and the lock of the process that plans the sweep."""
KEPT_BY_RETRY = ("point", "seed", "overrides", "config", "folder", "seconds")
"""What a trial that is made again has from the one that failed."""
STATES = {
    TrialState.WAITING: "planned",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class _Attributes(BaseModel):
    """What is kept with a row, as firstlight writes it; a ledger may be somebody else's."""

    model_config = ConfigDict(strict=True, frozen=True)

    point: int
    seed: Seed
    overrides: list[str] = []
    folder: str | None = None
    metrics: dict[str, float] = {}
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    error: str | None = None
    config: str | None = None
    worker: Annotated[str, Field(max_length=1000)] | None = None
    alive: float = 0.0
    refused: bool = False
    retry_of: int | None = None


@dataclass(frozen=True)
class Row:
    """A trial as the ledger has it."""

    number: int
    state: str
    point: int
    seed: int
    overrides: list[str]
    """What distinguishes it, without the seed; empty while a sampler has not yet drawn it."""
    params: dict[str, Any]
    folder: str | None
    metrics: dict[str, float]
    seconds: float
    error: str | None
    config: str | None
    worker: str | None
    is_alive: bool
    replaced_by: int | None = None
    """The row that makes this failed trial again."""

    @property
    def name(self) -> str:
        return " ".join([*self.overrides, f"seed={self.seed}"]) if self.overrides else f"seed={self.seed}"


@dataclass
class Ledger:
    """The rows of a sweep. What fails with the database is a `RunError` of one line."""

    folder: Path
    record: Record
    storage: RDBStorage
    study: optuna.Study
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}:{started()}")

    @classmethod
    def create(
        cls, folder: Path, record: Record, directions: Sequence[Direction], rows: Sequence[dict[str, Any]] = ()
    ) -> Self:
        """A new ledger in `folder`, with `rows` as those of `add`. A file of that name is replaced, by a whole one.

        `directions` are those of the objectives.

        Raises:
            RunError: the database refuses, or the disk is full.
        """
        wanted = [StudyDirection.MAXIMIZE if d == "max" else StudyDirection.MINIMIZE for d in directions]
        with explained(storage_url(folder, record.storage)):
            if record.storage is None:
                with appearing(folder / DATABASE) as file:
                    storage = open_file(file)
                    try:
                        study = optuna.create_study(storage=storage, study_name=STUDY, directions=wanted)
                        _plan(study, rows)
                    finally:
                        close(storage)
            storage = open_storage(folder, record.storage)
            study = optuna.create_study(
                storage=storage, study_name=study_name(folder, record), directions=wanted, load_if_exists=True
            )
        ledger = cls(folder, record, storage, study)
        ledger.add(rows)
        return ledger

    @classmethod
    def open(cls, folder: Path, told: str | None = None, *, read_only: bool = False) -> Self:
        """The ledger in `folder`; of one that is damaged its backup, with a note.

        `told` is the storage that the user's own command names, in the processes of trials the environment variable
        `TOLD`. With `read_only` nothing is made or changed in the folder: what is shown is a copy.

        Raises:
            ConfigError: there is none, or none yet: its process was killed while it planned the sweep; or it is in a
                storage that the command does not name.
            RunError: the database refuses.
        """
        record = read_record(folder)
        check_told(folder, record.storage, told or os.environ.get(TOLD))
        url = storage_url(folder, record.storage)
        if record.storage is not None:
            check_exists(url)
        elif is_unplanned(folder) and damage(folder / DATABASE, read_only=read_only) is not None:
            raise _unplanned(folder)
        elif not read_only:
            restore(folder / DATABASE)
        with explained(url), understood(folder):
            is_copy = read_only and record.storage is None
            storage = open_copy(folder / DATABASE) if is_copy else open_storage(folder, record.storage)
            name = study_name(folder, record)
            try:
                study = optuna.load_study(storage=storage, study_name=name)
            except KeyError:
                close(storage)
                if record.storage is None and is_unplanned(folder):
                    raise _unplanned(folder) from None
                raise ConfigError(f"{shorten(url)}: there is no study '{name}' in it") from None
        return cls(folder, record, storage, study)

    def signs(self) -> list[int]:
        """Of each objective 1 if the lowest values are the better ones, -1 if the highest are."""
        with explained(DATABASE), understood(self.folder):
            return [-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in self.study.directions]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block, say in one line what the database refuses, and what Optuna makes no sense of.

        Raises:
            ConfigError: the ledger is not what firstlight writes.
            RunError: the database refuses.
        """
        with explained(DATABASE), understood(self.folder):
            yield

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Plan those of `rows` (`params`, `attributes`) that are not there yet: planning may have been interrupted."""
        with self.used(), self.locked():
            _plan(self.study, rows[len(self.study.trials) :])
        self.back_up()

    def rows(self) -> list[Row]:
        """All rows, by number."""
        with self.used():
            trials = self.study.get_trials(deepcopy=False)
        kept = [self._attributes(trial) for trial in trials]
        again = {k.retry_of: t.number for k, t in zip(kept, trials, strict=True) if k.retry_of is not None}
        return [self._row(trial, k, again.get(trial.number)) for k, trial in zip(kept, trials, strict=True)]

    def row(self, number: int) -> Row:
        trial = self.frozen(number)
        return self._row(trial, self._attributes(trial), None)

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
        """The number of the first planned row, which this worker makes from now on; None if there is none."""
        with self.used(), self.locked():
            self._free_dead()
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                with suppress(UpdateFinishedTrialError):
                    if self.storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):
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
        with self.used(), suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(self._id(number), state=TrialState.WAITING)
        self.back_up()

    def finish(self, number: int, state: TrialState, values: list[float] | None = None, **attributes: Any) -> None:
        """Write down how a trial has ended, and why."""
        with self.used():
            self.note(number, **attributes)
            self.storage.set_trial_state_values(self._id(number), state=state, values=values)
        self.back_up()

    def retry(self) -> list[int]:
        """Plan every failed trial again, in a new row that has its folder; return the numbers of the failed ones."""
        failed = [row for row in self.rows() if row.state == "failed" and row.replaced_by is None]
        with self.used(), self.locked():
            for row in failed:
                kept = self.frozen(row.number).user_attrs
                attributes = {k: v for k, v in kept.items() if k in KEPT_BY_RETRY} | {"retry_of": row.number}
                fixed = {"fixed_params": row.params}
                self.study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=fixed, user_attrs=attributes))
        self.back_up()
        return [row.number for row in failed]

    @contextmanager
    def alive(self, number: int) -> Iterator[None]:
        """Within the block, say every few seconds that the worker of this row lives, and how long it has worked."""
        over, before, began = threading.Event(), self.row(number).seconds, time.perf_counter()

        def beat() -> None:
            while not over.wait(BEAT):
                with suppress(RunError):  # the next beat may succeed; what must be written is written elsewhere
                    self.note(number, alive=time.time(), seconds=before + time.perf_counter() - began)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One worker at a time, of all on this file system."""
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.folder / LOCK, timeout=files.PATIENCE))
            except Timeout:
                raise RunError(f"{self.folder / LOCK}: another process holds it for {files.PATIENCE:.0f} s") from None
            except OSError as error:
                raise RunError(f"{self.folder / LOCK}: cannot be written ({error.strerror})") from None
            yield

    def back_up(self) -> None:
        """Copy the file, if it is one."""
        if self.record.storage is None:
            with self.locked():
                back_up(self.folder / DATABASE)

    def close(self) -> None:
        """Let go of the database."""
        close(self.storage)

    def _free_dead(self) -> None:
        """Plan the rows again whose workers have died."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not is_alive(self._attributes(trial)):
                self.storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)

    def _attributes(self, trial: FrozenTrial) -> _Attributes:
        """What is kept with a row.

        Raises:
            ConfigError: it is not what firstlight writes.
        """
        where = f"{self.folder}: trial {trial.number} of its ledger"
        try:
            kept = _Attributes.model_validate(trial.user_attrs)
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"]))
            raise ConfigError(f"{where} is not what firstlight writes: {shorten(key)}: {problem['msg']}") from None
        if not isinstance(trial.system_attrs.get("fixed_params", {}), dict):
            raise ConfigError(f"{where} is not what firstlight writes: fixed_params is not a mapping")
        missing = [name for name in self.record.settings["objectives"] if name not in kept.metrics]
        if trial.state == TrialState.COMPLETE and missing:
            raise ConfigError(f"{where} is not what firstlight writes: it is done and has no {missing[0]}")
        return kept

    def _row(self, trial: FrozenTrial, kept: _Attributes, replaced_by: int | None) -> Row:
        return Row(
            number=trial.number,
            state="refused" if kept.refused else STATES[trial.state],
            point=kept.point,
            seed=kept.seed,
            overrides=kept.overrides,
            params=trial.params or trial.system_attrs.get("fixed_params", {}),
            folder=kept.folder,
            metrics=kept.metrics,
            seconds=kept.seconds,
            error=kept.error,
            config=kept.config,
            worker=kept.worker,
            is_alive=trial.state == TrialState.RUNNING and is_alive(kept),
            replaced_by=replaced_by,
        )


@contextmanager
def understood(folder: Path) -> Iterator[None]:
    """Say in one line that Optuna cannot make sense of a ledger.

    Raises:
        ConfigError: it cannot.
    """
    try:
        yield
    except (ConfigError, SQLAlchemyError, sqlite3.Error, OptunaError, OSError):
        raise  # known elsewhere
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else shorten(one_line(error), 100)
        raise ConfigError(f"{folder}: its ledger is not what firstlight writes: {reason}{_way_out(folder)}") from None


def _way_out(folder: Path) -> str:
    """How the backup of a ledger that Optuna makes no sense of is used instead, if that would help."""
    file = folder / DATABASE
    try:
        storage = open_copy(backup_of(file))
        try:
            optuna.load_study(storage=storage, study_name=STUDY).get_trials(deepcopy=False)
        finally:
            close(storage)
    except Exception:  # whatever is wrong with it, too
        return ""
    return (
        f"; its backup, of the last trial that changed, is used after: {shlex.join(['mv', str(file), f'{file}.wrong'])}"
    )


def is_unplanned(folder: Path) -> bool:
    """Does a folder hold nothing but what is left of a sweep whose process is killed before it is planned?

    No trial of such a sweep has ever been taken: there is a backup before the first one is.
    """
    record = folder / RECORD
    known = {record.name, temporary_of(record).name, *files_of(folder / DATABASE), *lock.files_of(folder / PLANNING)}
    return {path.name for path in folder.iterdir()} <= known


def _unplanned(folder: Path) -> ConfigError:
    return ConfigError(
        f"{shorten(str(folder))}: this sweep was stopped while it was planned, before its first trial; give its "
        f"command again, or: {command('sweep', 'resume', named('folder', str(folder)))}"
    )


def study_name(folder: Path, record: Record) -> str:
    """The study's name: that of its folder where the database has others, too."""
    return str(folder.absolute()) if record.storage else STUDY


def _plan(study: optuna.Study, rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        fixed, attributes = {"fixed_params": row["params"]}, row["attributes"]
        study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=fixed, user_attrs=attributes))


def is_alive(kept: _Attributes) -> bool:
    """Does the worker of a running row live? On this machine that is known, of others only when they last said so."""
    host, _, process = str(kept.worker).partition(":")
    pid, _, begun = process.partition(":")
    if host == socket.gethostname() and pid.isdecimal():
        return begun != "" and started(int(pid)) == begun
    return time.time() - kept.alive < DEAD_AFTER
