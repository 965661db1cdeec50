"""What all calls of the API share: the process stays as it was, mistakes are one line each."""

import functools
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from firstlight import processes
from firstlight.api.surroundings import kept
from firstlight.cli import unsupported
from firstlight.errors import ConfigError, Error, forget_hidden, message_lines

if TYPE_CHECKING:
    from firstlight.api.run import Run
    from firstlight.api.sweep import Sweep

P = ParamSpec("P")
R = TypeVar("R")


class Interrupted(KeyboardInterrupt):
    """A run or a sweep has stopped between two steps, saved, as Ctrl-C or a signal asked it to.

    `run` or `sweep` is what has stopped: its `resume()` resumes it.
    """

    # A KeyboardInterrupt, so that `except Exception` around a run does not swallow Ctrl-C.
    def __init__(
        self, signum: int, *, run: "Run | None" = None, sweep: "Sweep | None" = None
    ) -> None:
        stopped = f"firstlight.Run({str(run.folder)!r})" if run is not None else ""
        if sweep is not None:
            stopped = f"firstlight.Sweep({str(sweep.folder)!r})"
        super().__init__(f"stopped; resume with {stopped}.resume()")
        self.signum, self.run, self.sweep = signum, run, sweep


def ends_in_one_line(function: Callable[P, R]) -> Callable[P, R]:
    """Make the mistakes that `function` reports exceptions of one line, without our traceback.

    A signal other than Ctrl-C that has stopped a run is given to whoever handled it before.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        told: BaseException
        try:
            return function(*args, **kwargs)
        except Error as error:
            error.args = ("\n".join(message_lines(error)),)
            told = error
        except Interrupted as stop:
            told = stop
        except SystemExit as stop:
            # What Lightning makes of Ctrl-C where nothing stops between two steps.
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            told = KeyboardInterrupt()
        # SIGTERM and the like were meant for the whole program. Raised again only now, when `kept`
        # has given the signal back to its handler; with the default one the process ends here, and
        # Python would not flush what is buffered.
        if isinstance(told, Interrupted) and told.signum != signal.SIGINT:
            sys.stdout.flush()
            signal.raise_signal(told.signum)
        raise told.with_traceback(None) from None

    return call


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Let `function`, which does what a command does, leave the process as it was."""

    @ends_in_one_line
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # Inside of `ends_in_one_line`: when that raises a signal again, its handler is the user's.
        with kept():
            _begin()
            return function(*args, **kwargs)

    return call


def _begin() -> None:
    """What a command begins with."""
    from firstlight.runs.environment import check_working_folder  # late: it registers our resolvers

    # As `cli.main` does before it runs a verb.
    forget_hidden()
    if problem := unsupported(sys.platform, sys.version_info[:2]):
        raise ConfigError(problem)
    check_working_folder("os.chdir")
    processes.begin()
