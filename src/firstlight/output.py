"""Standard output and error. All text is printed here, so none of it can steer a terminal."""

import io
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from firstlight.errors import ConfigError, one_line, printable_lines, visible, without_hidden

_closed: list[TextIO] = []
"""The stand-in for a standard output that was closed before this process started, if it was."""


def prepare() -> None:
    """Make the standard streams usable if they are closed, or if their encoding lacks characters.

    A character that the encoding lacks is written as an escape (`\\u9053`).
    """
    # A closed descriptor (`>&-`) is opened on /dev/null. Otherwise the next file that is opened
    # would get its number, and what libraries print would be written into that file.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _discard(descriptor)
    # Python has None for a stream whose descriptor was closed when the process started.
    if sys.stdout is None:
        sys.stdout = _null_stream()
        _closed.append(sys.stdout)
    if sys.stderr is None:
        sys.stderr = _null_stream()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def give_up(stream: TextIO) -> None:
    """Discard what is in the buffer of `stream` and what will be written: nobody reads it."""
    with suppress(io.UnsupportedOperation):  # it has no descriptor
        _discard(stream.fileno())


def _discard(descriptor: int) -> None:
    """Let `descriptor` lead to /dev/null."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    # A closed descriptor is the lowest free number, which `os.open` has just taken.
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _null_stream() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 (for as long as the process lives)


def is_unicode() -> bool:
    """Whether standard output can hold every character; otherwise some are written as escapes."""
    return str(getattr(sys.stdout, "encoding", None)).lower().startswith("utf")


def say(text: str, *, stderr: bool = False) -> None:
    """Print lines, with hidden values replaced and control characters as escapes.

    Raises:
        OSError: nobody reads the stream any more, or it cannot be written.
    """
    stream = sys.stderr if stderr else sys.stdout
    print(printable_lines(without_hidden(text)), file=stream, flush=True)


def tell(text: str, *, stderr: bool = False) -> None:
    """Like `say`, but continue if nobody reads any more: the terminal of a run may be closed."""
    try:
        say(text, stderr=stderr)
    except OSError:
        give_up(sys.stderr if stderr else sys.stdout)


def note(text: str) -> None:
    """Tell the user something on standard error that is not an error."""
    tell(f"note: {text}", stderr=True)


def announce(text: str) -> None:
    """Tell somebody who waits at a terminal what is being done; nobody else needs to know."""
    if sys.stderr.isatty():
        tell(text, stderr=True)


@contextmanager
def library_warnings_as_notes() -> Iterator[None]:
    """Within the block, a warning of a library's is a note of one line.

    Python would show the place in the library's source, which tells a user nothing.
    """

    def show(message: Warning | str, category: type, filename: str, *rest: object) -> None:
        _, _, within = filename.rpartition("/site-packages/")
        library = within.partition("/")[0].removesuffix(".py") if within != filename else ""
        words = one_line(message if isinstance(message, Warning) else category(message))
        note(f"{library}: {words}" if library else words)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def as_json(data: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """Write plain data as JSON, with null for nan and inf, which JSON does not have."""
    # Python would write NaN and Infinity, which other programs refuse.
    finite = _finite(data)
    return json.dumps(finite, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def write(text: str) -> None:
    """Write and flush `text`, the result of a command.

    Files and pipes get it unchanged; on a terminal, control characters are shown as escapes.

    Raises:
        BrokenPipeError: nobody reads any more.
        ConfigError: it cannot be written (a full disk), or standard output is closed.
    """
    if sys.stdout in _closed:
        raise ConfigError("standard output is closed: nowhere to write the result to")
    if sys.stdout.isatty():
        text = visible(text)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Otherwise Python flushes once more as it exits, fails again, and sets its own exit code.
        give_up(sys.stdout)
        raise ConfigError(f"standard output cannot be written: {error.strerror}") from None
