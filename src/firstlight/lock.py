"""A lock that one process at a time holds; a second process is told which one that is.

The system releases the lock of a process that dies, however it dies. Processes that it forked do
not hold the lock.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import Timeout

from firstlight.errors import shorten
from firstlight.files import locked, open_new
from firstlight.process_group import started

WRITER = ".writer"
"""File beside a lock that names the process which holds it."""
PATIENCE = 2.0
"""Seconds to wait until the holder of a lock has written that file."""


class HeldError(Exception):
    """Another process holds the lock; the message names it: "process 7 on host"."""


@contextmanager
def only_process(lock: Path) -> Iterator[None]:
    """Hold the file `lock`, and name this process as its holder in a file beside it.

    Raises:
        HeldError: another process holds it.
        OSError: nothing can be written there.
    """
    writer = lock.with_name(WRITER)
    # An ExitStack, so that only a Timeout of this lock is caught, not one that the block raises.
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock))
        except Timeout:
            raise HeldError(_holder(writer)) from None
        try:
            with open_new(writer) as stream:
                json.dump(identity(), stream)
            yield
        finally:
            with suppress(OSError):  # the folder was moved or removed
                writer.unlink(missing_ok=True)


def identity() -> dict[str, Any]:
    """What tells this process from all others, as it is written beside a lock."""
    # With its time of start: the process id may be given to another process later.
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started()}


def is_held_by(lock: Path, process: dict[str, Any]) -> bool:
    """Whether the file beside `lock` names `process`, an `identity`."""
    return _record(lock.with_name(WRITER)) == process


def files_of(lock: Path) -> set[str]:
    """The names of the files that a holder of `lock` leaves, or may leave if it is killed."""
    return {lock.name, WRITER}


def _holder(writer: Path) -> str:
    """The process that `writer` names; "another process" if it names none for PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while True:
        holder = _named(writer)
        if holder is not None:
            return holder
        if time.monotonic() > deadline:
            return "another process"
        time.sleep(0.05)  # the process has only just taken the lock


def _named(writer: Path) -> str | None:
    """The process that the file `writer` names; None if it names none, or one that has died."""
    record = _record(writer)
    try:
        host, pid, begun = str(record["host"]), int(record["pid"]), str(record["started"])
    except (ValueError, TypeError, LookupError):
        return None
    # Whether it still runs can only be asked on its own machine.
    if host == socket.gethostname() and started(pid) != begun:
        return None
    return f"process {pid} on {shorten(host)}"


def _record(writer: Path) -> Any:
    """What is in the file `writer`; None if that is not readable."""
    try:
        if not writer.is_file() or writer.is_symlink():
            return None
        with writer.open("rb") as stream:
            return json.loads(stream.read(1000))  # it may be somebody else's, and of any size
    except (OSError, ValueError):
        return None
