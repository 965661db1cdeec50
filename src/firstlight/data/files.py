"""Text files as Python strings."""

import errno
import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.data.kinds import HEAD, kind_of, other_encoding

MAX_BYTES = 2**26
"""Of a vocabulary or a config from elsewhere: it is read whole, and Python's objects take many times that."""

CONFIG = Path(".hydra") / "config.yaml"
ENVIRONMENT = "environment.json"
"""In a run folder: the composed config, and what else decides its numbers."""


def user_path(name: str) -> Path:
    """The path `name`, with ~ for the home folder; ~somebody stays as it is if there is nobody of that name."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 (pathlib raises a RuntimeError)


class MissingFileError(ValueError):
    """There is no such file."""


def read_text(file: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        ValueError: it is missing, unreadable, or not UTF-8 text: named for what it is, with the command that converts.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingFileError(f"path ({file}): there is no such file") from None
    except UnicodeDecodeError as error:
        data, place = error.object, f"byte {error.start} is 0x{error.object[error.start]:02x}"
        found = kind_of(data)
        advice = f"it is {found.name}; {found.way_out}" if found is not None else other_encoding(data)
        raise ValueError(f"path ({file}) is not UTF-8 text: {place}; {advice}") from None
    except OSError as error:
        raise ValueError(f"path ({file}) cannot be read: {error.strerror}") from None
    if (found := kind_of(text[:HEAD].encode())) is not None:  # bytes that can be UTF-8 by chance
        raise ValueError(f"path ({file}) is not text in UTF-8, but {found.name}; {found.way_out}")
    return text


def is_hidden(name: str) -> bool:
    """Is this what programs keep beside the user's files: a name with a dot in front, or an editor's backup `name~`?"""
    return name.startswith(".") or name.endswith("~")


def is_made_by_run(folder: Path) -> bool:
    """Is this a run folder, or the one that MLflow has made for the samples of a run?"""
    if (folder / CONFIG).is_file() and (folder / ENVIRONMENT).is_file():
        return True
    return re.fullmatch("[0-9a-f]{32}", folder.name) is not None and (folder / "artifacts").is_dir()


@dataclass(frozen=True)
class Folder:
    """What is in a folder, at any depth: the `files` with the wanted suffixes, in the order of their names; how many
    others are left out, `hidden` ones (of a hidden folder it is one) and those of other kinds; the folders that `runs`
    have made, which are left out (what they write changes); and folders that are links, which are not followed."""

    files: list[Path]
    hidden: int = 0
    others: int = 0
    runs: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)


def list_folder(folder: Path, suffixes: tuple[str, ...]) -> Folder:
    """See `Folder`.

    Raises:
        OSError: a folder in it cannot be read.
    """
    files: list[Path] = []
    runs: list[Path] = []
    links: list[Path] = []
    hidden = others = 0

    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        hidden += sum(is_hidden(name) for name in (*folders, *names))
        inside = [Path(place, name) for name in folders if not is_hidden(name)]
        links += [path for path in inside if path.is_symlink()]
        made_by_runs = [path for path in inside if not path.is_symlink() and is_made_by_run(path)]
        runs += made_by_runs
        folders[:] = [path.name for path in inside if path not in made_by_runs]
        for file in (Path(place, name) for name in names if not is_hidden(name)):
            if file.suffix.lower() in suffixes and file.is_file():
                files.append(file)
            else:
                others += 1
    return Folder(sorted(files, key=_by_name), hidden, others, sorted(runs), sorted(links))


def _by_name(file: Path) -> tuple[tuple[str, ...], Path]:
    """The order of files, which is the same whether a file system keeps é as one character (ext4) or as two (HFS+)."""
    return tuple(unicodedata.normalize("NFC", part) for part in file.parts), file


def read_limited(file: Path, most: int = MAX_BYTES) -> bytes:
    """The content of a regular file of `most` bytes at most.

    Raises:
        OSError: it cannot be read, is larger, or is a device or a pipe, which might have no end.
    """
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    if file.stat().st_size > most:
        raise OSError(errno.EFBIG, f"{os.strerror(errno.EFBIG)}: over {most:,} bytes", str(file))
    return file.read_bytes()
