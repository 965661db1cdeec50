"""Writing files and folders: what appears is whole, nothing is written through a link, and names stay inside.

Run folders, sweeps and caches may have been made by somebody else. A link in them, below a name that firstlight is
about to write, would let them choose which of the user's files is written.
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
"""What file systems answer that cannot fsync a folder (CIFS, some of FUSE): then a rename is as safe as it gets."""
NO_MODES = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EROFS}
"""What file systems without permissions, or with somebody else's, answer to chmod (exFAT, CIFS, WSL's /mnt/c)."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems that cannot lock answer to flock (NFS without its lock service, Lustre, some of FUSE)."""
NO_MAPS = {errno.ENODEV, errno.ENOSYS, errno.ENOTSUP}
"""What file systems that cannot map files answer to mmap (some of FUSE)."""
LONGEST_NAME = 255
"""Bytes of the name of a file or folder, on the usual file systems."""
PROBE = ".firstlight_probe_"
"""How the name of a folder begins in which a file system is tried; see `check_file_system`."""
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def inside(folder: Path, name: object) -> Path:
    """The path of `name` in `folder`, for a `name` that was read from a file.

    Raises:
        ConfigError: it is not one plain name (`..`, `a/b`, an absolute path), or there is a link of that name.
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
    """Refuse to write into a folder with links that lead out of it, at any depth.

    `unwritten` is a pattern, as of `PurePath.match`, of what is never written to again.

    Raises:
        ConfigError: there is one.
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

    separate(file)
    return open(file, mode, opener=unfollowed, **_options(mode, options))


def separate(file: Path) -> None:
    """Make a file of several names (a hard link) one of its own, before it is written in place.

    Raises:
        OSError: it cannot be copied.
    """
    with suppress(FileNotFoundError):
        status = file.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            with replacing(file, "wb") as copy, file.open("rb") as original:
                shutil.copyfileobj(original, copy)


def append(file: Path, content: bytes) -> None:
    """Add `content` to the end of `file`; nothing of it is left if that fails.

    It is the system's then, and outlives this process, but is not on disk yet: fsync takes longer than a small step.

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
    """Write `file` anew: it holds its old content until the block ends, then all of the new one, on disk.

    With several writers at a time each needs a `tag` of its own. `through` is the file that is written first, if it
    must not be called after `file`.

    Raises:
        OSError: it cannot be written; the old content is left.
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
    """Remove a file, a link, or a folder with all that is in it, as far as that can be done; no link is followed."""
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
    """As `replacing`, for libraries that open a file themselves: they are given the path of one that is there, empty.

    Raises:
        OSError: it cannot be written; the old content is left.
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


def give_usual_mode(file: Path) -> None:
    """Let others read `file` as far as the user's umask allows it. Where there are no modes it stays as it is.

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
    """Does the file system of `file` map files into memory? True also where the question cannot be asked."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 1, access=mmap.ACCESS_READ):
            return True
    except OSError as error:
        return error.errno not in NO_MAPS
    except ValueError:  # an empty file
        return True


@contextmanager
def locked(file: Path, *, timeout: float = 0) -> Iterator[None]:
    """Hold the lock `file`, which is made if it is not there; the system frees it when the process dies.

    Some network file systems cannot lock. There a note says so, and the block runs without: a lock that is only a
    file would outlive a process that is killed, and its run could never be resumed.

    Raises:
        filelock.Timeout: another process has held it for `timeout` seconds.
        OSError: it cannot be made.
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
        f"{shorten(str(folder))}: this file system cannot lock files, so make sure that one process at a time "
        "writes there"
    )


def existing_place(wanted: Path) -> Path:
    """A folder that exists, on the file system where `wanted` is or is going to be made.

    It is above `wanted` if possible: a folder that is about to become a run must have nothing else in it.

    Raises:
        OSError: `wanted` cannot be the name of a folder.
    """
    if wanted.is_dir() and (wanted.is_mount() or not os.access(wanted.absolute().parent, os.W_OK)):
        return wanted
    return next(folder for folder in wanted.absolute().parents if folder.is_dir())


def check_file_system(folder: Path, subject: str, way_out: str) -> None:
    """Try in `folder` all that a run needs of its file system, and leave nothing behind.

    A folder in which nothing can be made is not this function's to refuse: whoever writes into it says why. `subject`
    and `way_out` begin and end the message.

    Raises:
        ConfigError: the file system cannot do something; which, and why.
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
"""What a run needs of a file system, tried in this order; each attempt builds on the earlier ones."""


def _options(mode: str, options: dict[str, Any]) -> dict[str, Any]:
    """Text is UTF-8, and written as it is, on every system."""
    return options if "b" in mode else {"encoding": "utf-8", "newline": "", **options}
