"""Standard output and error: the one way to them. Text may be somebody else's, and does not steer a terminal."""

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from firstlight.errors import ConfigError, printable_lines, visible, without_hidden

_closed: list[io.TextIOWrapper] = []
"""What stands in for a standard output that was closed before this process began."""


def prepare() -> None:
    """Make the standard streams usable, whatever they are: closed, or of an encoding that lacks characters.

    A character that the encoding lacks is written as an escape (`\\u9053`). A descriptor that was closed (`>&-`) leads
    nowhere from now on: otherwise the next file that is opened would take its number, and what a library prints would
    be written into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _lead_nowhere(descriptor)
    if sys.stdout is None:
        sys.stdout = _nowhere()
        _closed.append(sys.stdout)
    if sys.stderr is None:
        sys.stderr = _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def give_up(stream: TextIO) -> None:
    """Nobody reads `stream` any more: let what is left in its buffer, and what is still written to it, go nowhere."""
    with suppress(io.UnsupportedOperation):  # it has no descriptor
        _lead_nowhere(stream.fileno())


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _nowhere() -> io.TextIOWrapper:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 (for as long as the process lives)


def is_unicode() -> bool:
    """Can standard output hold every character? Otherwise some are written as escapes."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def say(text: str, *, stderr: bool = False) -> None:
    """Print lines about something, without what must not be shown, and with nothing that a terminal would obey.

    Raises:
        OSError: nobody reads any more, or it cannot be written.
    """
    print(printable_lines(without_hidden(text)), file=sys.stderr if stderr else sys.stdout, flush=True)


def tell(text: str, *, stderr: bool = False) -> None:
    """Say what a run can do without: that nobody reads any more (a terminal that was closed) is no reason to end."""
    try:
        say(text, stderr=stderr)
    except OSError:
        give_up(sys.stderr if stderr else sys.stdout)


def note(text: str) -> None:
    """Tell on standard error what the user should know."""
    tell(f"note: {text}", stderr=True)


def write(text: str) -> None:
    """Write and flush `text`, the result of a command: as it is into files and pipes, visibly on a terminal.

    Raises:
        BrokenPipeError: nobody reads any more.
        ConfigError: it cannot be written (a full disk), or standard output is closed.
    """
    if any(sys.stdout is stream for stream in _closed):
        raise ConfigError("standard output is closed: there is nowhere to write to")
    try:
        sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"standard output cannot be written: {error.strerror}") from None
