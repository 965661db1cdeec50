"""What is said to a user who made a mistake. Imports nothing heavy: `--help` and misspelt keys answer at once."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A mistake of the user's: shown as it is, without a traceback; the process ends with exit code 2."""


class DamagedError(ConfigError):
    """A file of ours is not what was written: cut short, or with other bits."""


class RunError(RuntimeError):
    """A run that cannot go on, for a reason outside of the program. Shown as it is; exit code 1."""


class DivergedError(RunError):
    """Training has left the numbers: a loss, a gradient or a weight is nan or inf."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` if one of `known` looks like `word`, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def one_line(error: BaseException) -> str:
    """What `error` says, in one line."""
    return shorten(" ".join(str(error).split()) or type(error).__name__, 300)


def shorten(text: str, width: int = 80) -> str:
    """`text` in characters that can be shown (a file may say anything), with its middle left out if it is long."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:10_000])
    return text if len(text) <= width else f"{text[: width // 2]}...{text[-width // 2 + 3 :]}"
