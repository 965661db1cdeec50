"""Trainings as processes, forked from one that has imported everything: it saves seconds."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from multiprocessing import (
    forkserver,
    get_all_start_methods,
    get_context,
    get_start_method,
    set_start_method,
)
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import firstlight
from firstlight.files import open_to_append
from firstlight.process_group import (
    end_with,
    let_signals_through,
    main_not_run_again,
    signals_held,
)


def begin_server(modules: Sequence[str]) -> None:
    """Start the process from which the others are forked; it imports `modules` in the meantime.

    One server lives as long as this process: a second call does nothing.
    """
    # A worker of joblib's has a start method of its own, which multiprocessing does not know.
    if get_start_method() not in get_all_start_methods():
        set_start_method(None, force=True)
    forkserver.set_forkserver_preload(list(modules))
    # A signal to the group would end the server, and its processes would then be taken for dead.
    with signals_held(), main_not_run_again():
        forkserver.ensure_running()


def start_server(modules: Sequence[str]) -> None:
    """Start that process unless it runs, and wait until it has imported `modules`."""
    begin_server(modules)
    # int() does nothing: that the process has ended says that the server is ready.
    first = get_context("forkserver").Process(target=int)
    with signals_held(), main_not_run_again():
        first.start()
    first.join()


def start_process(
    target: Callable[..., int],
    *arguments: Any,
    log: Path,
    environment: Mapping[str, str],
    new_interpreter: bool = False,
) -> BaseProcess:
    """Start `target(*arguments)`, whose result is the exit code; what it prints is added to `log`.

    With `new_interpreter` nothing is shared: what hashing decides, for one, may be another thing
    there.
    """
    context = get_context("spawn") if new_interpreter else get_context("forkserver")
    passed = (os.getpid(), target, arguments, str(log), get_start_method(), dict(environment))
    process = context.Process(target=_child, args=passed)
    with signals_held(), main_not_run_again():
        process.start()
    return process


def run_command(words: Sequence[str]) -> int:
    """`firstlight` with `words`, in this process, as a user would type it; the exit code.

    The command line is looked up by name: it stands above everything that starts a process of its
    own with it.
    """
    main = import_module("firstlight.cli").main
    script = Path(sys.executable).with_name("firstlight")
    program = script if script.is_file() else Path(firstlight.__file__).with_name("__main__.py")
    # Lightning starts the processes of further devices with these words.
    sys.argv = [
        str(program),
        *words,
    ]
    return main(list(words))


def _child(
    parent: int,
    target: Callable[..., int],
    arguments: Sequence[Any],
    log: str,
    start_method: str,
    environment: dict[str, str],
) -> None:
    let_signals_through()
    end_with(parent, signal.SIGTERM)  # in good order
    with open_to_append(Path(log), "ab") as output:
        # The descriptors, not sys.stdout: C libraries and further processes write there as well.
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    # Workers that gather batches start as they would in a run of the command line.
    set_start_method(start_method, force=True)
    # The environment of the server is that of the time when it was started.
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(target(*arguments))
