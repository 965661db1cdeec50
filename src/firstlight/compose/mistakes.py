"""All mistakes of a command line at once, as far as they can be judged together."""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from firstlight.compose.keys import is_within
from firstlight.compose.yaml_files import choices
from firstlight.conf_files import conf_dirs, config_dir, package_in
from firstlight.errors import ConfigError
from firstlight.overrides import key_of


class Mistaken(ConfigError):
    """Some overrides are mistakes; `rest` are those that can be judged without them.

    `options` are those of the command line if the rest of it has not been looked at.
    """

    def __init__(
        self, message: str, rest: list[str], options: argparse.Namespace | None = None
    ) -> None:
        super().__init__(message)
        self.rest = rest
        self.options = options


def mistaken(
    problems: Mapping[str, str], overrides: Iterable[str], folder: str | None = None
) -> Mistaken:
    """Why some of `overrides` are mistakes, a line each; `folder` is the --config-dir.

    What depends on a choice that is not known is not among the rest: the keys of its section, or
    all keys if it decides them all, as an experiment does.
    """
    folder = folder or config_dir()
    rest = [word for word in overrides if word not in problems]
    for word in problems:
        group, _, package = key_of(word).partition("@")
        if not group or not choices(group, folder):
            continue
        if _is_global(group, folder):
            rest = [other for other in rest if choices(_group(other), folder)]
        else:
            rest = [other for other in rest if not is_within(key_of(other), package or group)]
    return Mistaken("\n".join(dict.fromkeys(problems.values())), rest)


def all_mistakes(
    first: Mistaken, judge: Callable[[list[str]], None], folder: str | None
) -> ConfigError:
    """`first`, and what `judge` finds wrong with the overrides that are left.

    `judge` raises a ConfigError; the lines of one that is not a Mistaken begin with a key.
    """
    lines, rest = str(first).split("\n"), first.rest
    while rest:
        try:
            judge(rest)
            break
        except Mistaken as error:
            lines += str(error).split("\n")
            rest = error.rest
        except ConfigError as error:
            # A mistake of what is left may follow from what was taken out: only those in values
            # that were typed are certain.
            typed = [re.escape(key_of(word)) for word in values_among(rest, folder)]
            about_typed = re.compile(rf"({'|'.join(typed)})[.: ]")
            lines += [line for line in str(error).split("\n") if about_typed.match(line)]
            break
    return ConfigError("\n".join(dict.fromkeys(lines)))


def values_among(overrides: list[str], folder: str | None) -> list[str]:
    """The overrides that give a value, and do not choose of a group or take something away."""
    return [
        word for word in overrides if not word.startswith("~") and not choices(_group(word), folder)
    ]


def _group(word: str) -> str:
    return key_of(word).partition("@")[0]


def _is_global(group: str, folder: str | None) -> bool:
    """Whether a choice of the group may set any key."""
    for place in conf_dirs(folder):
        for file in Path(place, group).glob("*.yaml"):
            if package_in(file.read_text(encoding="utf-8"), group) == "":
                return True
    return False
