"""Exceptions, and the words of their messages.

Imports nothing slow, so `--help` and misspelt keys are answered at once.
"""

import difflib
import re
import shlex
from collections.abc import Iterable
from typing import Any


class Error(Exception):
    """What firstlight tells its user: the message is whole lines, to be shown as it is."""


class ConfigError(Error, ValueError):
    """A mistake of the user's: the message is shown without a traceback; exit code 2."""


class DamagedError(ConfigError):
    """One of our files is not as it was written: it was cut short, or bits have changed."""


class FinishedError(ConfigError):
    """The run to resume has finished."""


class RunError(Error, RuntimeError):
    """A run cannot continue, for a reason outside the program; exit code 1."""


class DivergedError(RunError):
    """A loss, a gradient or a weight is nan or inf."""


class VerificationError(RunError):
    """What `firstlight verify` checks does not hold."""


LONGEST_LINE = 280
"""Characters of a message, about three lines of a terminal; nobody reads a longer one."""
SECRET_LENGTH = 4
"""Characters of the shortest value that is hidden: every message would contain shorter ones."""
# C0 and C1 control characters and DEL, without tab (\x09) and newline (\x0a)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_hidden: dict[str, str] = {}
"""Values that must not be shown, and the text that is shown instead of each."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` if one of `known` looks like `word`, otherwise ""."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def counted(number: int, thing: str) -> str:
    """Write how many: 1 token, 2 tokens, 1,000 tokens."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in two units at most: 40 s, 12 min, 3 h 20 min, 5 days 2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"


def with_article(name: str) -> str:
    """Write a name after "a" or "an": an Optimizer, a Schedule."""
    return f"an {name}" if name[:1] in "AEIOaeio" else f"a {name}"


def one_line(error: BaseException) -> str:
    """Write the message of `error` in one line; its type if it has none."""
    # Hidden values first: a value with line breaks would not be recognised once they are gone.
    words = without_hidden(str(error)).split()
    return shorten(" ".join(words) or type(error).__name__, 300)


def reason_of(error: Exception) -> str:
    """Write the message of `error` in one line, without the file's name if it is an OSError."""
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or one_line(error)


def message_lines(error: BaseException) -> list[str]:
    """Split the message of `error` into lines, one for each mistake, each short and printable."""
    return [shorten(line, LONGEST_LINE) for line in str(error).split("\n")]


def shown(value: object) -> str:
    """Write `value` as Python does, shortened."""
    try:
        return shorten(repr(value))
    except ValueError:  # an integer of more than 4,300 digits
        return "a number beyond all bounds"


def shorten(text: str, width: int = 80) -> str:
    """Make `text` printable and cut its middle out if it is longer than `width` characters."""
    text = printable(without_hidden(text))
    if len(text) <= width:
        return text
    return f"{text[: width // 2]}...{text[-width // 2 + 3 :]}"


def printable(text: str) -> str:
    """Write characters that a terminal would obey, newlines included, as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)  # repr without its quotes


def printable_lines(text: str) -> str:
    """Like `printable`, but keep newlines."""
    return "\n".join(map(printable, text.split("\n")))


def printable_data(node: Any) -> Any:
    """Apply `printable_lines` to every text in plain data, keys included."""
    if isinstance(node, dict):
        return {printable_data(key): printable_data(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [printable_data(value) for value in node]
    if isinstance(node, str):
        return printable_lines(node)
    return node


def visible(text: str) -> str:
    """Write control characters as escapes, except newline and tab: a model's text on a terminal."""
    return _CONTROL.sub(lambda match: printable(match[0]), text)


def shell_word(text: str) -> str:
    """Quote `text` as one printable word, to be pasted into a shell (bash, zsh, ksh)."""
    if text.isprintable():
        return shlex.quote(text)
    # $'...' is the one form of quotes in which these shells read escapes. An exclamation mark would
    # be history expansion; a byte is written in octal, as all of them read it.
    quoted = ""
    for character in text:
        if character.isprintable() and character not in "\\'!":
            quoted += character
            continue
        for byte in character.encode("utf-8", "surrogatepass"):
            quoted += f"\\{byte:03o}"
    return f"$'{quoted}'"


def hide(value: str, text: str) -> None:
    """From now on, show `text` wherever a message contains `value`."""
    if len(value) >= SECRET_LENGTH:
        # A message may contain the value as it is, or as Python writes it (with \n for a newline).
        _hidden[value] = _hidden[repr(value)[1:-1]] = text


def has_hidden() -> bool:
    """Whether any value is hidden."""
    return bool(_hidden)


def forget_hidden() -> None:
    """Hide nothing any more, for another command in the same process."""
    _hidden.clear()


def without_hidden(text: str) -> str:
    """Replace the hidden values in `text`."""
    # The longest first, as one may contain another.
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, _hidden[value])
    return text
