"""Text files as Python strings."""

import errno
import glob
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.data.kinds import HEAD, kind_of, way_to_utf8

MAX_BYTES = 2**26
"""Size limit for a vocabulary or config from elsewhere.

It is read whole, and as Python objects it takes many times its size."""

CONFIG = Path(".hydra") / "config.yaml"
ENVIRONMENT = "environment.json"
"""The run's software and hardware; with `CONFIG`, the composed config, it marks a run folder."""


def user_path(name: str) -> Path:
    """Expand ~ in `name`; ~somebody stays as it is if no such user exists."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 (pathlib raises a RuntimeError)


def leads_to(path: Path, kind: Callable[[Path], bool] = Path.exists) -> bool:
    """Whether a path that a user has typed leads to something, e.g. of the `kind` Path.is_file.

    False as well where it cannot be looked up: the name is too long, or a folder above it cannot be
    searched. Whoever reads it says why.
    """
    try:
        return kind(path)
    except OSError:
        return False


class MissingFileError(ValueError):
    """The file or folder of the setting `key` does not exist.

    The message says what else its name may mean.
    """

    def __init__(self, file: Path | str, *, what: str = "file", key: str = "path") -> None:
        name = str(file)
        problem = f"no such {what}"
        if glob.has_magic(name):
            problem = f"no {what} matches this pattern"
        elif "," in name and any(leads_to(user_path(part.strip())) for part in name.split(",")):
            problem = f"no such {what}; several {what}s are a list: 'data.{key}=[{name}]'"
        super().__init__(f"{key} ({name}): {problem}")


def unreadable(file: Path | str, error: OSError) -> ValueError:
    """Say in one line why the file or folder `file`, which the user has named, cannot be read."""
    if isinstance(error, FileNotFoundError):
        return MissingFileError(file)
    advice = "; a process may open more with ulimit -n 65536" if error.errno == errno.EMFILE else ""
    return ValueError(f"path ({file}) cannot be read: {error.strerror}{advice}")


def read_text(file: Path) -> str:
    """Read a UTF-8 file.

    Raises:
        ValueError: it is missing, unreadable, or not UTF-8 text; the message names its format and
            how to convert it.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from None
    return decoded(data, file)


def decoded(data: bytes, file: Path) -> str:
    """Decode the UTF-8 text that `file` holds: line ends become newlines.

    Raises:
        ValueError: it is not UTF-8 text; see `read_text`.
    """
    try:
        # "utf-8-sig" drops a byte-order mark, which Windows editors write.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(error, file, error.start) from None
    check_is_text(text, file)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def not_utf8(error: UnicodeDecodeError, file: Path, place: int) -> ValueError:
    """Say what is wrong with a file that is not UTF-8 at byte `place`, and how to convert it."""
    data = error.object
    advice = way_to_utf8(data)
    if "unexpected end of data" in error.reason:
        advice = f"it ends inside a character: is it cut short? {advice}"
    wrong = f"byte {place} is 0x{data[error.start]:02x}"
    return ValueError(f"path ({file}) is not UTF-8 text: {wrong}; {advice}")


def check_is_text(text: str, file: Path) -> None:
    """Refuse what is valid UTF-8 but not a text to train on: a PDF may be all ASCII.

    Raises:
        ValueError: the file is of such a kind.
    """
    found = kind_of(text[:HEAD].encode())
    if found is not None:
        raise ValueError(f"path ({file}) is not text in UTF-8, but {found.name}; {found.way_out}")


def expanded_path(name: str) -> list[Path]:
    """The path `name`, or the paths that it matches as a pattern.

    Patterns have `*`, `?`, `[...]`, and `**` for folders at any depth. What exists under this very
    name is taken. A pattern does not match hidden files, backups or run folders.
    """
    path = user_path(name)
    if glob.has_magic(name) and not leads_to(path):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (it may be absolute)
        wanted = [p for p in found if not is_hidden(p.name) and not is_made_by_run(p)]
        return sorted(wanted, key=_by_name) or [path]
    return [path]


def is_hidden(name: str) -> bool:
    """Whether `name` is a dot file or an editor's backup (`name~`)."""
    return name.startswith(".") or name.endswith("~")


def is_made_by_run(folder: Path) -> bool:
    """Whether `folder` is a run folder, or MLflow's folder for the samples of a run."""
    if (folder / CONFIG).is_file() and (folder / ENVIRONMENT).is_file():
        return True
    # MLflow names a folder by the run's id, in hex.
    return re.fullmatch("[0-9a-f]{32}", folder.name) is not None and (folder / "artifacts").is_dir()


@dataclass
class Folder:
    """The contents of a folder, at any depth."""

    files: list[Path] = field(default_factory=list)
    """Files with the wanted suffixes, sorted by name."""
    hidden: int = 0
    """Number of hidden files and folders; a hidden folder counts as one."""
    others: int = 0
    """Number of files with other suffixes."""
    runs: int = 0
    """Number of run folders, which are left out because a run's output is not its input."""
    links: list[Path] = field(default_factory=list)
    """Links to folders, which are not followed: they may form a cycle."""


def list_folder(folder: Path, suffixes: tuple[str, ...]) -> Folder:
    """Walk `folder` and sort what it contains; see `Folder`.

    Raises:
        OSError: a folder in it cannot be read.
    """
    found = Folder()

    # os.walk skips an unreadable folder unless `onerror` raises: text would go missing silently.
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
        # os.walk enters the folders that are left in its list.
        folders[:] = entered
        for name in names:
            path = Path(place, name)
            if is_hidden(name):
                found.hidden += 1
            elif name.lower().endswith(suffixes) and path.is_file():
                found.files.append(path)
            else:
                found.others += 1
    found.files.sort(key=_by_name)
    found.links.sort()
    return found


def _by_name(file: Path) -> tuple[tuple[str, ...], Path]:
    """Return a sort key that does not depend on how the file system stores accents.

    é is one character on ext4 and two on HFS+.
    """
    return tuple(unicodedata.normalize("NFC", part) for part in file.parts), file


def read_limited(file: Path, most: int = MAX_BYTES) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises:
        OSError: it cannot be read, is larger, or is a device or a pipe, which may be endless.
    """
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    if file.stat().st_size > most:
        raise OSError(errno.EFBIG, f"{os.strerror(errno.EFBIG)}: over {most:,} bytes", str(file))
    return file.read_bytes()
