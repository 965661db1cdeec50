"""A training as a process of its own: watched, and killed on demand."""

import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from firstlight.files import PROBE
from firstlight.processes import given_environment
from firstlight.runs.run_folder import EVENT_FILES
from firstlight.training.loggers.wandb import FOLDER as WANDB
from firstlight.training.process import start_process

KINDS = ("folder", "row", "sample", "checkpoint", "end")
"""What a changed file of a run folder is about; see `change_kind`."""


@dataclass(frozen=True)
class KillPoint:
    """`seconds` after the start, or after change number `count` of a file of this `kind`."""

    seconds: float
    kind: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Life:
    """What happened to a process."""

    exit_code: int | None
    """None if it was killed."""
    seconds: float
    changes: list[tuple[float, str]]
    """Of files in the run folder: seconds since the process began, and the kind."""
    log: Path

    @property
    def output(self) -> str:
        """What it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""

    @property
    def first_row(self) -> float | None:
        """Seconds until it wrote a row; None if it did not."""
        return next((seconds for seconds, kind in self.changes if kind == "row"), None)


def run_process(
    target: Callable[..., int],
    *arguments: Any,
    folder: Path,
    log: Path,
    kill: KillPoint | None = None,
    limit: float = math.inf,
    new_interpreter: bool = False,
) -> Life:
    """Run `target(*arguments)` in a process that writes the run folder `folder`.

    `target` returns the exit code.

    It is killed (SIGKILL, as kill -9) at `kill`, or after `limit` seconds. See `start_process` for
    `new_interpreter`.
    """
    process = start_process(
        target,
        *arguments,
        log=log,
        environment=given_environment(),
        new_interpreter=new_interpreter,
    )
    began = time.perf_counter()
    seen = _files(folder)
    changes: list[tuple[float, str]] = []
    due = limit
    if kill is not None and kill.kind is None:
        due = min(kill.seconds, limit)
    pause = 0.005 if kill is None else 0.0005  # watching slows down what is watched
    killed = False
    try:
        # Until the process ends: look for changes, and kill it when the time has come.
        while not wait([process.sentinel], timeout=pause):
            now = time.perf_counter() - began
            files = _files(folder)
            for name, state in files.items():
                if seen.get(name) != state:
                    changes.append((now, change_kind(name)))
            seen = files
            if kill is not None and kill.kind is not None:
                counts = Counter(kind for _, kind in changes)
                if counts[kill.kind] >= kill.count:
                    due = min(now + kill.seconds, limit)
                    kill = None  # the time is known now
            if now >= due:
                killed = True
                break
    finally:
        # Also after an error of ours: no training is left behind.
        process.kill()
        process.join()
    # It may have ended by itself just before the kill.
    exit_code = None if killed and process.exitcode == -9 else process.exitcode
    return Life(exit_code, time.perf_counter() - began, changes, log)


def change_kind(name: str) -> str:
    """One of `KINDS`, for the path of a file in a run folder."""
    top = name.split("/")[0]
    if top.startswith("metrics."):
        return "row"
    if top == "samples.txt":
        return "sample"
    if top == "checkpoints":
        return "checkpoint"
    if top in (".hydra", ".lock", "environment.json") or top.startswith(PROBE):
        return "folder"
    return "end"


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file, without those that TensorBoard and wandb write at any time."""
    found: dict[str, tuple[int, int]] = {}
    for base, folders, names in os.walk(folder):
        if WANDB in folders:
            folders.remove(WANDB)
        for name in names:
            if fnmatch(name, EVENT_FILES):
                continue
            path = f"{base}/{name}"
            try:
                state = os.stat(path)  # noqa: PTH116 (it is called every half millisecond)
            except OSError:  # removed meanwhile
                continue
            found[os.path.relpath(path, folder)] = (state.st_size, state.st_mtime_ns)
    return found
