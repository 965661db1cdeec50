"""One measured run: `fit` itself, in a folder of its own that is removed again, and quiet."""

import functools
import gc
import io
import resource
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from firstlight.bench.stopwatch import Parts, Stopwatch, Timing
from firstlight.config import build
from firstlight.errors import RunError, message_lines, one_line, shorten
from firstlight.runs.run_config import RunConfig
from firstlight.training.experiment import Experiment
from firstlight.training.fit import fit
from firstlight.training.memory.estimate import is_out_of_memory

OUT_OF_MEMORY = "out of memory"


class FailedError(RunError):
    """A run that could not be measured; the message is the reason, in a line."""


@dataclass(frozen=True)
class Measured:
    """A run that was timed, and its validation loss at the end."""

    timing: Timing
    loss: float


def measure(config: RunConfig, warmup_steps: int, folder: Path, *, in_parts: bool = False) -> Measured:
    """Train in `folder`, which is new and does not stay; `in_parts` times the parts of a step, which costs some time.

    Raises:
        ConfigError: it was refused.
        FailedError: there is not enough memory, torch cannot compile it, or its numbers became nan or inf.
    """
    try:
        measured = _train(config.changed({"output_dir": str(folder)}), warmup_steps, Parts() if in_parts else None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        gc.collect()  # a model and its trainer, and with them the stopwatch, refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if isinstance(measured, str):  # raised here, where the first error is gone: its traceback holds the run
        raise FailedError(measured)
    return measured


def _train(config: RunConfig, warmup_steps: int, parts: Parts | None) -> Measured | str:
    """The run, measured; or why it failed."""
    watch = Stopwatch(warmup_steps, parts)
    arguments = build(config.plain) | {"callbacks": {"stopwatch": watch}, "logger": {}}
    if parts is not None:
        arguments["trainer"] = functools.partial(arguments["trainer"], profiler=parts)
    if config.plain["compile"]:
        torch.compiler.reset()  # or the models of many runs count as one that is compiled again and again
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            fitted = fit(Experiment(**arguments), config.stored, [])
    except (MemoryError, RuntimeError) as error:
        if reason := _reason(error):
            return reason
        raise
    return Measured(watch.timing, fitted.metrics["val/loss"])


def _reason(error: Exception) -> str:
    """Why a run ended with `error`, if that is no defect of ours, in a line."""
    if is_out_of_memory(error) or (isinstance(error.__cause__, Exception) and is_out_of_memory(error.__cause__)):
        return OUT_OF_MEMORY
    if isinstance(error, RunError):
        return message_lines(error)[0]  # its other lines tell how to go on with a run that is removed
    is_of_compiler = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
    return f"torch.compile: {shorten(one_line(error), 100)}" if is_of_compiler else ""


def reset_peak_memory() -> None:
    """Forget what a GPU needed before; a process cannot."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has had at most: on a GPU, of its memory; else of the computer's, all included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest
