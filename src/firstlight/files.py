"""Writing files and folders safely: a new file appears complete or not at all, and no write follows a link.

Run folders, sweeps and caches may come from somebody else. If firstlight followed a link in one of them, that person
could choose which of the user's files is overwritten.
"""

import errno
import functools
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from firstlight.errors import ConfigError, shorten
from firstlight.output import note

NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS, errno.EISDIR, errno.EACCES, errno.EPERM}
"""Errors from file systems that cannot fsync a folder (CIFS, some FUSE ones). A rename is the safest they offer."""
NO_MODES = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EROFS}
"""Errors from chmod on file systems without POSIX permissions (exFAT, CIFS, WSL's /mnt/c)."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors from flock on file systems without locks (NFS without its lock service, Lustre, some FUSE ones)."""
NO_MAPS = {errno.ENODEV, errno.ENOSYS, errno.ENOTSUP}
"""Errors from mmap on file systems that cannot map files into memory (some FUSE ones)."""
LONGEST_NAME = 255
"""Bytes in the longest name of a file or folder on the usual file systems."""
PROBE = ".firstlight_probe_"
"""Prefix of the temporary folder in which `check_file_system` tests a file system."""
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def inside(folder: Path, name: object) -> Path:
    """The path of `name` in `folder`, where `name` was read from a file and is not trusted.

    Raises:
        ConfigError: `name` is not a plain name (it is `..`, `a/b` or an absolute path), or the path is a link.
    """
    if not _is_plain_name(name):
        raise ConfigError(f"{folder}: {shorten(repr(name))} is not the name of something in this folder")
    path = folder / str(name)
    if path.is_symlink():
        raise ConfigError(f"{path}: a link, where firstlight only makes files and folders; remove it")
    return path


def _is_plain_name(name: object) -> bool:
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        return False
    try:
        return len(name.encode()) <= LONGEST_NAME
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def check_links(folder: Path, unwritten: str = "") -> None:
    """Refuse to write into a folder that contains, at any depth, a link to something outside it.

    Links whose path matches the pattern `unwritten` (see `PurePath.match`) are allowed: they are never written to.

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
            except (OSError, RuntimeError):  # to itself
                leads_out = True
            if leads_out:
                shown = folder / path.relative_to(root)
                raise ConfigError(f"{shown}: a link that leads out of {folder}; remove it, or copy what it links to")


def open_new(file: Path, mode: str = "w", **options: Any) -> IO[Any]:
    """Create `file` and open it for writing. An existing file or link of that name is removed, not written to.

    Raises:
        OSError: the file cannot be created.
    """
    file.unlink(missing_ok=True)

    def exclusive(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_EXCL | _NO_FOLLOW, 0o666)

    return open(file, mode, opener=exclusive, **_options(mode, options))


def open_to_append(file: Path, mode: str = "a", **options: Any) -> IO[Any]:
    """Open `file` for appending; create it if it does not exist. Symbolic links are not followed.

    A file with several names (hard links) is replaced by a copy first, so that the other names keep their content.

    Raises:
        OSError: it is a symbolic link, or cannot be opened.
    """

    def unfollowed(path: str, flags: int) -> int:
        return os.open(path, flags | _NO_FOLLOW, 0o666)

    separate(file)
    return open(file, mode, opener=unfollowed, **_options(mode, options))


def separate(file: Path) -> None:
    """Replace a file that has several names (hard links) by a copy, so that it can be written in place.

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

    The content then survives the death of this process, but not a power cut: fsync would take longer than a small step.

    Raises:
        OSError: it cannot be written, or the file is a symbolic link.
    """
    with open_to_append(file, "ab", buffering=0) as stream:
        end, left = stream.tell(), memoryview(content)
        try:
            while left:
                left = left[stream.write(left) :]
        except OSError:
            with suppress(OSError):
                stream.truncate(end)
            raise


@contextmanager
def replacing(
    file: Path, mode: str = "w", *, tag: str = "", through: Path | None = None, **options: Any
) -> Iterator[IO[Any]]:
    """Write `file` again. It keeps its old content until the block ends; then it holds all of the new, on disk.

    Writers that may run at the same time each need their own `tag`. The new content is first written to a temporary
    file; `through` is its path, where it must not be derived from the name of `file`.

    Raises:
        OSError: the file cannot be written; it keeps its old content.
    """
    temporary = through or temporary_of(file, tag)
    try:
        with open_new(temporary, mode, **options) as stream:
            yield stream
            sync(stream)
        temporary.replace(file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its contents, as far as possible. Links are not followed."""
    with suppress(OSError):
        path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)


def replace_text(file: Path, text: str) -> None:
    """Write `text`, in UTF-8, as the content of `file`; see `replacing`."""
    with replacing(file) as stream:
        stream.write(text)


