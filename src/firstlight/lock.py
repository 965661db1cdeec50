"""One process at a time: whoever comes second is told who was first.

The system frees the lock of a process that dies, however it dies. The processes that it forked do not hold it.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import Timeout

from firstlight.errors import shorten
from firstlight.files import locked, open_new
from firstlight.process_group import started

WRITER = ".writer"
"""File beside a lock: the process that holds it."""
PATIENCE = 2.0
"""Seconds that the holder of a lock has to write down who it is."""


class HeldError(Exception):
    """Another process holds the lock; the message says which one, as in "process 7 on host"."""


@contextmanager
def only_process(lock: Path) -> Iterator[None]:
    """Hold the file `lock`, and keep beside it who holds it.

    Raises:
        HeldError: another process holds it.
        OSError: nothing can be written there.
    """
    writer = lock.with_name(WRITER)
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock))
        except Timeout:
            raise HeldError(_holder(writer)) from None
        try:
            with open_new(writer) as stream:
                json.dump({"host": socket.gethostname(), "pid": os.getpid(), "started": started()}, stream)
            yield
        finally:
            with suppress(OSError):  # of a run folder that was moved or removed
                writer.unlink(missing_ok=True)


def files_of(lock: Path) -> set[str]:
    """The names of the files that holding `lock` leaves, or may leave when the process is killed."""
    writer = lock.with_name(WRITER)
    return {lock.name, writer.name}


def _holder(writer: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while (told := _told(writer)) is None and time.monotonic() < deadline:  # it has only just taken the lock
        time.sleep(0.05)
    return told or "another process"


def _told(writer: Path) -> str | None:
    """What the file says of a process that may still live; None if it says nothing, or is of one that has died."""
    try:
        if not writer.is_file() or writer.is_symlink():
            return None
        with writer.open("rb") as stream:
            told = json.loads(stream.read(1000))
        host, pid, begun = str(told["host"]), int(told["pid"]), str(told["started"])
    except (OSError, ValueError, TypeError, LookupError):
        return None
    is_here = host == socket.gethostname()
    return None if is_here and started(pid) != begun else f"process {pid} on {shorten(host)}"
