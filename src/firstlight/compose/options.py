"""The words of a command line that are no settings: options, and values without their keys.

Nothing here imports Hydra, so that tab completion answers at once.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from firstlight.errors import ConfigError


@dataclass(frozen=True)
class Option:
    """An option: its names, what it does, and what may or must follow it."""

    long: str
    short: str
    what: str
    word: str = ""
    """What follows it, for the reader: DIR; "" if nothing does."""
    values: tuple[str, ...] = ()
    """The words that may follow it, if only these may."""
    alone: str | None = None
    """What it means where nothing follows it; None: something must, if it has a `word`."""
    only: str = ""
    """The verb that it is for; "": all of them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The long name and, if it has one, the short one."""
        return (self.long, self.short) if self.short else (self.long,)

    def arguments(self) -> dict[str, Any]:
        """The option as arguments of argparse."""
        if not self.word:
            return {"action": "store_true"}
        optional = {} if self.alone is None else {"nargs": "?", "const": self.alone}
        return {"choices": self.values or None, **optional}


_INFOS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
OPTIONS = (
    Option(
        "--help",
        "-h",
        "what to set; all: every key; or a group, or a part of a key",
        "WORD",
        alone="",
    ),
    Option("--run", "-r", "one run, which is the default", only="train"),
    Option("--multirun", "-m", "a sweep: key=a,b is one run for each value", only="train"),
    Option(
        "--cfg", "-c", "print the composed config, and nothing else", "job", ("job", "hydra", "all")
    ),
    Option("--package", "-p", "of the composed config only this section", "SECTION"),
    Option("--resolve", "", "print it with its references (${...}) resolved"),
    Option("--config-dir", "-cd", "a folder of YAML files of your own", "DIR"),
    Option("--info", "-i", "what Hydra knows of the config", "WHAT", _INFOS, alone="all"),
)
POSITIONALS: dict[str, tuple[str, ...]] = {
    "sweep": ("action", "folder"),
    "compare": ("runs",),
    "new": ("name",),
    "board": ("folder",),
}
"""Keys that may be left out: `firstlight sweep status DIR`, `firstlight compare RUN RUN`."""
MODES = ("run", "multirun", "cfg", "info")
"""Options that exclude each other."""


SHOWING = ("--help", "--cfg", "--info")
"""Options with which a command only shows something of its config, and is done at once."""


def only_shows(words: Sequence[str]) -> bool:
    """Whether one of the options `SHOWING` is among the words."""
    names: set[str] = set()
    for option in OPTIONS:
        if option.long in SHOWING:
            names.update(option.names)
    return any(word.partition("=")[0] in names for word in words)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (settings are written key=value, e.g. optimizer.lr=3e-4)")


def options_of(verb: str) -> list[Option]:
    """The options of a verb."""
    return [option for option in OPTIONS if option.only in ("", verb)]


def options_parser() -> argparse.ArgumentParser:
    """A parser of the options; the other words are `overrides`."""
    parser = _Parser(add_help=False)  # --help is the page of compose/help.py
    # A parser of our own: Hydra's is private, and has options that would do nothing here.
    parser.add_argument("overrides", nargs="*")
    for option in OPTIONS:
        parser.add_argument(*option.names, **option.arguments())
    return parser
