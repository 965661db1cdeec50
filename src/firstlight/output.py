"""Standard output and error. All text goes through here: it may be somebody else's, and must not
steer a terminal.
"""

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from firstlight.errors import ConfigError, printable_lines, visible, without_hidden

_closed: list[TextIO] = []
"""The stream that replaces a standard output which was closed before this process started."""


def prepare() -> None:
    """Make the standard streams usable if they are closed, or have an encoding that lacks
    characters.

    A character that the encoding lacks is written as an escape (`\\u9053`). A closed descriptor
    (`>&-`) is opened on /dev/null: otherwise the next file that is opened would get its number, and
    what libraries print would be written into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _discard(descriptor)
    if sys.stdout is None:  # Python's stand-in for a stream whose descriptor was closed
        sys.stdout = _null_stream()
        _closed.append(sys.stdout)
    if sys.stderr is None:
        sys.stderr = _null_stream()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def give_up(stream: TextIO) -> None:
    """Discard what is still in the buffer of `stream`, and what will be written to it: nobody reads
    it any more.
    """
    with suppress(io.UnsupportedOperation):  # it has no descriptor
        _discard(stream.fileno())


def _discard(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:  # a closed descriptor is the first that is free
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _null_stream() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 (for as long as the process lives)


def is_unicode() -> bool:
    """Whether standard output can hold every character. Otherwise some are written as escapes."""
    return str(getattr(sys.stdout, "encoding", None)).lower().startswith("utf")


def say(text: str, *, stderr: bool = False) -> None:
    """Print lines, without values that must not be shown, and with nothing that a terminal would
    obey.

    Raises:
        OSError: nobody reads the stream any more, or it cannot be written.
    """
    print(printable_lines(without_hidden(text)), file=_stream(stderr), flush=True)


def tell(text: str, *, stderr: bool = False) -> None:
    """Like `say`, for what a run can do without: if nobody reads any more (a closed terminal), the
    run continues.
    """
    try:
        say(text, stderr=stderr)
    except OSError:
        give_up(_stream(stderr))


def _stream(stderr: bool) -> TextIO:
    return sys.stderr if stderr else sys.stdout


def note(text: str) -> None:
    """Tell the user on standard error what they should know."""
    tell(f"note: {text}", stderr=True)


def write(text: str) -> None:
    """Write and flush `text`, the result of a command: unchanged into files and pipes, visibly on a
    terminal.

    Raises:
        BrokenPipeError: nobody reads any more.
        ConfigError: it cannot be written (a full disk), or standard output is closed.
    """
    if sys.stdout in _closed:
        raise ConfigError("standard output is closed: there is nowhere to write to")
    if sys.stdout.isatty():
        text = visible(text)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up(sys.stdout)  # or Python fails once more as it ends, with an exit code of its own
        raise ConfigError(f"standard output cannot be written: {error.strerror}") from None
