"""`firstlight board`: TensorBoard on runs, without smoothing, in the colours of what was swept."""

import logging
import re
import socket
import threading
import webbrowser
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig
from pydantic import Field

from firstlight.board.address import address, color_pattern
from firstlight.config import NonEmpty, build, check_config
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, RunError, printable, shorten
from firstlight.output import note, say
from firstlight.runs.run_folder import EVENT_FILES

MOST_SHOWN = 5
"""Names of runs that an error lists."""


def board(
    *,
    folder: NonEmpty,
    color: NonEmpty = "auto",
    smoothing: Annotated[float, Field(ge=0, le=0.999)] = 0,
    samples: Annotated[int, Field(gt=0, le=10_000)] = 100,
    host: NonEmpty = "127.0.0.1",
    port: Annotated[int, Field(ge=0, le=65_535)] | None = None,
    browser: bool = False,
) -> str:
    """Start TensorBoard in a thread; return its address. The arguments are the keys of board.yaml.

    Raises:
        ConfigError: no such folder, no run has `color` among what was swept, or TensorBoard cannot
            listen at the host and port.
    """
    place = user_path(folder)
    if not place.is_dir():
        raise ConfigError(f"folder ({shorten(folder)}): no such folder")
    names = names_of_runs(place)
    if not names:
        note(f"no run below {printable(str(place))} has curves yet; they will appear when it has")
    _check_color(color, names)
    _check_place(host, port)
    from tensorboard.program import TensorBoard, TensorBoardServerException  # late: it is slow

    # Its warnings are of TensorFlow, which nobody needs here, and have the paths of source files.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    program = TensorBoard()
    options = ["--logdir", str(place), "--host", host, "--samples_per_plugin", f"text={samples}"]
    if port is not None:
        options += ["--port", str(port)]
    # Else it would say at each start that its fast reader is experimental.
    options += ["--load_fast", "true" if _has_fast_reader() else "false"]
    program.configure(["", *options])
    try:
        url = program.launch()
    except TensorBoardServerException as error:
        raise ConfigError(f"host ({shorten(host)}), port ({port}): {error.msg}") from None
    page = address(url, color=color, smoothing=smoothing)
    if browser:
        webbrowser.open(page)
    return page


def names_of_runs(folder: Path) -> list[str]:
    """What TensorBoard calls the runs below `folder`, in order.

    Raises:
        RunError: a folder cannot be read.
    """
    try:
        found = {file.parent.relative_to(folder) for file in folder.rglob(EVENT_FILES)}
    except OSError as error:
        raise RunError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None
    return sorted(str(name) for name in found)


def _has_fast_reader() -> bool:
    """Whether TensorBoard's reader of event files in Rust is there: not on every platform."""
    try:
        import tensorboard_data_server
    except ImportError:
        return False
    return tensorboard_data_server.server_binary() is not None


def _check_color(color: str, names: list[str]) -> None:
    """Refuse a key that tells no run from another.

    Raises:
        ConfigError: no run has it in its name.
    """
    pattern = color_pattern(color)
    if pattern is None or not names or any(re.search(pattern, name) for name in names):
        return
    more = f", and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    shown = ", ".join(map(shorten, names[:MOST_SHOWN]))
    raise ConfigError(
        f"color ({shorten(color)}): auto, run, or a key that was swept and is in the names of the"
        f" trials; these are {shown}{more}"
    )


def _check_place(host: str, port: int | None) -> None:
    """Refuse where nobody can listen, before TensorBoard has begun its own processes.

    Raises:
        ConfigError: the host is not this computer's, or the port is taken.
    """
    try:
        family, *_, place = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.create_server(place[:2], family=family):
            return
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not an address"
        raise ConfigError(
            f"host ({shorten(host)}), port ({port}): cannot listen there: {reason}; port=0 takes"
            " any that is free"
        ) from None


def arguments(config: DictConfig) -> dict[str, Any]:
    """Check the composed config as arguments of `board`.

    Raises:
        ConfigError: it is not valid.
    """
    return check_config(config, board)


def main(config: DictConfig) -> None:
    """Serve until Ctrl-C."""
    page = board(**build(arguments(config)))
    say(f"TensorBoard is at {page}")
    say("Ctrl-C ends it")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:  # the way to end it, so no mistake
        return