@contextmanager
def replacing_by_path(file: Path) -> Iterator[Path]:
    """Like `replacing`, for libraries that open the file themselves: yields the path of an empty temporary file.

    Raises:
        OSError: the file cannot be written; it keeps its old content.
    """
    temporary = temporary_of(file)
    try:
        open_new(temporary, "wb").close()
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_of(target: Path, tag: str = "") -> Path:
    """The hidden path, in the same folder, at which a file or folder is written before it is renamed to `target`."""
    return target.with_name(f".{target.name}{tag and '.'}{tag}.tmp")


def sync(stream: IO[Any]) -> None:
    """Flush `stream` to disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the entries of `folder` to disk, if the file system can. Otherwise a power cut may undo a rename.

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


def give_usual_mode(file: Path) -> None:
    """Give `file` the permissions that the user's umask allows. File systems without permissions are left alone.

    Raises:
        OSError: the disk fails.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    try:
        file.chmod(0o666 & ~mask)
    except OSError as error:
        if error.errno not in NO_MODES:
            raise


def can_be_mapped(file: Path) -> bool:
    """Whether the file system of `file` can map files into memory; True for an empty file, which cannot tell."""
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

    Some network file systems have no locks. There a note says so and the block runs without one: a lock that is
    merely a file would remain after its process was killed, and the run could never be resumed.

    Raises:
        filelock.Timeout: another process still holds the lock after `timeout` seconds.
        OSError: the lock file cannot be created.
    """
    lock = FileLock(file, timeout=timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:  # an OSError, too
        raise
    except OSError as error:
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
        f"{shorten(str(folder))}: this file system cannot lock files; make sure that only one process at a time "
        "writes there"
    )


def existing_place(wanted: Path) -> Path:
    """An existing folder on the file system where `wanted` is, or will be, created.

    It is a parent of `wanted` if possible: a folder that is about to become a run folder must stay empty.

    Raises:
        OSError: `wanted` is not a possible name for a folder.
    """
    if wanted.is_dir() and (wanted.is_mount() or not os.access(wanted.absolute().parent, os.W_OK)):
        return wanted
    return next(folder for folder in wanted.absolute().parents if folder.is_dir())


def check_file_system(folder: Path, subject: str, way_out: str) -> None:
    """Test in `folder` everything that a run needs from the file system, and clean up.

    A folder that is not writable passes: the code that writes there reports that. The error message begins with
    `subject` and ends with `way_out`.

    Raises:
        ConfigError: the file system lacks something; the message says what, and the system's reason.
    """
    try:
        place = Path(tempfile.mkdtemp(prefix=PROBE, dir=folder))
    except OSError:
        return
    try:
        for action, attempt in _ATTEMPTS.items():
            try:
                attempt(place)
            except OSError as error:
                reason = error.strerror or str(error)
                raise ConfigError(f"{subject}: this file system cannot {action} ({reason}); {way_out}") from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _make_folder(place: Path) -> None:
    (place / ".step_00000001.tmp").mkdir()


def _write_file(place: Path) -> None:
    with open_new(place / "file", "wb") as stream:
        stream.write(_PROBE)


def _sync_file(place: Path) -> None:
    with (place / "file").open("rb") as stream:
        os.fsync(stream.fileno())


def _append_to_file(place: Path) -> None:
    with open_to_append(place / "file", "ab") as stream:
        stream.write(_PROBE)
    if (place / "file").read_bytes() != 2 * _PROBE:
        raise OSError(errno.EIO, "what was added is not there")


def _map_file(place: Path) -> None:
    with (place / "file").open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:] != 2 * _PROBE:
            raise OSError(errno.EIO, "it holds something else")


def _replace_file(place: Path) -> None:
    with replacing(place / "file", "wb") as stream:
        stream.write(_PROBE)


def _rename_folder(place: Path) -> None:
    with open_new(place / ".step_00000001.tmp" / "file", "wb") as stream:
        stream.write(_PROBE)
    (place / ".step_00000001.tmp").rename(place / "step_00000001")
    if (place / "step_00000001" / "file").read_bytes() != _PROBE:
        raise OSError(errno.EIO, "what was in it is not there")


def _remove_folder(place: Path) -> None:
    shutil.rmtree(place / "step_00000001")


_PROBE = b"firstlight"
_ATTEMPTS: dict[str, Callable[[Path], None]] = {
    "make a folder": _make_folder,
    "write a file": _write_file,
    "put a file on disk with fsync": _sync_file,
    "append to a file": _append_to_file,
    "map a file into memory": _map_file,
    "replace a file by renaming another": _replace_file,
    "rename a folder": _rename_folder,
    "remove a folder": _remove_folder,
}
"""What a run needs from a file system, tested in this order; each test builds on the earlier ones."""


def _options(mode: str, options: dict[str, Any]) -> dict[str, Any]:
    """Text is UTF-8 on every system, with its newlines unchanged."""
    return options if "b" in mode else {"encoding": "utf-8", "newline": "", **options}
