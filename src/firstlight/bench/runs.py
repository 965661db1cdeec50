"""One measured run: `fit` itself, quiet, in a folder that is removed afterwards."""

import functools
import gc
import io
import resource
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from firstlight.bench.stopwatch import Parts, Stopwatch, Timing
from firstlight.config import build
from firstlight.errors import RunError, message_lines, one_line, shorten
from firstlight.runs.run_config import RunConfig
from firstlight.training.experiment import Experiment
from firstlight.training.fit import Fitted, fit
from firstlight.training.memory.estimate import is_out_of_memory


class FailedError(RunError):
    """A run that could not be measured; the message is the reason, in one line."""


@dataclass(frozen=True)
class MeasuredRun:
    """How long a run took, and its validation loss at the end."""

    timing: Timing
    loss: float


def measure(
    config: RunConfig, warmup_steps: int, folder: Path, *, in_parts: bool = False
) -> MeasuredRun:
    """Train in `folder`, which must be new and is removed afterwards.

    `in_parts` also times the parts of a step, which slows it down a little.

    Raises:
        ConfigError: the config was refused.
        FailedError: out of memory, torch cannot compile it, or a number became nan or inf.
    """
    measured = _measured(config, warmup_steps, folder, Parts() if in_parts else None)
    gc.collect()  # what the stopwatch referred to
    return measured


def _measured(
    config: RunConfig, warmup_steps: int, folder: Path, parts: Parts | None
) -> MeasuredRun:
    watch = Stopwatch(warmup_steps, parts)

    def alone(arguments: dict[str, Any]) -> None:
        # Nothing else runs or writes: callbacks and loggers of the config would be measured as
        # well.
        arguments["callbacks"] = {"stopwatch": watch}
        arguments["logger"] = {}
        if parts is not None:
            arguments["trainer"] = functools.partial(arguments["trainer"], profiler=parts)

    fitted = run_quietly(config, folder, alone)
    return MeasuredRun(watch.timing, fitted.metrics["val/loss"])


def run_quietly(
    config: RunConfig, folder: Path, change: Callable[[dict[str, Any]], None]
) -> Fitted:
    """Train in `folder`, which must be new and is removed afterwards, without a word.

    `change` is called with the arguments of the `Experiment`, which are built.

    Raises:
        ConfigError: the config was refused.
        FailedError: out of memory, torch cannot compile it, or a number became nan or inf.
    """
    try:
        fitted = _fitted(config.changed({"output_dir": str(folder)}), change)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        gc.collect()  # model, trainer and stopwatch refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    # Raised only now: the traceback of the original error would keep the run's memory alive.
    if isinstance(fitted, str):
        raise FailedError(fitted)
    return fitted


def _fitted(config: RunConfig, change: Callable[[dict[str, Any]], None]) -> Fitted | str:
    """What the run came to, or why it failed."""
    arguments = build(config.plain)
    change(arguments)
    if config.plain["compile"]:
        torch.compiler.reset()  # else the models of many runs count as recompilations of one
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return fit(Experiment(**arguments), config.stored, [])
    except (MemoryError, RuntimeError) as error:
        reason = _reason(error)
        if not reason:
            raise
        return reason


def _reason(error: Exception) -> str:
    """Why a run ended with `error`, in one line; empty if the error is a defect of ours."""
    cause = error.__cause__
    if is_out_of_memory(error) or (isinstance(cause, Exception) and is_out_of_memory(cause)):
        return "out of memory"
    if isinstance(error, RunError):
        return message_lines(error)[0]  # its other lines tell how to resume a run that is removed
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"torch.compile: {shorten(one_line(error), 100)}"
    return ""


def reset_peak_memory() -> None:
    """Forget the peak of a GPU so far; that of the process cannot be reset."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has held, in bytes: of the GPU, or of the host with Python."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return largest
    return 1024 * largest  # Linux counts in KiB
