"""The YAML files of the config: the choices of a group, and the files that a choice is based on.

Nothing here imports Hydra, so that tab completion answers at once.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.conf_files import LOADER, conf_dir, conf_dirs, package_in
from firstlight.data.files import is_hidden, leads_to

_FOLLOWING = re.compile(r"^ *- (?:optional )?(?:override )?/?([\w/]+)(?:@\S+)?: .*\$\{", re.M)
"""A group in a defaults list whose choice is made of other choices: `optional rules: ${model}`."""


@dataclass(frozen=True)
class Part:
    """A YAML file that a config is composed of."""

    relative: Path
    """Its path in the folder of the config where Hydra finds it: model/nano.yaml."""
    package: str
    """The place of its keys in the config."""
    text: str
    content: dict[str, Any]
    """What it holds; nothing if it holds only comments, or no mapping."""


def choices(group: str, config_dir: str | None = None) -> list[str]:
    """The choices of a group of the config; empty if `group` is not a group."""
    return [name for name in names_in(group, config_dir) if not is_base_name(name)]


def names_in(group: str, config_dir: str | None) -> list[str]:
    """The names of a group's files, sorted; those included that its choices are based on."""
    names: set[str] = set()
    for folder in conf_dirs(config_dir):
        if leads_to(folder / group, Path.is_dir):
            for file in (folder / group).glob("*.yaml"):
                if not is_hidden(file.name):
                    names.add(file.stem)
    return sorted(names)


def groups_of(verb: str, folders: list[Path]) -> list[str]:
    """The groups that the config of `verb`, or a file it is based on, chooses of, as listed."""
    groups: list[str] = []
    for part in with_bases(Path(f"{verb}.yaml"), "", folders):
        groups += [group for group, _ in defaults_of(part.content) if group]
    return groups


def defaults_of(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the groups in the defaults list of a file, with what it chooses of each.

    A group has its place after an @, if it has one. It is "" where a name stands alone: that is a
    file of the same group, on which this one is based.
    """
    for item in content.get("defaults", []):
        if isinstance(item, dict):
            for key, choice in item.items():
                # "override /model" and "/model" are the group model.
                yield str(key).split()[-1].lstrip("/"), choice
        elif isinstance(item, str) and item != "_self_":
            yield "", item


def following_groups() -> frozenset[str]:
    """Groups of which nobody chooses: other choices decide what is taken of them."""
    return _following_in(conf_dir())


@functools.cache  # asked for each trial of a sweep; firstlight's own files do not change
def _following_in(folder: str) -> frozenset[str]:
    # Those of such a group may name further ones: rules/dial.yaml.
    files = [*Path(folder).glob("*.yaml"), *Path(folder).glob("*/*.yaml")]
    groups: set[str] = set()
    for file in files:
        groups.update(_FOLLOWING.findall(file.read_text(encoding="utf-8")))
    return frozenset(groups)


def is_base_name(name: str) -> bool:
    """Whether a file is what choices of its group are based on: base.yaml, base_windows.yaml."""
    return name == "base" or name.startswith("base_")


def chosen_files(verb: str, chosen: dict[str, Any], folders: list[Path]) -> list[Part]:
    """The chosen files; the more special are later, in the order of the defaults lists.

    Each comes after the files of its group that it is based on.
    """
    files = [(Path(f"{verb}.yaml"), "")]
    order = groups_of(verb, folders)
    # Hydra records choices in an order of its own.
    # What the verb does not list is chosen by what it lists, or added after it.
    last = len(order)
    for key in sorted(chosen, key=lambda group: order.index(group) if group in order else last):
        choice = chosen[key]
        group, _, package = str(key).partition("@")  # decoding@callbacks.sample_generation.decoding
        names = [choice] if isinstance(choice, str) else choice or []
        files += [(Path(group) / f"{name}.yaml", package or group) for name in names]
    found: list[Part] = []
    for relative, package in files:
        found.extend(with_bases(relative, package, folders))
    return found


def with_bases(relative: Path, package: str, folders: list[Path]) -> Iterator[Part]:
    """Yield the file `relative`, after the files of its group that it is based on.

    `package` is that of its keys, unless the file names another one.
    """
    file = place_of(relative, folders)
    if file is None:
        return
    text = file.read_text(encoding="utf-8")
    package = package_in(text, package)
    content = _content(text)
    for group, name in defaults_of(content):
        if not group:
            yield from with_bases(relative.parent / f"{name}.yaml", package, folders)
    yield Part(relative, package, text, content)


@functools.lru_cache(maxsize=256)
def _content(text: str) -> dict[str, Any]:
    """What a YAML file holds; not to be changed. An outline reads most files several times."""
    loader = LOADER(text)  # what yaml.safe_load does, in C where that is there
    try:
        content = loader.get_single_data()
    finally:
        loader.dispose()
    return content if isinstance(content, dict) else {}


def place_of(relative: Path, folders: list[Path]) -> Path | None:
    """The file `relative` in the first of `folders` that has it, which is where Hydra finds it."""
    return next((folder / relative for folder in folders if (folder / relative).is_file()), None)


def title_of(group: str, choice: str, config_dir: str | None) -> str:
    """What a choice is, by the first words of its file's first comment; "" if it has none."""
    file = place_of(Path(group) / f"{choice}.yaml", conf_dirs(config_dir))
    if file is None:  # a list of choices
        return ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.startswith("# @package "):
            return re.split(r"[,;:.(] ?", line.removeprefix("# "))[0].strip()
    return ""
