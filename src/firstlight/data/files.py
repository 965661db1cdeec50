"""Text files as Python strings."""

import errno
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from firstlight.data.kinds import HEAD, kind_of, other_encoding

MAX_BYTES = 2**26
"""Of a vocabulary or a config from elsewhere: it is read whole, and Python's objects take many times that."""


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


@dataclass(frozen=True)
class Folder:
    """What is in a folder, at any depth: the `files` with the wanted suffixes, in the order of their names; how many
    others are left out, `hidden` ones (of a hidden folder it is one) and those of other kinds; and folders that are
    links, which are not followed."""

    files: list[Path]
    hidden: int
    others: int
    links: list[Path]


def list_folder(folder: Path, suffixes: tuple[str, ...]) -> Folder:
    """See `Folder`.

    Raises:
        OSError: a folder in it cannot be read.
    """
    found = Folder([], 0, 0, [])
    hidden = others = 0

    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        hidden += sum(is_hidden(name) for name in (*folders, *names))
        folders[:] = [name for name in folders if not is_hidden(name)]
        found.links.extend(Path(place, name) for name in folders if Path(place, name).is_symlink())
        for file in (Path(place, name) for name in names if not is_hidden(name)):
            if file.suffix.lower() in suffixes and file.is_file():
                found.files.append(file)
            else:
                others += 1
    return Folder(sorted(found.files, key=_by_name), hidden, others, sorted(found.links))


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
