"""What is said to a user who made a mistake. Imports nothing heavy: `--help` and misspelt keys answer at once."""

import difflib
import re
import shlex
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A mistake of the user's: shown as it is, without a traceback; the process ends with exit code 2."""


class DamagedError(ConfigError):
    """A file of ours is not what was written: cut short, or with other bits."""


class FinishedError(ConfigError):
    """There is nothing left to do for the run that was to go on."""


class RunError(RuntimeError):
    """A run that cannot go on, for a reason outside of the program. Shown as it is; exit code 1."""


class DivergedError(RunError):
    """Training has left the numbers: a loss, a gradient or a weight is nan or inf."""


class VerificationError(RunError):
    """What `firstlight verify` checks does not hold."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` if one of `known` looks like `word`, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def one_line(error: BaseException) -> str:
    """What `error` says, in one line."""
    return shorten(" ".join(without_hidden(str(error)).split()) or type(error).__name__, 300)


LONGEST_LINE = 280
"""Characters of a message: a longer one is not read."""


def message_lines(error: BaseException) -> list[str]:
    """What `error` says, a line a mistake: not too long, and with nothing in it that would steer a terminal."""
    return [shorten(line, LONGEST_LINE) for line in str(error).split("\n")]


def shown(value: object) -> str:
    """`value` as Python writes it, shortened."""
    try:
        return shorten(repr(value))
    except ValueError:  # an integer of more than 4,300 digits
        return "a number beyond all bounds"


def shorten(text: str, width: int = 80) -> str:
    """`text` as it may be shown, with its middle left out if it is long."""
    text = printable(without_hidden(text))
    return text if len(text) <= width else f"{text[: width // 2]}...{text[-width // 2 + 3 :]}"


def printable(text: str) -> str:
    """`text` without what a terminal would obey: a file may say anything of itself."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """`text` as `printable` makes it, but for its newlines."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def shell_word(text: str) -> str:
    """`text` as one word of a command line, printable: what is shown can be pasted into a shell (bash, zsh, ksh)."""
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_in_dollar_quotes, text))}'"


def _in_dollar_quotes(character: str) -> str:
    if character.isprintable() and character not in "\\'!":
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogatepass"))


def printable_data(node: Any) -> Any:
    """Plain data with every text in it, keys included, as `printable_lines` makes it."""
    if isinstance(node, dict):
        return {printable_data(key): printable_data(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [printable_data(value) for value in node]
    return printable_lines(node) if isinstance(node, str) else node


def visible(text: str) -> str:
    """`text` as a model wrote it, for a terminal: control characters but newline and tab as escapes."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SECRET_LENGTH = 4
"""Characters: what is shorter is no secret, and would be found in every message."""
_hidden: dict[str, str] = {}


def hide(value: str, text: str) -> None:
    """Show `text` wherever a message has `value` in it, from now on."""
    if len(value) >= SECRET_LENGTH:
        _hidden[value] = _hidden[repr(value)[1:-1]] = text


def has_hidden() -> bool:
    """Is there anything that messages must not show?"""
    return bool(_hidden)


def forget_hidden() -> None:
    """Hide nothing any more: another command begins."""
    _hidden.clear()


def without_hidden(text: str) -> str:
    """`text` as it may be shown."""
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, _hidden[value])
    return text
