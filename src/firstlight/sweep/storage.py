"""Where a ledger is kept: `sweep.db` in the sweep's folder, or a database elsewhere.

A database elsewhere is only opened if the user's own command names it: `sweep.yaml` may be somebody
else's. So may `sweep.db`, and SQLite is given nothing that would make it touch other files.
"""

import os
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from filelock import Timeout
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from firstlight.data.files import leads_to
from firstlight.errors import ConfigError, RunError, hide, one_line, printable, shorten
from firstlight.files import locked, replacing, separate, sync_folder, temporary_of
from firstlight.interpolation import only_variables
from firstlight.output import note
from firstlight.overrides import ready, words_to_paste
from firstlight.packages import with_extra

DATABASE, LEDGER_LOCK = "sweep.db", ".sweep.lock"
TOLD = "FIRSTLIGHT_SWEEP_STORAGE"
"""Environment variable with the storage that the user's command names, for its trials."""
OF_SEVERAL = bytes.fromhex("d9d505f920a163d7")
"""The last bytes of the journal of a transaction over several databases."""
BESIDE = ("-journal", "-wal", "-shm")
"""What SQLite adds to the name of a database for the files that belong to it."""
DATABASE_PATIENCE = 30.0
"""Seconds to wait for a database, or its lock, that another process holds."""


def storage_url(folder: Path, storage: str | None) -> str:
    """The address of the study for Optuna, with references to the environment resolved.

    Raises:
        ConfigError: the environment has no such variable.
    """
    if storage is None:
        return address_of(folder / DATABASE)
    try:
        with only_variables(None):  # the user's own command has named it
            url = str(OmegaConf.create({"storage": storage}).storage)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rpartition("interpolation: ")[2]
        raise ConfigError(f"sweep.storage ({storage}): {reason}") from None
    hide_password(url)
    return url


def hide_password(url: str) -> None:
    """Keep the password of a database out of messages."""
    if "@" in url:
        hide(url.rpartition("@")[0].rpartition("//")[2], "...")


def check_told(folder: Path, storage: str | None, told: str | None) -> None:
    """Refuse the recorded `storage` unless the user's own command names it too (`told`).

    Nothing of it is looked up or connected to before: the record may be somebody else's.

    Raises:
        ConfigError: the command does not name it.
    """
    if storage is not None and storage != told:
        raise ConfigError(
            f"{folder}: its sweep.yaml names a ledger elsewhere, which is only opened if your"
            f" command names it, too: {printable(words_to_paste(named_storage(storage)))}"
        )


def named_storage(storage: str) -> str:
    """The override with which a command names the storage of a record, ready for Hydra's grammar.

    References in it to the environment are not resolved: it is compared with the record as it is
    typed.
    """
    return ready(f"storage={storage}")


@contextmanager
def ledger_locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the ledger in `folder`: one process of this file system at a time.

    Raises:
        RunError: another process holds the lock for too long, or it cannot be written.
    """
    lock = folder / LEDGER_LOCK
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock, timeout=DATABASE_PATIENCE))
        except Timeout:
            raise RunError(
                f"{lock}: another process has held it for {DATABASE_PATIENCE:.0f} s"
            ) from None
        except OSError as error:
            raise RunError(f"{lock}: cannot be written ({error.strerror})") from None
        yield


def backup_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.backup")


def address_of(file: Path) -> str:
    return f"sqlite:///{file.absolute()}"


def open_storage(folder: Path, storage: str | None) -> RDBStorage:
    """Optuna's storage in `folder`, or in the database `storage`.

    Raises:
        ConfigError: the database needs a driver, or its tables are those of another version of
            Optuna.
    """
    if storage is None:
        return open_file(folder / DATABASE)
    url = storage_url(folder, storage)
    if url.startswith("sqlite"):
        options: dict[str, Any] = {"connect_args": {"timeout": DATABASE_PATIENCE}}
    else:
        options = {"pool_pre_ping": True}  # a server closes connections that are idle for long
    escaped = url.replace("{", "{{").replace("}", "}}")  # Optuna calls `format` on it
    try:
        return _of_optuna(url, escaped, options)
    except ImportError as error:
        raise ConfigError(
            f"sweep.storage: {url.partition(':')[0]} needs a driver ({with_extra('postgresql')};"
            f" {one_line(error.__cause__ or error)})"
        ) from None


def open_file(file: Path) -> RDBStorage:
    """Optuna's storage in the SQLite database `file`, which is created if it does not exist."""
    for part in _parts(file):
        separate(part)
    connect = partial(_connected, file, "rwc", timeout=DATABASE_PATIENCE)
    # Of the address SQLAlchemy only takes the kind of the database: `creator` opens it.
    return _of_optuna(address_of(file), f"sqlite:///{DATABASE}", {"creator": connect})


