"""Helper processes: a signal to their group does not end them before the process they help, and
none outlives it.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""The signals that ask a run to stop."""
POLL = 0.5
"""Seconds between two checks whether the parent still runs, where nothing else reports its end."""
_PR_SET_PDEATHSIG = 1


@contextmanager
def signals_held() -> Iterator[None]:
    """Block SIGNALS. Processes that are started within the block never receive them.

    `scancel`, `systemctl stop`, `timeout` and Ctrl-C send their signal to every process of a group.
    The process that trains then stops in good order, and may need its helpers until it has.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        # this unblocks some of the signals, so they are blocked again
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_signals_through() -> None:
    """Unblock SIGNALS in a process that was started with `signals_held`, and handles them
    itself."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def end_with(parent: int, signum: int = signal.SIGKILL) -> None:
    """Send this process `signum` as soon as the process that started it, with the process id
    `parent`, has ended.

    A thread waits for that, on every system. Linux itself sends SIGKILL sooner, whatever the
    threads are doing.
    """
    if sys.platform == "linux" and signum == signal.SIGKILL:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    # The thread stays even so: with a fork server, Linux waits for the end of the server, not of
    # the process it serves.
    threading.Thread(target=_wait_and_end, args=(parent, signum), daemon=True).start()


def _wait_and_end(parent: int, signum: int) -> None:
    started_by = parent_process()
    if (
        started_by is not None
    ):  # by multiprocessing, perhaps through a server, whose id os.getppid() would be then
        wait([started_by.sentinel])
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signum)


def started(pid: int | None = None) -> str:
    """When the process `pid` (default: this one) was started, in ticks of the system's clock; "" if
    it does not exist.

    Without /proc, as on macOS, "running" if it exists.
    """
    pid = os.getpid() if pid is None else pid
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
        try:
            os.kill(pid, 0)
        except OSError:
            return ""
        return "running"
    # The second field is the name of the command in brackets, which may contain spaces and
    # brackets.
    state, *rest = text.rpartition(")")[2].split()
    if state in "ZX":  # zombie, dead
        return ""
    return rest[18]


def name_of(signum: int) -> str:
    """The name of a signal: SIGKILL for 9."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def ended_by(signum: int) -> str:
    """What to say of a process that a signal has ended."""
    if signum == signal.SIGKILL:
        return "ended by SIGKILL, perhaps because memory ran out"
    return f"ended by {name_of(signum)}"
