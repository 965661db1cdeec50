"""Helper processes: a signal to their group does not end them before the process they help, and none outlives it."""

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

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)  # Windows has two of them
"""What asks a run to stop."""
POLL = 0.5
"""Seconds between two looks whether a parent lives, where nothing else tells."""
_PR_SET_PDEATHSIG = 1


@contextmanager
def signals_held() -> Iterator[None]:
    """Within the block, SIGNALS wait; processes that are started in it never get them.

    `scancel`, `systemctl stop`, `timeout` and Ctrl-C send their signal to every process of a group. The one that trains
    stops in good order, for which it may need its helpers a little longer.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # once it has started its own helper, it lets some of the signals through
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_signals_through() -> None:
    """In a process that was started with `signals_held`, and takes care of its signals itself."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def end_with(parent: int, signum: int = signal.SIGKILL) -> None:
    """Send this process `signum` as soon as the process that started it, whose number is `parent`, has ended.

    A thread waits for that, on every system. Linux itself kills sooner: at once, whatever the threads do.
    """
    if sys.platform == "linux" and signum == signal.SIGKILL:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    threading.Thread(target=_wait_and_end, args=(parent, signum), daemon=True).start()


def _wait_and_end(parent: int, signum: int) -> None:
    started_by = parent_process()
    if started_by is not None:  # by multiprocessing, perhaps through a server, which then is what os.getppid() names
        wait([started_by.sentinel])
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signum)


def started(pid: int | None = None) -> str:
    """When a process (without a number this one) was started, by the clock of the system; "" if there is none.

    Without /proc, as on macOS, "running" if there is one.
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
    state, *rest = text.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def name_of(signum: int) -> str:
    """SIGKILL for 9."""
    return signal.Signals(signum).name if signum in set(signal.Signals) else f"signal {signum}"


def ended_by(signum: int) -> str:
    """What is said of a process that a signal has ended."""
    hint = ", perhaps because memory ran out" if signum == signal.SIGKILL else ""
    return f"ended by {name_of(signum)}{hint}"
