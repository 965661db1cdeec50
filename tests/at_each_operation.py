"""Ends a piece of work at its first, second, third, ... operation on files: as kill -9 or a full
disk would.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.truncate", "sqlite3.connect")
"""Python's audit events of what changes files; one of them is the k-th operation."""
DONE, FAILED, KILLED = 0, 1, 9


def ends_of(work: Callable[[], object], below: str, how: str, stride: int = 1) -> Iterator[int]:
    """Do `work` in a forked process that is killed, or finds the disk full, at its k-th operation.

    k is 1, 1 + `stride`, 1 + 2 `stride`, ... Counted are operations on paths with `below` in them.

    Yields how the process ended (FAILED if the full disk was an error), each time for the caller to
    look at what it has left; the last time it is DONE: nothing was disturbed.
    """
    k, code = 1, KILLED
    while code != DONE:
        code = _in_child(work, below, k, how)
        k += stride
        yield code


def _in_child(work: Callable[[], object], below: str, k: int, how: str) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen, code = 0, FAILED

    def end_at(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in OPERATIONS or below not in str(arguments):
            return
        if event == "open" and not int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):  # type: ignore[call-overload]
            return
        seen += 1
        if seen == k and how == "kill":
            os._exit(KILLED)
        if seen >= k and how == "full disk" and event in ("open", "os.mkdir", "sqlite3.connect"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sys.addaudithook(end_at)
    try:
        work()
        code = DONE if how == "kill" or seen < k else FAILED
    finally:
        os._exit(code)
