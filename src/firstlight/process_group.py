"""Helper processes: no signal to their group ends them too early, and none outlives its parent."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""The signals that ask a run to stop."""
POLL = 0.5
"""Seconds between two checks whether the parent still runs, where nothing else reports its end."""
_PR_SET_PDEATHSIG = 1
"""The option of prctl (linux/prctl.h): a signal for this process when its parent has ended."""


@contextmanager
def signals_held() -> Iterator[None]:
    """Block SIGNALS, so that processes that are started within the block never receive them.

    `scancel`, `systemctl stop`, `timeout` and Ctrl-C send their signal to every process of a group.
    The process that trains then stops in good order, and may need its helpers until it has.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        # The tracker of multiprocessing is a helper as well. Starting it unblocks some of the
        # signals, so they are blocked again.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def main_not_run_again() -> Iterator[None]:
    """Let processes that are started within the block leave the program's main module alone.

    multiprocessing imports it in each of them, which runs a script that has no
    `if __name__ == "__main__"` from its beginning. Nothing of ours is defined there.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def let_signals_through() -> None:
    """Unblock SIGNALS, in a process that was started with `signals_held` but handles them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def end_with(parent: int, signum: int = signal.SIGKILL) -> None:
    """Send this process `signum` as soon as the process `parent` that started it has ended."""
    # Linux sends SIGKILL itself, whatever the threads of this process are doing.
    if sys.platform == "linux" and signum == signal.SIGKILL:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    # The thread is needed even so: with a fork server, Linux waits for the end of the server, not
    # of the process that it serves.
    threading.Thread(target=_wait_and_end, args=(parent, signum), daemon=True).start()


def _wait_and_end(parent: int, signum: int) -> None:
    # multiprocessing knows the process that asked for this one, also where a fork server started
    # it: os.getppid() would be the server.
    started_by = parent_process()
    if started_by is not None:
        wait([started_by.sentinel])
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signum)


def started(pid: int | None = None) -> str:
    """When the process `pid` (default: this one) was started; "" if it does not exist.

    In ticks of the system's clock since it booted. Without /proc, as on macOS: "running".
    """
    pid = os.getpid() if pid is None else pid
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
        try:
            os.kill(pid, 0)  # sends nothing, but fails if there is no such process
        except OSError:
            return ""
        return "running"
    # proc(5): the second field is the name of the command in brackets, which may contain spaces and
    # brackets.
    state, *rest = text.rpartition(")")[2].split()
    if state in "ZX":  # zombie, dead
        return ""
    return rest[18]  # field 22, starttime


def commands_above(most: int = 8) -> Iterator[str]:
    """The command lines of the processes above this one: its parent, that one's parent, ...

    They end where the system does not tell.
    """
    pid = os.getppid()
    for _ in range(most):
        if pid <= 1:
            return
        shown = _ppid_and_command(pid)
        if shown is None:
            return
        pid, command = shown
        yield command


def _ppid_and_command(pid: int) -> tuple[int, str] | None:
    """The parent of the process `pid` and its command line; None if they are not known."""
    try:
        if Path("/proc/self/stat").exists():
            stat = Path(f"/proc/{pid}/stat").read_text()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            return int(stat.rpartition(")")[2].split()[1]), words.decode(errors="replace")
        command = ["ps", "-o", "ppid=,command=", "-p", str(pid)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        parent, _, words_shown = shown.stdout.strip().partition(" ")
        return int(parent), words_shown
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def name_of(signum: int) -> str:
    """The name of a signal: SIGKILL for 9."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def ended_by(signum: int) -> str:
    """Say that a signal has ended a process, and the likely cause."""
    # Out of memory, Linux ends a process with SIGKILL and tells it nothing.
    if signum == signal.SIGKILL:
        return "ended by SIGKILL, perhaps because memory ran out"
    return f"ended by {name_of(signum)}"
