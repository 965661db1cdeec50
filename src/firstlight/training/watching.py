"""What only watches a run cannot end it: errors of watchers and loggers are reported."""

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers.logger import Logger

from firstlight.errors import one_line, without_hidden
from firstlight.files import open_to_append
from firstlight.output import note
from firstlight.training.callbacks.base import Callback, Watcher

ERRORS = "errors.log"
"""File of the run folder: the traceback of the first error of each."""
HOOKS = [
    name for name in dir(Callback) if name.startswith("on_") and not name.endswith("_checkpoint")
]
STATE = ("state_dict", "load_state_dict", "on_save_checkpoint", "on_load_checkpoint")
STAGE = ("setup", "teardown")
LOGGER_METHODS = ("log_metrics", "log_hyperparams", "save", "finalize", "after_save_checkpoint")


class Failures:
    """The errors of watchers and loggers.

    The first of each is reported, with a traceback in `errors.log`; the others are counted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()

    def attempt(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`function(*args, **kwargs)`, or None if it fails."""
        try:
            return function(*args, **kwargs)
        except Exception as error:
            # A logger that fails, fails at every row: one report, and a count at the end.
            self.counts[name] += 1
            if self.counts[name] == 1:
                self._tell(name, error)

    @contextmanager
    def of_threads(self) -> Iterator[None]:
        """Within the block, also report what ends a thread, such as TensorBoard's writer."""

        def tell(ended: threading.ExceptHookArgs) -> None:
            if isinstance(ended.exc_value, Exception):
                self.counts["a thread"] += 1
                self._tell(f"a thread of {type(ended.thread).__module__}", ended.exc_value)

        before, threading.excepthook = threading.excepthook, tell
        try:
            yield
        finally:
            threading.excepthook = before

    def _tell(self, name: str, error: Exception) -> None:
        what = f"{type(error).__name__}: {one_line(error)}"
        note(f"{name} failed, training continues ({what}; see {self.folder / ERRORS})")
        # The disk may be full, which is perhaps the very error.
        with suppress(OSError), open_to_append(self.folder / ERRORS) as file:
            file.write(without_hidden(f"{name}\n{''.join(traceback.format_exception(error))}\n"))

    def summary(self) -> list[str]:
        """A line for each that failed."""
        lines = []
        for name, n in self.counts.items():
            times = "once" if n == 1 else f"{n} times"
            lines.append(f"{name} failed {times} (training continued); see {self.folder / ERRORS}")
        return lines


def watch_callback(
    callback: pl.Callback, failures: Failures, defer: Callable[[Exception], None]
) -> None:
    """Let no hook of `callback` end the run at once.

    Errors of a watcher are reported, others are given to `defer`.
    """

    def deferring(hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return hook(*args, **kwargs)
        except Exception as error:
            defer(error)

    names, guard = HOOKS, deferring
    if isinstance(callback, Watcher):
        names, guard = [*HOOKS, *STATE, *STAGE], partial(failures.attempt, type(callback).__name__)
    if getattr(callback, "saves_step", False):
        names = [name for name in names if name != "on_step_complete"]
    for name in names:
        hook = getattr(type(callback), name, None)
        if hook is not None and hook is not getattr(Callback, name):
            # On the object, since Lightning looks up hooks there each time; the class may be used
            # by others.
            setattr(callback, name, partial(guard, getattr(callback, name)))


def watch_logger(logger: Logger, failures: Failures) -> None:
    """Let no method of `logger` end the run."""
    for name in LOGGER_METHODS:
        setattr(
            logger, name, partial(failures.attempt, type(logger).__name__, getattr(logger, name))
        )
