"""Writing files and folders safely: a new file appears complete or not at all, and no write follows
a link.

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
"""Errors from file systems that cannot fsync a folder (CIFS, some FUSE ones). A rename is the
safest they offer."""
NO_MODES = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EROFS}
"""Errors from chmod on file systems without POSIX permissions (exFAT, CIFS, WSL's /mnt/c)."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors from flock on file systems without locks (NFS without its lock service, Lustre, some FUSE
ones)."""
NO_MAPS = {errno.ENODEV, errno.ENOSYS, errno.ENOTSUP}
"""Errors from mmap on file systems that cannot map files into memory (some FUSE ones)."""
LONGEST_NAME = 255
"""Bytes in the longest name of a file or folder on the usual file systems."""
PLAIN_NAME = re.compile(r"[^/\\\0\ud800-\udfff]+")
"""The name of one file or folder on every system. Half of a surrogate pair cannot be encoded."""
PROBE = ".firstlight_probe_"
"""Prefix of the temporary folder in which `check_file_system` tests a file system."""


def inside(folder: Path, name: object) -> Path:
    """The path of `name` in `folder`, where `name` was read from a file and is not trusted.

    Raises:
        ConfigError: `name` is not a plain name (it is `..`, `a/b` or an absolute path), or the path
            is a link.
    """
    if (
        not isinstance(name, str)
        or name in (".", "..")
        or not PLAIN_NAME.fullmatch(name)
        or len(name.encode()) > LONGEST_NAME
    ):
        raise ConfigError(
            f"{folder}: {shorten(repr(name))} is not the name of something in this folder"
        )
    path = folder / name
    if path.is_symlink():
        raise ConfigError(
            f"{path}: a link, where firstlight only makes files and folders; remove it"
        )
    return path


def check_links(folder: Path, unwritten: str = "") -> None:
    """Refuse to write into a folder that contains, at any depth, a link to something outside it.

    Links whose path matches the pattern `unwritten` (see `PurePath.match`) are allowed: they are
    never written to.

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
            except (OSError, RuntimeError):  # a link to itself
                leads_out = True
            if leads_out:
                shown = folder / path.relative_to(root)
                raise ConfigError(
                    f"{shown}: a link that leads out of {folder}; remove it, or copy what it"
                    " links to"
                )


def open_new(file: Path, mode: str = "w") -> IO[Any]:
    """Create `file` and open it for writing. An existing file or link of that name is removed, not
    written to.

    Raises:
        OSError: the file cannot be created.
    """
    file.unlink(missing_ok=True)
    # O_EXCL: if somebody makes a link here after the unlink, the open fails.
    return _open(file, mode, os.O_EXCL)


def open_to_append(file: Path, mode: str = "a", buffering: int = -1) -> IO[Any]:
    """Open `file` for appending; create it if it does not exist. Symbolic links are not followed.

    A file with several names (hard links) is replaced by a copy first, so that the other names keep
    their content.

    Raises:
        OSError: it is a symbolic link, or cannot be opened.
    """
    separate(file)
    return _open(file, mode, 0, buffering)


def _open(file: Path, mode: str, more_flags: int, buffering: int = -1) -> IO[Any]:
    """Open `file`, unless it is a symbolic link. Text is UTF-8 on every system, with its newlines
    unchanged.
    """

    def unfollowed(path: str, flags: int) -> int:
        return os.open(path, flags | more_flags | os.O_NOFOLLOW, 0o666)

    if "b" in mode:
        return open(file, mode, buffering, opener=unfollowed)
    return open(file, mode, buffering, encoding="utf-8", newline="", opener=unfollowed)


def separate(file: Path) -> None:
    """Replace a file that has several names (hard links) by a copy, so that it can be written in
    place.

    Raises:
        OSError: it cannot be copied.
    """
    with suppress(FileNotFoundError):
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
    with open_to_append(
        file, "ab", buffering=0
    ) as stream:  # so that no part is left in a buffer when writing fails
        end, left = stream.tell(), memoryview(content)
        try:
            while left:
                left = left[stream.write(left) :]
        except OSError:
            with suppress(OSError):
                stream.truncate(end)
            raise


