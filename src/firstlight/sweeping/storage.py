"""Where a ledger is kept: `sweep.db` and its backup in the folder of the sweep, or a database elsewhere."""

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import optuna
from filelock import FileLock
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from firstlight.errors import ConfigError, RunError, hide, one_line, shorten
from firstlight.files import replacing, sync_folder, temporary_of

DATABASE, LOCK = "sweep.db", ".sweep.lock"
PATIENCE = 30.0
"""Seconds that a database may be locked by others."""


def storage_url(folder: Path, storage: str | None) -> str:
    """Where Optuna finds the study; references to the environment, as for a password, are followed.

    Raises:
        ConfigError: one leads nowhere.
    """
    if storage is None:
        return f"sqlite:///{(folder / DATABASE).absolute()}"
    try:
        url = str(OmegaConf.create({"storage": storage}).storage)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rpartition("interpolation: ")[2]
        raise ConfigError(f"sweep.storage ({storage}): {reason}") from None
    hidden_password(url)
    return url


def backup_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.backup")


def open_file(file: Path) -> RDBStorage:
    """Optuna's storage in the SQLite database `file`, which is made if it is not there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # by its path, which as a URL would have to be without ? and %
    connect = partial(sqlite3.connect, file.absolute(), timeout=PATIENCE, check_same_thread=False)
    return RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect})


def close(storage: RDBStorage) -> None:
    """Let go of a database."""
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def appearing(file: Path) -> Iterator[Path]:
    """Where the block makes a database and closes it, which then takes the place of `file`: whole, or not at all.

    What a process that was killed has left there is removed first: its journal would be played back into the new one.
    """
    temporary = temporary_of(file)
    parts = [temporary, journal_of(temporary)]
    try:
        for part in parts:
            part.unlink(missing_ok=True)
        yield temporary
        journal_of(file).unlink(missing_ok=True)  # of what stood in its place
        temporary.replace(file)
        sync_folder(file.parent)
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def journal_of(file: Path) -> Path:
    """What SQLite keeps beside a database that it is changing."""
    return file.with_name(f"{file.name}-journal")


def files_of(file: Path) -> set[str]:
    """The names that making, changing and backing up the database `file` leaves, or may leave when it is killed."""
    kept = [file, temporary_of(file), temporary_of(backup_of(file)), file.with_name(f"{file.name}.tmp")]
    return {part.name for database in kept for part in (database, journal_of(database))} | {LOCK}


def open_storage(folder: Path, storage: str | None) -> RDBStorage:
    """Optuna's storage in `folder`, or in the database `storage`.

    Raises:
        ConfigError: it needs a driver.
    """
    if storage is None:
        return open_file(folder / DATABASE)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = storage_url(folder, storage)
    options = {"connect_args": {"timeout": PATIENCE}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return RDBStorage(url.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)  # Optuna formats it
    except ImportError as error:
        raise ConfigError(
            f"sweep.storage: {url.partition(':')[0]} needs a driver (pip install 'firstlight[postgresql]'; "
            f"{one_line(error.__cause__ or error)})"
        ) from None


def back_up(file: Path) -> None:
    """Copy the database `file`, whole, to its backup.

    Raises:
        RunError: it cannot be read, or the copy not be written.
    """
    with (
        explained(str(file)),
        appearing(backup_of(file)) as temporary,
        closing(sqlite3.connect(file, timeout=PATIENCE)) as source,
        closing(sqlite3.connect(temporary)) as copy,
    ):
        source.backup(copy)


def restore(file: Path) -> None:
    """Put the backup in the place of a ledger that is damaged or gone.

    Raises:
        ConfigError: neither is whole.
    """
    if damage(file) is None:
        return
    with FileLock(file.with_name(LOCK), timeout=PATIENCE):
        problem = damage(file)
        if problem is None:  # another process has done it
            return
        backup = backup_of(file)
        if damage(backup) is not None:
            raise ConfigError(f"{file}: {problem}, and so is its backup; the runs beside it are untouched")
        for part in (file, journal_of(file)):
            if part.exists():
                part.replace(part.with_name(f"{part.name}.damaged"))
        with replacing(file, "wb") as copy, backup.open("rb") as original:
            shutil.copyfileobj(original, copy)
    print(f"note: {file}: {problem}: going on with its backup, of the last trial that changed", file=sys.stderr)


def damage(file: Path) -> str | None:
    """What is wrong with a ledger; None if nothing."""
    if not file.is_file():
        return "is gone"
    try:
        # not read-only: what a killed process left half done is put right first
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=PATIENCE / 6)
        ) as database:
            [(result,)] = database.execute("PRAGMA quick_check(1)").fetchall()
            database.execute("SELECT count(*) FROM trials").fetchall()
    except sqlite3.OperationalError as error:
        # if it is locked, or may not be opened, whoever opens it next waits, or says so
        return f"is damaged ({one_line(error)})" if "no such table" in str(error) else None
    except (sqlite3.DatabaseError, ValueError) as error:
        return f"is damaged ({one_line(error)})"
    return None if result == "ok" else f"is damaged ({shorten(result)})"


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Say in one line what a database refuses.

    Raises:
        RunError: it does.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error, UpdateFinishedTrialError, OSError) as error:
        cause = error.__cause__ or error
        reason = one_line(cause).partition(" [SQL:")[0]
        raise RunError(f"the ledger of the sweep ({shorten(url)}) cannot be used: {reason}") from error


def hidden_password(url: str | None) -> None:
    """Keep the password of a database out of messages."""
    if url and "@" in url:
        hide(url.rpartition("@")[0].rpartition("//")[2], "...")
