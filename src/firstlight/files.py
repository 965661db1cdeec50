"""Writing files and folders: what appears is whole, nothing is written through a link, and names stay inside.

Run folders, sweeps and caches may have been made by somebody else. A link in them, below a name that firstlight is
about to write, would let them choose which of the user's files is written.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from firstlight.errors import ConfigError, shorten

NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS, errno.EISDIR, errno.EACCES, errno.EPERM}
"""What file systems answer that cannot fsync a folder (CIFS, some of FUSE): then a rename is as safe as it gets."""
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def inside(folder: Path, name: object) -> Path:
    """The path of `name` in `folder`, for a `name` that was read from a file.

    Raises:
        ConfigError: it is not one plain name (`..`, `a/b`, an absolute path), or there is a link of that name.
    """
    is_plain = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")
    if not is_plain:
        raise ConfigError(f"{folder}: {shorten(repr(name))} is not the name of something in this folder")
    path = folder / str(name)
    if path.is_symlink():
        raise ConfigError(f"{path}: a link, where firstlight only makes files and folders; remove it")
    return path


def check_links(folder: Path) -> None:
    """Refuse to write into a folder with links that lead out of it, at any depth.

    Raises:
        ConfigError: there is one.
    """
    root = folder.resolve()
    for place, folders, files in os.walk(root):  # does not follow links
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                shown = folder / path.relative_to(root)
                raise ConfigError(f"{shown}: a link that leads out of {folder}; remove it, or copy what it links to")


def open_new(file: Path, mode: str = "w", **options: Any) -> IO[Any]:
    """Open `file` for writing, made anew: what stood in its place, a link perhaps, is removed and never written to.

    Raises:
        OSError: it cannot be made.
    """
    file.unlink(missing_ok=True)

    def exclusive(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_EXCL | _NO_FOLLOW, 0o666)

    return open(file, mode, opener=exclusive, **_options(mode, options))


def open_to_append(file: Path, mode: str = "a", **options: Any) -> IO[Any]:
    """Open `file` to add to its end, or make it; the file itself, not one that it is a link to.

    A file of several names (a hard link) becomes one of its own first: the others keep what they have.

    Raises:
        OSError: it is a symbolic link, or cannot be opened.
    """

    def unfollowed(path: str, flags: int) -> int:
        return os.open(path, flags | _NO_FOLLOW, 0o666)

    with suppress(FileNotFoundError):
        status = file.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            with replacing(file, "wb") as copy, file.open("rb") as original:
                shutil.copyfileobj(original, copy)
    return open(file, mode, opener=unfollowed, **_options(mode, options))


def append(file: Path, content: bytes) -> None:
    """Add `content` to the end of `file`, on disk; nothing of it is left if that fails.

    Raises:
        OSError: it cannot be written, or the file is a symbolic link.
    """
    with open_to_append(file, "ab", buffering=0) as stream:
        end, left = stream.tell(), memoryview(content)
        try:
            while left:
                left = left[stream.write(left) :]
            sync(stream)
        except OSError:
            with suppress(OSError):
                stream.truncate(end)
            raise


@contextmanager
def replacing(file: Path, mode: str = "w", *, tag: str = "", **options: Any) -> Iterator[IO[Any]]:
    """Write `file` anew: it holds its old content until the block ends, then all of the new one, on disk.

    With several writers at a time each needs a `tag` of its own.

    Raises:
        OSError: it cannot be written; the old content is left.
    """
    temporary = temporary_of(file, tag)
    try:
        with open_new(temporary, mode, **options) as stream:
            yield stream
            sync(stream)
        temporary.replace(file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace_text(file: Path, text: str) -> None:
    """Write `text`, in UTF-8, as the content of `file`; see `replacing`."""
    with replacing(file) as stream:
        stream.write(text)


def temporary_of(target: Path, tag: str = "") -> Path:
    """Where a file or folder is made before it takes its name: beside it, hidden."""
    return target.with_name(f".{target.name}{tag and '.'}{tag}.tmp")


def sync(stream: IO[Any]) -> None:
    """Put on disk what was written to `stream`."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Put the names in `folder` on disk, where the file system can: without it a rename may be lost with the power.

    Raises:
        OSError: the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in NO_FOLDER_SYNC:  # Windows opens no folders
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _options(mode: str, options: dict[str, Any]) -> dict[str, Any]:
    """Text is UTF-8, and written as it is, on every system."""
    return options if "b" in mode else {"encoding": "utf-8", "newline": "", **options}
