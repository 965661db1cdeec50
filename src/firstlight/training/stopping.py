"""Signals that stop a run: it finishes and saves its step, and exits with 128 + the signal."""

import os
import re
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from firstlight.errors import RunError, one_line
from firstlight.process_group import SIGNALS
from firstlight.runs.environment import slurm_job

REQUEUE_SIGNAL = getattr(signal, "SIGUSR1", 0)
"""What `#SBATCH --signal=USR1@90` sends before the time of a job is over."""
INTERACTIVE = ("bash", "interactive")
"""Names that salloc and `srun --pty bash` give to a job. Requeued, it would start nothing."""


class Stopped(SystemExit):
    """A run or a sweep has stopped between two steps, as a signal asked it to.

    `folder` is where it is, once that is known.
    """

    def __init__(self, signum: int, folder: Path | None = None) -> None:
        super().__init__(128 + signum)
        self.signum, self.folder = signum, folder


class StopSignals:
    """Keeps a signal in `received` within the block; a second Ctrl-C interrupts at once.

    A signal that was ignored before (`nohup`, a job in the background) still is.
    """

    def __init__(self, *, after: str = "this step, when it is saved") -> None:
        self.after = after
        self.received, self.pid = 0, os.getpid()
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other can set handlers
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self.before[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        self.before = {}

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if os.getpid() != self.pid:  # a process that was forked, and inherited this
            return
        # The first signal decides the exit code.
        self.received = self.received or signum
        again = "; Ctrl-C again leaves at once" if signum == signal.SIGINT else ""
        text = f"\nnote: {signal.Signals(signum).name}: stopping after {self.after}{again}\n"
        with suppress(OSError):  # the terminal has hung up
            # Not print, which may be what the signal has interrupted.
            os.write(2, text.encode())


def in_slurm_job() -> bool:
    """Is this a job of SLURM's, and not an interactive shell in one?"""
    return slurm_job() is not None and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def requeue_slurm_job() -> None:
    """Requeue this SLURM job, as Lightning does on the signal before the end of its time."""
    job = slurm_job() or ""
    # From the environment, and about to be an argument of a command.
    if not re.fullmatch(r"[0-9_-]+", job):
        raise RunError(f"SLURM_JOB_ID ({job}) is not a number: the job cannot be requeued")
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise RunError(f"the job cannot be requeued: {one_line(error)}") from error
