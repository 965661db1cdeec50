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

from firstlight.benchmark.stopwatch import Parts, Stopwatch
from firstlight.config import build
from firstlight.errors import RunError, message_lines, one_line
from firstlight.training.fit import fit
from firstlight.training.run_config import RunConfig

OUT_OF_MEMORY = "out of memory"


class FailedError(RunError):
    """A run that could not be measured; the message is the reason, in a line."""


@dataclass(frozen=True)
class Measured:
    """A run that was timed, and its validation loss at the end."""

    watch: Stopwatch
    loss: float


def measure(config: RunConfig, warmup_steps: int, folder: Path, *, in_parts: bool = False) -> Measured:
    """Train in `folder`, which is new and does not stay; `in_parts` times the parts of a step, which costs some time.

    Raises:
        ConfigError: it was refused.
        FailedError: there is not enough memory, or its numbers became nan or inf.
    """
    parts = Parts() if in_parts else None
    watch = Stopwatch(warmup_steps, parts)
    config = config.changed({"output_dir": str(folder)})
    arguments = build(config.plain) | {"callbacks": {"stopwatch": watch}, "logger": {}}
    if parts is not None:
        arguments["trainer"] = functools.partial(arguments["trainer"], profiler=parts)
    if config.plain["compile"]:
        torch.compiler.reset()  # or the models of many runs count as one that is compiled again and again
    fitted, reason = None, ""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            fitted = fit(config.stored, [], **arguments)
    except RunError as error:
        reason = message_lines(error)[0]  # the others tell how to go on with a run that is removed
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = OUT_OF_MEMORY
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        gc.collect()  # a model and its trainer refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if fitted is None:  # raised here, where the first error is gone: its traceback holds on to what was allocated
        raise FailedError(reason)
    return Measured(watch, fitted.metrics["val/loss"])


def is_out_of_memory(error: BaseException) -> bool:
    """Does torch, or Python, say with `error` that there was no memory left?"""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in one_line(error) for words in ("can't allocate memory", "ALLOC_FAILED"))


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