def open_copy(file: Path) -> RDBStorage:
    """Open a copy in memory of the ledger `file`, or of its backup; nothing is written to disk.

    Raises:
        ConfigError: neither is whole.
        RunError: it cannot be read now.
    """
    problem = damage(file, read_only=True)
    if problem is not None:
        if damage(backup_of(file), read_only=True) is not None:
            raise _lost(file, problem)
        note(f"{file}: {problem}: showing its backup, of the last trial that changed")
        file = backup_of(file)
    with database_errors(str(file)):
        # One connection for all sessions: every other would be another copy.
        options = {"creator": partial(_read, file), "poolclass": StaticPool}
        return _of_optuna(address_of(file), f"sqlite:///{DATABASE}", options)


def _of_optuna(address: str, url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
    """Optuna's storage; `address` is how other programs know it.

    Raises:
        ConfigError: its tables are those of another version of Optuna.
    """
    try:
        return RDBStorage(url, engine_kwargs=engine_kwargs)
    except RuntimeError as error:
        if "storage upgrade" in str(error):  # Optuna's own advice, for an older database
            which = "an older"
            way_out = shlex.join(["optuna", "storage", "upgrade", "--storage", address])
        else:
            which = "a newer"
            way_out = "pip install -U optuna"
        raise ConfigError(
            f"the ledger of the sweep was written by {which} version of Optuna than"
            f" {optuna.__version__}, which is installed; to use it: {way_out}"
        ) from None


def close(storage: RDBStorage) -> None:
    """Close all connections to a database."""
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def appearing(file: Path) -> Iterator[Path]:
    """A path to make a database at; after the block it replaces `file`, whole or not at all.

    What a process that was killed has left there is removed first: its journal would be played back
    into the new one.
    """
    temporary = temporary_of(file)
    try:
        for part in _parts(temporary):
            part.unlink(missing_ok=True)
        yield temporary
        for part in _parts(file)[1:]:  # of the database that `file` was
            part.unlink(missing_ok=True)
        temporary.replace(file)
        sync_folder(file.parent)
    finally:
        for part in _parts(temporary):
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _parts(file: Path) -> list[Path]:
    """A database, and what SQLite may keep beside it."""
    return [file, *(file.with_name(f"{file.name}{ending}") for ending in BESIDE)]


def database_files(file: Path) -> set[str]:
    """The names of all files that using the database `file` may leave, also after a kill."""
    of_earlier_versions = file.with_name(f"{file.name}.tmp")
    names = {LEDGER_LOCK}
    for database in (file, temporary_of(file), temporary_of(backup_of(file)), of_earlier_versions):
        names.update(part.name for part in _parts(database))
    return names


def _read(file: Path) -> sqlite3.Connection:
    """A copy of a database in memory; nothing is written, even if a kill has left a journal.

    Raises:
        sqlite3.Error: it is damaged, or locked.
        OSError: it cannot be read.
    """
    _check_journal(file)  # before it is copied
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    with file.open("rb") as stream:
        # Bytes 18 and 19 of the header are 2 with a write-ahead log (sqlite.org/fileformat.html):
        # SQLite makes files beside such a database even to read it.
        has_write_ahead_log = stream.read(20)[18:] != b"\1\1"
    if not has_write_ahead_log:
        try:
            with closing(_connected(file, "ro")) as source:
                _copy(source, memory)
            return memory
        except sqlite3.OperationalError as error:
            # "readonly": a killed process has left a journal, which must be played back first.
            if "readonly" not in str(error):
                raise
    # Playing back writes to the files: it happens in a copy of them.
    with tempfile.TemporaryDirectory(prefix="firstlight_") as place:
        copy = Path(place, DATABASE)
        for ending in ("", *BESIDE):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{file}{ending}", f"{copy}{ending}")
        with closing(_connected(copy, "rw")) as source:
            _copy(source, memory)
    return memory


def _copy(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy a whole database, locked for reading.

    Raises:
        sqlite3.Error: it is damaged, or locked.
    """
    # `backup` would wait for ever for another's lock; a read waits for the timeout at most.
    source.execute("BEGIN")
    source.execute("SELECT count(*) FROM sqlite_master").fetchall()
    source.backup(target)


def _connected(file: Path, mode: str, timeout: float = DATABASE_PATIENCE / 6) -> sqlite3.Connection:
    """The one way to a database: `mode` is ro, rw, or rwc, which creates one that does not exist.

    Raises:
        sqlite3.DatabaseError: its journal is not one that firstlight leaves.
    """
    _check_journal(file)
    url = f"{file.absolute().as_uri()}?mode={mode}"  # in which ? and % of the path are escaped
    # SQLAlchemy hands a connection to other threads than the one that opened it, one at a time.
    return sqlite3.connect(url, uri=True, timeout=timeout, check_same_thread=False)


def _check_journal(file: Path) -> None:
    """Refuse a journal that names another file, which SQLite would delete after playback.

    Only a transaction over several databases leaves such a journal, and there are none here.
    """
    for part in _parts(file)[1:]:
        with suppress(FileNotFoundError), part.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) >= len(OF_SEVERAL):
                stream.seek(-len(OF_SEVERAL), os.SEEK_END)
                if stream.read() == OF_SEVERAL:
                    raise sqlite3.DatabaseError(
                        f"{part.name} names another file, which SQLite would delete"
                    )


def check_exists(url: str) -> None:
    """Refuse to create a database where a ledger should be.

    Raises:
        ConfigError: `url` is that of a file that does not exist, or not the address of a database.
    """
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"storage ({shorten(url)}): {one_line(error)}") from None
    file = Path(address.database or "")
    if address.drivername.startswith("sqlite") and not leads_to(file, Path.is_file):
        raise ConfigError(f"storage ({shorten(url)}): no such file")


def back_up(file: Path) -> None:
    """Copy the database `file`, whole, to its backup.

    Raises:
        RunError: it cannot be read, or the copy not be written.
    """
    with database_errors(str(file)), closing(sqlite3.connect(":memory:")) as copy:
        with closing(_connected(file, "rw", timeout=DATABASE_PATIENCE)) as source:
            _copy(source, copy)
        with replacing(backup_of(file), "wb") as stream:
            stream.write(copy.serialize())


def restore(file: Path) -> None:
    """If a ledger is damaged or gone, put its backup in its place.

    Raises:
        ConfigError: neither is whole.
        RunError: another process has held the ledger for too long.
    """
    if damage(file) is None:
        return
    with ledger_locked(file.parent):
        problem = damage(file)
        if problem is None:  # another process has restored it
            return
        backup = backup_of(file)
        if damage(backup) is not None:
            raise _lost(file, problem)
        # The damaged files are kept: something may still be read from them.
        for part in _parts(file):
            if part.exists():
                part.replace(part.with_name(f"{part.name}.damaged"))
        with replacing(file, "wb") as copy, backup.open("rb") as original:
            shutil.copyfileobj(original, copy)
    note(f"{file}: {problem}: using its backup, of the last trial that changed")


def _lost(file: Path, problem: str) -> ConfigError:
    return ConfigError(f"{file}: {problem}, and so is its backup; the runs beside it are untouched")


def damage(file: Path, *, read_only: bool = False) -> str | None:
    """What is wrong with a ledger, None if nothing; with `read_only` nothing is written."""
    if not file.is_file():
        return "is gone"
    try:
        with closing(_read(file) if read_only else _connected(file, "rw")) as database:
            # Before anything else is asked: a view in the place of a table may never end, a trigger
            # do anything.
            query = "SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index')"
            [(n_others,)] = database.execute(query).fetchall()
            if n_others:
                return "is damaged (it has views or triggers, which firstlight never makes)"
            [(result,)] = database.execute("PRAGMA quick_check(1)").fetchall()
            database.execute("SELECT count(*) FROM trials").fetchall()
    except sqlite3.OperationalError as error:
        # Locked, or not allowed to be opened: not damaged. Whoever opens it next waits, or says so.
        return f"is damaged ({one_line(error)})" if "no such table" in str(error) else None
    except (sqlite3.DatabaseError, ValueError) as error:
        return f"is damaged ({one_line(error)})"
    return None if result == "ok" else f"is damaged ({shorten(result)})"


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Say in one line what a database refuses.

    Raises:
        RunError: it refuses something.
    """
    try:
        yield
    except (
        StorageInternalError,
        SQLAlchemyError,
        sqlite3.Error,
        UpdateFinishedTrialError,
        OSError,
    ) as error:
        reason = one_line(error.__cause__ or error).partition(" [SQL:")[0]
        raise RunError(
            f"the ledger of the sweep ({shorten(url)}) cannot be used: {reason}"
        ) from error
