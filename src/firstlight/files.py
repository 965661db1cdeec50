"""Safe writing: a new file or folder appears complete or not at all, and no link is followed.

Run folders, sweeps and caches may come from somebody else. If firstlight followed a link in one of
them, that person could choose which of the user's files is overwritten.
"""

import errno
import functools
import mmap
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from firstlight.errors import ConfigError, shorten
from firstlight.output import note

NO_FOLDER_SYNC = {
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EBADF,
    errno.ENOSYS,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
}
"""Errors from file systems that cannot fsync a folder (CIFS, some FUSE ones): a rename must do."""
NO_MODES = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EROFS}
"""Errors from chmod on file systems without POSIX permissions (exFAT, CIFS, WSL's /mnt/c)."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors from flock on file systems without locks (NFS without lockd, Lustre, some FUSE ones)."""
NO_MAPS = {errno.ENODEV, errno.ENOSYS, errno.ENOTSUP}
"""Errors from mmap on file systems that cannot map files into memory (some FUSE ones)."""
LONGEST_NAME = 255
"""Bytes in the longest name of a file or folder on the usual file systems."""
PLAIN_NAME = re.compile(r"[^/\\\0\ud800-\udfff]+")
"""The name of one file or folder, on every system. Half of a surrogate pair cannot be encoded."""
PROBE = ".firstlight_probe_"
"""Prefix of the temporary folder in which `check_file_system` tests a file system."""


def inside(folder: Path, name: object) -> Path:
    """The path of `name` in `folder`, where `name` was read from a file and is not trusted.

    Raises:
        ConfigError: `name` is not a plain name (it is `..`, `a/b` or an absolute path), or the path
            is a link.
    """
    is_plain = (
        isinstance(name, str)
        and name not in (".", "..")
        and PLAIN_NAME.fullmatch(name) is not None
        and len(name.encode()) <= LONGEST_NAME
    )
    if not is_plain:
        raise ConfigError(
            f"{folder}: {shorten(repr(name))} is not the name of something in this folder"
        )
    path = folder / str(name)
    if path.is_symlink():
        raise ConfigError(
            f"{path}: a link, where firstlight only makes files and folders; remove it"
        )
    return path


def check_links(folder: Path, unwritten: str = "") -> None:
    """Refuse a folder that contains, at any depth, a link to something outside it.

    Links whose path matches the pattern `unwritten` (see `PurePath.match`) are allowed: nothing is
    ever written to them.

    Raises:
        ConfigError: the folder contains such a link.
    """
    root = folder.resolve()
    for place, folders, files in os.walk(root):  # does not follow links
        for name in (*folders, *files):
            path = Path(place, name)
            if not path.is_symlink() or (unwritten and path.match(unwritten)):
                continue
            try:
                leads_out = not path.resolve().is_relative_to(root)
            except (OSError, RuntimeError):  # a link to itself; RuntimeError before Python 3.13
                leads_out = True
            if leads_out:
                shown = folder / path.relative_to(root)
                raise ConfigError(
                    f"{shown}: a link that leads out of {folder}; remove it, or copy what it"
                    " links to"
                )


def open_new(file: Path, mode: str = "w") -> IO[Any]:
    """Create `file` and open it for writing; a file or link of that name is removed first.

    Raises:
        OSError: the file cannot be created.
    """
    file.unlink(missing_ok=True)
    # O_EXCL: the open fails if somebody makes a link here after the unlink.
    return _open(file, mode, os.O_EXCL)


def open_to_append(file: Path, mode: str = "a", buffering: int = -1) -> IO[Any]:
    """Open `file` for appending, or create it; a symbolic link is not followed.

    A file with several names (hard links) is replaced by a copy first, so that the other names keep
    their content.

    Raises:
        OSError: it is a symbolic link, or cannot be opened.
    """
    separate(file)
    return _open(file, mode, 0, buffering)


