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
from firstlight.training.loggers.tensorboard import EVENT_FILES
from firstlight.training.loggers.wandb import FOLDER as WANDB
from firstlight.training.process import start_process

KINDS = ("folder", "row", "sample", "checkpoint", "end")
"""What a changed file of a run folder is about; see `kind_of`."""


@dataclass(frozen=True)
class KillPoint:
    """`seconds` after the process began; or after change number `count` of a file of `kind`."""

    seconds: float
    kind: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Life:
    """How a process went: `exit_code` is None if it was killed; `changes` are seconds and kinds."""

    exit_code: int | None
    seconds: float
    changes: list[tuple[float, str]]
    log: Path

    @property
    def output(self) -> str:
        """What it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""


def run(
    target: Callable[..., int],
    *arguments: Any,
    folder: Path,
    log: Path,
    kill: KillPoint | None = None,
    limit: float = math.inf,
    new_interpreter: bool = False,
) -> Life:
    """`target(*arguments)`, whose result is the exit code, in a process that writes the run `folder`.

    It is killed (SIGKILL, as kill -9) at `kill`, or after `limit` seconds. With `new_interpreter` nothing is shared:
    what hashing decides, for one, may be another thing there.
    """
    environment = given_environment()
    process = start_process(target, *arguments, log=log, environment=environment, new_interpreter=new_interpreter)
    began, seen, changes = time.perf_counter(), _files(folder), []
    due = kill.seconds if kill is not None and kill.kind is None else math.inf
    pause = 0.0005 if kill is not None else 0.005  # watching takes time from what is watched
    killed = False
    try:
        while not wait([process.sentinel], timeout=pause):
            now, files = time.perf_counter() - began, _files(folder)
            changes += [(now, kind_of(name)) for name, state in files.items() if seen.get(name) != state]
            seen = files
            if kill is not None and kill.kind is not None and due == math.inf:
                count = Counter(kind for _, kind in changes)[kill.kind]
                due = now + kill.seconds if count >= kill.count else due
            if now >= min(due, limit):
                killed = True
                break
    finally:
        process.kill()
        process.join()
    exit_code = None if killed and process.exitcode == -9 else process.exitcode
    return Life(exit_code, time.perf_counter() - began, changes, log)


def kind_of(name: str) -> str:
    """One of `KINDS`, for the path of a file in a run folder."""
    top = name.split("/")[0]
    if top.startswith("metrics."):
        return "row"
    if top == "samples.txt":
        return "sample"
    if top == "checkpoints":
        return "checkpoint"
    is_of_start = top in (".hydra", ".lock", "environment.json") or top.startswith(PROBE)
    return "folder" if is_of_start else "end"


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file, but for TensorBoard's and wandb's, which are written whenever they like."""
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
            except OSError:
                continue  # gone since
            found[os.path.relpath(path, folder)] = (state.st_size, state.st_mtime_ns)
    return found