@contextmanager
def replacing(file: Path, mode: str = "w", *, through: Path | None = None) -> Iterator[IO[Any]]:
    """Write `file` again. It keeps its old content until the block ends; then it holds all of the
    new, on disk.

    The new content is first written to the temporary file `through`. Writers that may run at the
    same time each need their own; the default is derived from the name of `file`.

    Raises:
        OSError: the file cannot be written; it keeps its old content.
    """
    temporary = through or temporary_of(file)
    with _renamed(temporary, file), open_new(temporary, mode) as stream:
        yield stream
        sync(stream)  # before the rename: after a power cut the name must not lead to an empty file


@contextmanager
def replacing_by_path(file: Path) -> Iterator[Path]:
    """Like `replacing`, for libraries that open the file themselves: yields the path of an empty
    temporary file.

    Raises:
        OSError: the file cannot be written; it keeps its old content.
    """
    temporary = temporary_of(file)
    with _renamed(temporary, file):
        open_new(temporary, "wb").close()
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
    """Write `text`, in UTF-8, as the content of `file`; see `replacing`."""
    with replacing(file) as stream:
        stream.write(text)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its contents, as far as possible. Links are not
    followed.
    """
    with suppress(OSError):
        path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)


def temporary_of(target: Path, tag: str = "") -> Path:
    """The hidden path, in the same folder, at which a file or folder is written before it is
    renamed to `target`.
    """
    suffix = f".{tag}" if tag else ""
    return target.with_name(f".{target.name}{suffix}.tmp")


def sync(stream: IO[Any]) -> None:
    """Flush `stream` to disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the entries of `folder` to disk, if the file system can. Otherwise a power cut may undo
    a rename.

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
    """Give `file` the permissions that the user's umask allows. File systems without permissions
    are left alone.

    Raises:
        OSError: the disk fails.
    """
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    try:
        file.chmod(0o666 & ~mask)
    except OSError as error:
        if error.errno not in NO_MODES:
            raise


def can_be_mapped(file: Path) -> bool:
    """Whether the file system of `file` can map files into memory; True for an empty file, which
    cannot tell.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 1, access=mmap.ACCESS_READ):
            return True
    except OSError as error:
        return error.errno not in NO_MAPS
    except ValueError:  # an empty file
        return True


@contextmanager
def locked(file: Path, *, timeout: float = 0) -> Iterator[None]:
    """Hold the lock `file`, creating it if necessary. The system releases it when the process dies.

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
    except OSError as error:  # a Timeout is one, with no number
        if error.errno not in NO_LOCKS:
            raise
        _note_no_locks(file.parent)
    try:
        yield
    finally:
        lock.release()


@functools.cache
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
    if wanted.is_dir() and (wanted.is_mount() or not os.access(wanted.absolute().parent, os.W_OK)):
        return wanted
    return next(folder for folder in wanted.absolute().parents if folder.is_dir())


def check_file_system(folder: Path, subject: str, way_out: str) -> None:
    """Test in `folder` everything that a run needs from the file system, and clean up.

    A folder that is not writable passes: the code that writes there reports that. The error message
    begins with `subject` and ends with `way_out`.

    Raises:
        ConfigError: the file system lacks something; the message says what, and the system's
            reason.
    """
    try:
        place = Path(tempfile.mkdtemp(prefix=PROBE, dir=folder))
    except OSError:
        return
    attempted = ""
    try:
        for action in _operations_of_a_run(place):
            attempted = action  # it is done when the loop asks for the next one
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"{subject}: this file system cannot {attempted} ({reason}); {way_out}"
        ) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _operations_of_a_run(place: Path) -> Iterator[str]:
    """Do in the folder `place` what a run does to files. Each operation is named before it is
    done."""
    content, twice = b"firstlight", b"firstlightfirstlight"
    file, unfinished, finished = (
        place / "file",
        place / ".step_00000001.tmp",
        place / "step_00000001",
    )
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
    if content != expected:
        raise OSError(errno.EIO, "it does not hold what was written")
