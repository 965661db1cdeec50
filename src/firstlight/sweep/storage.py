"""Where a ledger is kept: `sweep.db` and its backup in the folder of the sweep, or a database elsewhere.

A database elsewhere is only opened if the user's own command names it: `sweep.yaml` may be somebody else's.
"""

import os
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from firstlight.errors import ConfigError, RunError, hide, one_line, printable, shorten
from firstlight.files import locked, replacing, separate, sync_folder, temporary_of
from firstlight.interpolation import only_variables
from firstlight.output import note
from firstlight.overrides import ready, words_to_paste

DATABASE, LOCK = "sweep.db", ".sweep.lock"
TOLD = "FIRSTLIGHT_SWEEP_STORAGE"
"""Environment variable: the storage that the user's own command names, for the processes of its trials."""
OF_SEVERAL = bytes.fromhex("d9d505f920a163d7")
"""The last bytes of a journal of a transaction over several databases."""
BESIDE = ("-journal", "-wal", "-shm")
"""What SQLite adds to the name of a database for the files that belong to it."""
PATIENCE = 30.0
"""Seconds that a database may be locked by others."""


def storage_url(folder: Path, storage: str | None) -> str:
    """Where Optuna finds the study; references to the environment, as for a password, are followed.

    Raises:
        ConfigError: one leads nowhere.
    """
    if storage is None:
        return address_of(folder / DATABASE)
    try:
        with only_variables(None):  # the user's own command has named it
            url = str(OmegaConf.create({"storage": storage}).storage)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rpartition("interpolation: ")[2]
        raise ConfigError(f"sweep.storage ({storage}): {reason}") from None
    hidden_password(url)
    return url


def check_told(folder: Path, storage: str | None, told: str | None) -> None:
    """Refuse the `storage` that the record in `folder` names, unless the user's own command names it, too: `told`.

    Nothing of it is looked up or connected to before.

    Raises:
        ConfigError: it does not.
    """
    if storage is not None and storage != told:
        raise ConfigError(
            f"{folder}: its sweep.yaml names a ledger elsewhere, which is only opened if your command names it, too: "
            f"{printable(words_to_paste(named_storage(storage)))}"
        )


def named_storage(storage: str) -> str:
    """The override with which a command names the storage of a record, ready for Hydra's grammar.

    References in it to the environment stay what they are: it is compared with the record as it is typed.
    """
    return ready(f"storage={storage}")


def backup_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.backup")


def open_file(file: Path) -> RDBStorage:
    """Optuna's storage in the SQLite database `file`, which is made if it is not there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for part in _parts(file):
        separate(part)
    connect = partial(_connected, file, "rwc", timeout=PATIENCE)
    return _of_optuna(address_of(file), f"sqlite:///{DATABASE}", {"creator": connect})


def _of_optuna(address: str, url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
    """Optuna's storage; `address` is what other programs know it by.

    Raises:
        ConfigError: its tables are those of another version of Optuna.
    """
    try:
        return RDBStorage(url, engine_kwargs=engine_kwargs)
    except RuntimeError as error:
        if "storage upgrade" in str(error):  # as Optuna says what is to be done
            which, way_out = "an older", shlex.join(["optuna", "storage", "upgrade", "--storage", address])
        else:
            which, way_out = "a newer", "pip install -U optuna"
        raise ConfigError(
            f"the ledger of the sweep was written by {which} version of Optuna than {optuna.__version__}, which is "
            f"installed; to use it: {way_out}"
        ) from None


def address_of(file: Path) -> str:
    """The database `file` for Optuna."""
    return f"sqlite:///{file.absolute()}"


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
    try:
        for part in _parts(temporary):
            part.unlink(missing_ok=True)
        yield temporary
        for part in _parts(file)[1:]:  # of what stood in its place
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


def files_of(file: Path) -> set[str]:
    """The names that making, changing and backing up the database `file` leaves, or may leave when it is killed."""
    earlier = file.with_name(f"{file.name}.tmp")  # as earlier versions made it
    databases = [file, temporary_of(file), temporary_of(backup_of(file)), earlier]
    names = {LOCK}
    for database in databases:
        names.update(part.name for part in _parts(database))
    return names


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
        return _of_optuna(url, url.replace("{", "{{").replace("}", "}}"), options)  # Optuna formats it
    except ImportError as error:
        raise ConfigError(
            f"sweep.storage: {url.partition(':')[0]} needs a driver (pip install 'firstlight[postgresql]'; "
            f"{one_line(error.__cause__ or error)})"
        ) from None


def open_copy(file: Path) -> RDBStorage:
    """Optuna's storage in a copy of the ledger `file` in memory, or of its backup: nothing is written beside them.

    Raises:
        ConfigError: neither is whole.
        RunError: it cannot be read now.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem = damage(file, read_only=True)
    if problem is not None:
        if damage(backup_of(file), read_only=True) is not None:
            raise ConfigError(f"{file}: {problem}, and so is its backup; the runs beside it are untouched")
        note(f"{file}: {problem}: showing its backup, of the last trial that changed")
        file = backup_of(file)
    with explained(str(file)):
        copy = partial(_read, file)
        return _of_optuna(address_of(file), f"sqlite:///{DATABASE}", {"creator": copy, "poolclass": StaticPool})


