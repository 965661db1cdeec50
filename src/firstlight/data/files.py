"""Text files as Python strings."""

import errno
import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.data.kinds import HEAD, kind_of, other_encoding

MAX_BYTES = 2**26
"""Limit for a vocabulary or a config from elsewhere: it is read whole, and Python objects take many
times as much."""

CONFIG = Path(".hydra") / "config.yaml"
ENVIRONMENT = "environment.json"
"""In a run folder: the composed config, and the software and hardware of the run."""


def user_path(name: str) -> Path:
    """The path `name` with ~ expanded; ~somebody stays as it is if there is no such user."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 (pathlib raises a RuntimeError)


class MissingFileError(ValueError):
    """There is no such file."""


def read_text(file: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        ValueError: it is missing, unreadable, or not UTF-8 text; the message names its format and
            how to convert it.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingFileError(f"path ({file}): there is no such file") from None
    except UnicodeDecodeError as error:
        data = error.object
        found = kind_of(data)
        advice = (
            f"it is {found.name}; {found.way_out}" if found is not None else other_encoding(data)
        )
        place = f"byte {error.start} is 0x{data[error.start]:02x}"
        raise ValueError(f"path ({file}) is not UTF-8 text: {place}; {advice}") from None
    except OSError as error:
        raise ValueError(f"path ({file}) cannot be read: {error.strerror}") from None
    found = kind_of(text[:HEAD].encode())
    if found is not None:  # its bytes are valid UTF-8 by chance
        raise ValueError(f"path ({file}) is not text in UTF-8, but {found.name}; {found.way_out}")
    return text


def is_hidden(name: str) -> bool:
    """Whether this is a dot file, or an editor's backup `name~`."""
    return name.startswith(".") or name.endswith("~")


def is_made_by_run(folder: Path) -> bool:
    """Whether this is a run folder, or MLflow's folder for the samples of a run."""
    if (folder / CONFIG).is_file() and (folder / ENVIRONMENT).is_file():
        return True
    return re.fullmatch("[0-9a-f]{32}", folder.name) is not None and (folder / "artifacts").is_dir()


@dataclass
class Folder:
    """The contents of a folder, at any depth."""

    files: list[Path] = field(default_factory=list)
    """Those with the wanted suffixes, in the order of their names."""
    hidden: int = 0
    """Hidden files and folders, which are left out; what is in a hidden folder is not counted."""
    others: int = 0
    """Files with other suffixes."""
    runs: int = 0
    """Run folders, which are left out because runs change them."""
    links: list[Path] = field(default_factory=list)
    """Links to folders, which are not followed."""


def list_folder(folder: Path, suffixes: tuple[str, ...]) -> Folder:
    """See `Folder`.

    Raises:
        OSError: a folder in it cannot be read.
    """
    found = Folder()

    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        entered: list[str] = []
        for name in folders:
            path = Path(place, name)
            if is_hidden(name):
                found.hidden += 1
            elif path.is_symlink():
                found.links.append(path)
            elif is_made_by_run(path):
                found.runs += 1
            else:
                entered.append(name)
        folders[:] = entered  # os.walk enters the folders that are left in its list
        for name in names:
            path = Path(place, name)
            if is_hidden(name):
                found.hidden += 1
            elif path.suffix.lower() in suffixes and path.is_file():
                found.files.append(path)
            else:
                found.others += 1
    found.files.sort(key=_by_name)
    found.links.sort()
    return found


def _by_name(file: Path) -> tuple[tuple[str, ...], Path]:
    """A sort key that is the same whether a file system stores é as one character (ext4) or as two
    (HFS+).
    """
    return tuple(unicodedata.normalize("NFC", part) for part in file.parts), file


def read_limited(file: Path, most: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        OSError: it cannot be read, is larger, or is a device or a pipe, which may be endless.
    """
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    if file.stat().st_size > most:
        raise OSError(errno.EFBIG, f"{os.strerror(errno.EFBIG)}: over {most:,} bytes", str(file))
    return file.read_bytes()
