"""Where a ledger is kept: `sweep.db` and its backup in the folder of the sweep, or a database elsewhere."""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import optuna
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from firstlight.errors import ConfigError, RunError, hide, one_line, shorten
from firstlight.files import locked

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


def open_storage(folder: Path, storage: str | None) -> RDBStorage:
    """Optuna's storage in `folder`, or in the database `storage`.

    Raises:
        ConfigError: it needs a driver.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage is None:  # opened by its path, which as a URL would have to be without ? and %
        file = (folder / DATABASE).absolute()
        connect = partial(sqlite3.connect, file, timeout=PATIENCE, check_same_thread=False)
        return RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect})
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
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        with explained(str(file)), closing(sqlite3.connect(file, timeout=PATIENCE)) as source:
            with closing(sqlite3.connect(temporary)) as copy:
                source.backup(copy)
            temporary.replace(backup_of(file))
    finally:
        temporary.unlink(missing_ok=True)


def restore(file: Path) -> None:
    """Put the backup in the place of a ledger that is damaged or gone.

    Raises:
        ConfigError: neither is whole.
    """
    if damage(file) is None:
        return
    with locked(file.with_name(LOCK), timeout=PATIENCE):
        problem = damage(file)
        if problem is None:  # another process has done it
            return
        backup = backup_of(file)
        if damage(backup) is not None:
            raise ConfigError(f"{file}: {problem}, and so is its backup; the runs beside it are untouched")
        for part in (file, file.with_name(f"{file.name}-journal")):
            if part.exists():
                part.replace(part.with_name(f"{part.name}.damaged"))
        copy = file.with_name(f"{file.name}.tmp")
        copy.write_bytes(backup.read_bytes())
        copy.replace(file)
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