def _read(file: Path) -> sqlite3.Connection:
    """A copy of a database in memory, made without writing: not even what a killed process left is put right in place.

    Raises:
        sqlite3.Error: it is damaged, or locked.
        OSError: it cannot be read.
    """
    _check_journal(file)  # before it is copied
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        if _has_journal(file):
            with closing(_connected(file, "ro")) as source:
                _copy(source, memory)
            return memory
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error):  # it is to be put right first: a process was killed
            raise
    with tempfile.TemporaryDirectory(prefix="firstlight_") as place:
        copy = Path(place, DATABASE)
        for ending in ("", *BESIDE):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{file}{ending}", f"{copy}{ending}")
        with closing(_connected(copy, "rw")) as source:
            _copy(source, memory)
    return memory


def _has_journal(file: Path) -> bool:
    """Is it a database of the usual kind? Beside one with a write-ahead log SQLite makes files even to read it."""
    with file.open("rb") as stream:
        return stream.read(20)[18:] == b"\1\1"


def _copy(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy a database whole. It is locked for reading before: `backup` itself would wait for ever for another's lock.

    Raises:
        sqlite3.Error: it is damaged, or locked.
    """
    source.execute("BEGIN")
    source.execute("SELECT count(*) FROM sqlite_master").fetchall()
    source.backup(target)


def _connected(file: Path, mode: str, timeout: float = PATIENCE / 6) -> sqlite3.Connection:
    """The one way to a database: `mode` is ro, rw, or rwc, which makes one that is not there.

    Raises:
        sqlite3.DatabaseError: its journal is not one that firstlight leaves.
    """
    _check_journal(file)
    url = f"{file.absolute().as_uri()}?mode={mode}"  # in which ? and % of the path are escaped
    return sqlite3.connect(url, uri=True, timeout=timeout, check_same_thread=False)


def _check_journal(file: Path) -> None:
    """Refuse a journal that names another file at its end: SQLite deletes that file when it has played it back.

    Only a transaction over several databases leaves such a journal, and there are none here.
    """
    for part in _parts(file)[1:]:
        with suppress(FileNotFoundError), part.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) >= len(OF_SEVERAL):
                stream.seek(-len(OF_SEVERAL), os.SEEK_END)
                if stream.read() == OF_SEVERAL:
                    raise sqlite3.DatabaseError(f"{part.name} names another file, which SQLite would delete")


def check_exists(url: str) -> None:
    """Refuse to make a database where a ledger was to be.

    Raises:
        ConfigError: `url` is a file's that is not there, or no address of a database.
    """
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"storage ({shorten(url)}): {one_line(error)}") from None
    name = address.database
    if address.drivername.startswith("sqlite") and (name is None or not Path(name).is_file()):
        raise ConfigError(f"storage ({shorten(url)}): there is no such file")


def back_up(file: Path) -> None:
    """Copy the database `file`, whole, to its backup.

    Raises:
        RunError: it cannot be read, or the copy not be written.
    """
    with explained(str(file)), closing(sqlite3.connect(":memory:")) as copy:
        with closing(_connected(file, "rw", timeout=PATIENCE)) as source:
            _copy(source, copy)
        with replacing(backup_of(file), "wb") as stream:
            stream.write(copy.serialize())


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
        for part in _parts(file):
            if part.exists():
                part.replace(part.with_name(f"{part.name}.damaged"))
        with replacing(file, "wb") as copy, backup.open("rb") as original:
            shutil.copyfileobj(original, copy)
    note(f"{file}: {problem}: using its backup, of the last trial that changed")


def _writable(file: Path) -> sqlite3.Connection:
    """A connection that puts right what a killed process left half done."""
    return _connected(file, "rw")


def damage(file: Path, *, read_only: bool = False) -> str | None:
    """What is wrong with a ledger; None if nothing. With `read_only` nothing is written beside it."""
    connect = _read if read_only else _writable
    if not file.is_file():
        return "is gone"
    try:
        with closing(connect(file)) as database:
            # Before anything else is asked: a view in the place of a table may never end, a trigger do anything.
            query = "SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index')"
            [(n_others,)] = database.execute(query).fetchall()
            if n_others:
                return "is damaged (it has views or triggers, which firstlight never makes)"
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
