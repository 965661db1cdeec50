"""A command line as far as it is typed."""

import shlex
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """The words before the one that is being typed, without the program, and that one."""

    before: list[str]
    current: str
    raw: str
    """The word that is being typed with its quotes and backslashes."""

    @property
    def verb(self) -> str:
        """The first word; "" if that is being typed."""
        return self.before[0] if self.before else ""

    @property
    def typed(self) -> dict[str, Any]:
        """The settings so far: a text, or a list of texts."""
        found: dict[str, Any] = {}
        for word in self.before[1:]:
            key, equals, value = word.partition("=")
            if equals:
                is_list = value.startswith("[") and value.endswith("]")
                found[key.lstrip("+")] = value[1:-1].split(",") if is_list else value
        return found

    def after(self, *options: str) -> str | None:
        """What follows the first of these options; None if none is there, or nothing follows."""
        for word, following in zip(self.before, self.before[1:], strict=False):
            if word in options:
                return following
        return None


def read_line(text: str) -> Line:
    """Read what is typed; quotes may be open."""
    words, is_open = _split(text)
    # The last word ends with a space: the next one is being typed, and empty.
    is_new = not is_open and (not text or (text[-1].isspace() and not text.endswith("\\ ")))
    *before, current = [*words, ""] if is_new or not words else words
    return Line(before[1:], current, "" if is_new else _last_raw(text))


def _split(text: str) -> tuple[list[str], bool]:
    """The words of `text`, and whether a quote is open at its end, or a backslash the last."""
    for closing in ("", "'", '"', "\\"):
        try:
            return shlex.split(text + closing), bool(closing)
        except ValueError:
            continue
    return text.split(), False


def _last_raw(text: str) -> str:
    """The last word of `text` as it is typed."""
    start, quote, position = 0, "", 0
    while position < len(text):
        character = text[position]
        if character == "\\" and quote != "'":
            position += 2
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character.isspace():
            start = position + 1
        position += 1
    return text[start:]
