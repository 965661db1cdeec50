"""The shells: the script that each evaluates when it starts, and the answers to it."""

import re
from collections.abc import Mapping
from pathlib import Path

from firstlight import output
from firstlight.completion.candidates import Candidate, candidates
from firstlight.completion.line import Line, read_line
from firstlight.errors import ConfigError, did_you_mean, printable

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """The script for `shell`, which calls `firstlight --complete SHELL` at each tab.

    Raises:
        ConfigError: there is none.
    """
    if shell not in SHELLS:
        problem = "which shell?"
        if shell:
            problem = f"unknown shell '{shell}'{did_you_mean(shell, SHELLS)}"
        raise ConfigError(
            f'completion: {problem} (bash, zsh or fish: eval "$(firstlight completion bash)")'
        )
    return Path(__file__).with_name(f"firstlight.{shell}").read_text(encoding="utf-8")


def answer(
    words: list[str], verbs: Mapping[str, str], others: Mapping[str, tuple[str, tuple[str, ...]]]
) -> None:
    """Answer `firstlight --complete SHELL LINE [TAIL]`, which the scripts call: a word a line.

    LINE is the command up to the cursor, TAIL what bash takes for its last word.
    """
    shell, text, *tail = words
    line = read_line(text)
    lines = [_shown(found, shell, line, tail) for found in candidates(line, verbs, others)]
    output.write("".join(f"{row}\n" for row in lines))


def _shown(candidate: Candidate, shell: str, line: Line, tail: list[str]) -> str:
    """A candidate as the script of `shell` reads it.

    A space after it ends the word; zsh and fish show what follows the tab.
    """
    word, end = printable(candidate.word), " " if candidate.is_whole else ""
    if shell == "bash":
        # For bash a word begins after each = and :, and after a quote; it inserts it as it stands.
        raw = line.raw.lstrip("'\"")
        is_quoted = raw != line.raw
        cut = len(raw) - len(tail[0]) if tail and raw.endswith(tail[0]) else 0
        return f"{word[cut:] if is_quoted else _escaped(word[cut:])}{end}"
    what = printable(candidate.what)
    return f"{word}\t{what}" if shell == "fish" else f"{word}{end}\t{what}"


def _escaped(word: str) -> str:
    """A word as it is typed in bash without quotes."""
    return re.sub(r"([\s'\"\\$`!*?#&;|<>()])", r"\\\1", word)
