"""Make the folder that a setting names; a failure is reported as a mistake in the setting."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from firstlight.data.files import leads_to
from firstlight.errors import ConfigError, shorten


def numbered(wanted: Path, key: str = "output_dir") -> Iterator[Path]:
    """`wanted`, `wanted_2`, `wanted_3`, ...: names for a new folder, until one is free.

    Raises:
        ConfigError: `wanted`, the value of `key`, cannot be the name of a folder.
    """
    if wanted.name in ("", ".."):
        raise ConfigError(f"{key} ({wanted}) must name a folder that can be made")
    yield wanted
    for number in itertools.count(2):
        yield wanted.with_name(f"{wanted.name}_{number}")


def make_folder(folder: Path, key: str) -> None:
    """Make `folder`, the value of `key`, and those above it, unless it exists.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{key} ({shorten(str(folder))}) is a file; give {key}=...") from None
    except OSError as error:
        raise _cannot_be_made(folder, key, error) from None


@contextmanager
def new_folder(wanted: Path, key: str) -> Iterator[Path]:
    """Make `wanted`, `wanted_2`, ..., the first that does not exist, and the folders above it.

    Those that are made here and are empty at the end are removed.

    Raises:
        ConfigError: it cannot be made; `key` is the setting that names it.
    """
    made = [folder for folder in wanted.absolute().parents if not leads_to(folder)]
    try:
        folder = _make_first(wanted, key)
        made.insert(0, folder)
        yield folder
    finally:
        for folder in made:
            with suppress(OSError):  # something is in it
                folder.rmdir()


def _make_first(wanted: Path, key: str) -> Path:
    folders = numbered(wanted, key)
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        while True:
            folder = next(folders)
            with suppress(FileExistsError):
                # mkdir itself says whether it is new: between a test and the making another process
                # could come.
                folder.mkdir()
                return folder
    except OSError as error:
        raise _cannot_be_made(wanted, key, error) from None


def _cannot_be_made(folder: Path, key: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"{key} ({shorten(str(folder))}) cannot be made: {error.strerror}; give {key}=..."
    )