def _open(file: Path, mode: str, more_flags: int, buffering: int = -1) -> IO[Any]:
    """Open `file`, unless it is a symbolic link; text is UTF-8, with its newlines unchanged."""

    def unfollowed(path: str, flags: int) -> int:
        # 0o666, less the user's umask: the permissions that `open` gives by itself
        return os.open(path, flags | more_flags | os.O_NOFOLLOW, 0o666)

    if "b" in mode:
        return open(file, mode, buffering, opener=unfollowed)
    return open(file, mode, buffering, encoding="utf-8", newline="", opener=unfollowed)


def separate(file: Path) -> None:
    """Replace a file that has several names (hard links) by a copy, to be written in place.

    Raises:
        OSError: it cannot be copied.
    """
    with suppress(FileNotFoundError):  # nothing to separate yet
        status = file.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            with replacing(file, "wb") as copy, file.open("rb") as original:
                shutil.copyfileobj(original, copy)


def append(file: Path, content: bytes) -> None:
    """Append `content` to `file`, all of it or, if writing fails, none of it.

    The content then survives the death of this process, but not a power cut: fsync would take
    longer than a small step.

    Raises:
        OSError: it cannot be written, or the file is a symbolic link.
    """
    # Unbuffered: nothing is left in a buffer, to be written later, when writing fails.
    with open_to_append(file, "ab", buffering=0) as stream:
        end, left = stream.tell(), memoryview(content)
        try:
            while left:  # a write may stop early, on a disk that is nearly full
                left = left[stream.write(left) :]
        except OSError:
            with suppress(OSError):
                stream.truncate(end)
            raise


@contextmanager
def replacing(file: Path, mode: str = "w", *, through: Path | None = None) -> Iterator[IO[Any]]:
    """Write `file` anew: it keeps its old content until the block ends, then has all of the new.

    The new content is first written to the temporary file `through` and flushed to disk. Writers
    that may run at the same time each need their own; the default is derived from the name of
    `file`.

    Raises:
        OSError: the file cannot be written; it keeps its old content.
    """
    temporary = through or temporary_of(file)
    with _renamed(temporary, file), open_new(temporary, mode) as stream:
        yield stream
        # Before the rename: after a power cut the name must not lead to an empty file.
        sync(stream)


@contextmanager
def replacing_by_path(file: Path) -> Iterator[Path]:
    """Like `replacing`, for libraries that open a file themselves: yields a temporary path.

    Raises:
        OSError: the file cannot be written; it keeps its old content.
    """
    temporary = temporary_of(file)
    with _renamed(temporary, file):
        open_new(temporary, "wb").close()  # a link that waits under this name is removed
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())


