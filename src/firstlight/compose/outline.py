"""What a command is composed of, read from the YAML files alone: for tab completion.

Hydra composes a config exactly, in about a second. Between two keystrokes that is too long, and
names are enough: the groups, what is chosen of each, and the keys that there are then.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.compose.keys import settings_of
from firstlight.compose.yaml_files import Part, chosen_files, defaults_of, following_groups
from firstlight.conf_files import commented

MOST_ROUNDS = 8
"""Files that choose files that choose files, and so on, at most; three suffice for ours."""


@dataclass(frozen=True)
class Key:
    """A key as its YAML file has it."""

    value: Any
    comment: str


@dataclass(frozen=True)
class Outline:
    """The groups of a command, with what is chosen of each, and its keys."""

    chosen: dict[str, Any]
    """A name, a list of names, or None; the group may have its place after an @."""
    keys: dict[str, Key]
    """By dotted key."""


def outline(verb: str, typed: Mapping[str, Any], folders: list[Path]) -> Outline:
    """The outline of `verb`, in `folders` of YAML files.

    `typed` is what the command line has chosen so far; keys in it that are no groups do not matter.
    """
    chosen: dict[str, Any] = {}
    parts: list[Part] = []
    following = following_groups()
    for _ in range(MOST_ROUNDS):
        parts = chosen_files(verb, chosen, folders)
        found = _chosen_by(parts)
        found |= {group: choice for group, choice in typed.items() if group in found}
        for group in following & set(found):
            found[group] = _made_of(str(found[group]), found)
        if found == chosen:
            break
        # What is chosen may choose, in turn: an experiment its model.
        chosen = found
    groups = {group: choice for group, choice in chosen.items() if group not in following}
    return Outline(groups, _keys_of(parts))


def _chosen_by(parts: list[Part]) -> dict[str, Any]:
    """What the defaults lists of files choose of each group; the last counts."""
    chosen: dict[str, Any] = {}
    for part in parts:
        for key, choice in defaults_of(part.content):
            group, at, place = key.partition("@")
            if at:  # a place is within the package of the file that names it
                place = f"{part.package}.{place}".lstrip(".")
            # A name alone is a base of the file: `chosen_files` has it already.
            if group and not group.startswith("hydra/"):
                chosen[f"{group}{at}{place}"] = choice
    return chosen


def _made_of(choice: str, chosen: dict[str, Any]) -> str:
    """A choice that is made of others: nano of ${model}."""
    return re.sub(r"\$\{(\w+)\}", lambda match: str(chosen.get(match[1])), choice)


def _keys_of(parts: list[Part]) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for part in parts:
        comments = {name: comment for name, _, comment in commented(part.text)}
        content = {name: node for name, node in part.content.items() if name != "defaults"}
        for name, value in settings_of(content, comments):
            full = f"{part.package}.{name}".lstrip(".")
            if not full.startswith("hydra."):
                # An experiment sets the keys of others without a comment of its own.
                known = keys.get(full, Key(None, ""))
                keys[full] = Key(value, comments.get(name) or known.comment)
    return keys
