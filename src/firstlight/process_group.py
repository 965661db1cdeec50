"""Helper processes: a signal to their group does not end them before the process they help, and none outlives it."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)  # Windows has two of them
"""What asks a run to stop."""
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


def end_with(parent: int) -> None:
    """End this process (SIGKILL) as soon as its parent, whose number is `parent`, has ended; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


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