@contextmanager
def _renamed(temporary: Path, file: Path) -> Iterator[None]:
    """Rename `temporary` to `file` when the block ends; remove it if the block fails."""
    try:
        yield
        temporary.replace(file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace_text(file: Path, text: str) -> None:
    """Replace the content of `file` by `text`, in UTF-8; see `replacing`."""
    with replacing(file) as stream:
        stream.write(text)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its contents, as far as possible."""
    # unlink refuses a folder, which is then removed with its contents.
    with suppress(OSError):
        path.unlink()  # of a link the link itself, also where it leads to a folder
        return
    shutil.rmtree(path, ignore_errors=True)


def temporary_of(target: Path, tag: str = "") -> Path:
    """The hidden path beside `target` at which it is written before it is renamed."""
    suffix = f".{tag}" if tag else ""
    return target.with_name(f".{target.name}{suffix}.tmp")


def sync(stream: IO[Any]) -> None:
    """Flush `stream` to disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the entries of `folder` to disk, if the file system can.

    Without it a power cut may undo a rename.

    Raises:
        OSError: the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


def give_usual_mode(file: Path) -> None:
    """Give `file` the permissions that the user's umask allows, if the file system has any.

    Raises:
        OSError: the disk fails.
    """
    # The umask can only be read by setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    try:
        file.chmod(0o666 & ~mask)
    except OSError as error:
        if error.errno not in NO_MODES:
            raise


def can_be_mapped(file: Path) -> bool:
    """Whether the file system of `file` can map files into memory; True if `file` is empty."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 1, access=mmap.ACCESS_READ):
            return True
    except OSError as error:
        return error.errno not in NO_MAPS
    except ValueError:  # mmap refuses empty files everywhere
        return True


@contextmanager
def locked(file: Path, *, timeout: float = 0) -> Iterator[None]:
    """Hold the lock `file`, which is created if necessary and released when the process dies.

    Some network file systems have no locks. There a note says so, and the block runs without one.

    Raises:
        filelock.Timeout: another process still holds the lock after `timeout` seconds.
        OSError: the lock file cannot be created.
    """
    # A soft lock is merely a file: it would remain after its process was killed, and the run could
    # never be resumed.
    lock = FileLock(file, timeout=timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        # filelock.Timeout is an OSError without a number, and raised here as well.
        if error.errno not in NO_LOCKS:
            raise
        _note_no_locks(file.parent)
    try:
        yield
    finally:
        lock.release()


@functools.cache  # once for each folder
def _note_no_locks(folder: Path) -> None:
    note(
        f"{shorten(str(folder))}: this file system cannot lock files; make sure that only one"
        " process at a time writes there"
    )


def existing_place(wanted: Path) -> Path:
    """An existing folder on the file system where `wanted` is, or will be, created.

    It is a parent of `wanted` if possible: a folder that is about to become a run folder must stay
    empty.

    Raises:
        OSError: `wanted` is not a possible name for a folder.
    """
    # The parent of a mount point is on another file system.
    if wanted.is_dir() and (wanted.is_mount() or not os.access(wanted.absolute().parent, os.W_OK)):
        return wanted
    return next(folder for folder in wanted.absolute().parents if folder.is_dir())


def check_file_system(folder: Path, subject: str, way_out: str) -> None:
    """Try in `folder` everything that a run needs from the file system, and clean up.

    A folder that is not writable passes: the code that writes there reports that.

    Raises:
        ConfigError: the file system lacks something. The message begins with `subject`, says what
            is lacking, and ends with `way_out`.
    """
    try:
        place = Path(tempfile.mkdtemp(prefix=PROBE, dir=folder))
    except OSError:
        return
    attempted = ""
    try:
        for action in _operations_of_a_run(place):
            # Named before it is done: it is done when the loop asks for the next one.
            attempted = action
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"{subject}: this file system cannot {attempted} ({reason}); {way_out}"
        ) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _operations_of_a_run(place: Path) -> Iterator[str]:
    """Do in the folder `place` what a run does to files; yield the name of each operation first."""
    content, twice = b"firstlight", b"firstlightfirstlight"
    file = place / "file"
    # A checkpoint is a folder that is renamed once it is complete; see checkpoints/folder_io.py.
    unfinished, finished = place / ".step_00000001.tmp", place / "step_00000001"
    yield "make a folder"
    unfinished.mkdir()
    yield "write a file"
    with open_new(file, "wb") as stream:
        stream.write(content)
    yield "put a file on disk with fsync"
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    yield "append to a file"
    append(file, content)
    _check_content(file.read_bytes(), twice)
    yield "map a file into memory"
    with (
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        _check_content(mapped[:], twice)
    yield "replace a file by renaming another"
    replace_text(file, "")
    yield "rename a folder"
    with open_new(unfinished / "file", "wb") as stream:
        stream.write(content)
    unfinished.rename(finished)
    _check_content((finished / "file").read_bytes(), content)
    yield "remove a folder"
    shutil.rmtree(finished)


def _check_content(content: bytes, expected: bytes) -> None:
    """Raise an OSError if a file system has accepted bytes and returns others."""
    if content != expected:
        raise OSError(errno.EIO, "it does not hold what was written")
