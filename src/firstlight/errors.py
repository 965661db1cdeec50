"""What is said to a user who made a mistake. Imports nothing slow, so `--help` and misspelt keys
answer at once.
"""

import difflib
import re
import shlex
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A user's mistake. The message is shown without a traceback, and the process ends with exit
    code 2.
    """


class DamagedError(ConfigError):
    """One of our files is not as it was written: cut short, or with changed bits."""


class FinishedError(ConfigError):
    """The run to be resumed has finished."""


class RunError(RuntimeError):
    """A run cannot continue, for a reason outside the program. The message is shown as it is; exit
    code 1.
    """


class DivergedError(RunError):
    """A loss, a gradient or a weight is nan or inf."""


class VerificationError(RunError):
    """What `firstlight verify` checks does not hold."""


LONGEST_LINE = 280
"""Characters in a message; nobody reads a longer one."""
SECRET_LENGTH = 4
"""Characters: shorter values are not hidden, since every message would contain them."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_hidden: dict[str, str] = {}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` if one of `known` looks like `word`, otherwise empty."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def one_line(error: BaseException) -> str:
    """The message of `error` in one line."""
    return shorten(" ".join(without_hidden(str(error)).split()) or type(error).__name__, 300)


def reason_of(error: Exception) -> str:
    """The message of `error` in one line; of an OSError without the name of the file."""
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or one_line(error)


def message_lines(error: BaseException) -> list[str]:
    """The message of `error`, one line a mistake: not too long, and with nothing in it that would
    steer a terminal.
    """
    return [shorten(line, LONGEST_LINE) for line in str(error).split("\n")]


def shown(value: object) -> str:
    """`value` as Python writes it, shortened."""
    try:
        return shorten(repr(value))
    except ValueError:  # an integer of more than 4,300 digits
        return "a number beyond all bounds"


def shorten(text: str, width: int = 80) -> str:
    """`text` for a message: printable, and with its middle left out if it is longer than `width`
    characters.
    """
    text = printable(without_hidden(text))
    if len(text) <= width:
        return text
    return f"{text[: width // 2]}...{text[-width // 2 + 3 :]}"


def printable(text: str) -> str:
    """`text` with characters that a terminal would obey, newlines included, as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """Like `printable`, but newlines stay."""
    return "\n".join(map(printable, text.split("\n")))


def printable_data(node: Any) -> Any:
    """Plain data with every text in it, keys included, made printable like `printable_lines`."""
    if isinstance(node, dict):
        return {printable_data(key): printable_data(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [printable_data(value) for value in node]
    if isinstance(node, str):
        return printable_lines(node)
    return node


def visible(text: str) -> str:
    """The text of a model for a terminal: control characters except newline and tab as escapes."""
    return _CONTROL.sub(lambda match: printable(match[0]), text)


def shell_word(text: str) -> str:
    """`text` as one word of a command line, printable: what is shown can be pasted into a shell
    (bash, zsh, ksh).
    """
    if text.isprintable():
        return shlex.quote(text)
    quoted = ""
    for character in text:
        if character.isprintable() and character not in "\\'!":
            quoted += character
            continue
        for byte in character.encode("utf-8", "surrogatepass"):
            quoted += f"\\{byte:03o}"
    return f"$'{quoted}'"


def hide(value: str, text: str) -> None:
    """From now on show `text` wherever a message contains `value`."""
    if len(value) >= SECRET_LENGTH:
        _hidden[value] = _hidden[repr(value)[1:-1]] = text


def has_hidden() -> bool:
    """Whether there is anything that messages must not show."""
    return bool(_hidden)


def forget_hidden() -> None:
    """Hide nothing any more: another command starts."""
    _hidden.clear()


def without_hidden(text: str) -> str:
    """`text` with hidden values replaced, the longest first, as one may contain another."""
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, _hidden[value])
    return text
