"""`firstlight VERB --help`: what to set first, the verb's own keys, and the way to all others.

Every key of the composed config is explained by the comment in its YAML file.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from firstlight.compose.chosen import chosen_in
from firstlight.compose.compose import compose_config
from firstlight.compose.keys import is_within, settings_of
from firstlight.compose.options import POSITIONALS, options_of
from firstlight.compose.yaml_files import (
    choices,
    chosen_files,
    following_groups,
    groups_of,
    title_of,
    with_bases,
)
from firstlight.conf_files import commented, conf_dirs, mark_of
from firstlight.errors import ConfigError, did_you_mean
from firstlight.help_page import Entry, Page, Section

ALL = "all"
"""The word after --help that asks for every key."""
_FIRST = re.compile(r"^# Set first: (.+)$", flags=re.MULTILINE)
"""The line of a verb's YAML file that names the groups and keys to begin with."""


@dataclass(frozen=True)
class _Composed:
    """What a page is made of."""

    verb: str
    config_dir: str | None
    chosen: dict[str, Any]
    """What is chosen of each group that has choices."""
    keys: dict[str, Entry]
    """By dotted key."""
    own: list[str]
    """The keys of the verb's own files."""
    first: list[str]
    """Groups and keys to begin with."""


def help_page(
    verb: str, purpose: str, overrides: list[str], config_dir: str | None, topic: str = ""
) -> Page:
    """The page that `--help` shows for `verb`, composed with `overrides`.

    `topic` is the word after it: "all", a group, a section, or a part of the names of keys.

    Raises:
        ConfigError: the overrides are not valid, or nothing is called so.
    """
    found = _composed(verb, overrides, config_dir)
    if not topic:
        sections = [*_overview(found), _options(verb)]
    elif topic == ALL:
        sections = [_groups("Groups", found, found.chosen), *_by_section(found), _options(verb)]
    else:
        sections = _about(topic, found)
    alone = "".join(f" [{key.upper()}]" for key in POSITIONALS.get(verb, ()))
    usage = f"firstlight {verb}{alone} [key=value ...]"
    return Page(f"firstlight {verb}: {purpose}", usage, [part for part in sections if part.entries])


def _composed(verb: str, overrides: list[str], config_dir: str | None) -> _Composed:
    # Composed, not read from files: a key that an override adds or removes is on the page, or not.
    config = compose_config(verb, overrides, config_dir, with_hydra=True)
    folders, chosen = conf_dirs(config_dir), chosen_in(config)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    del plain["hydra"]
    comments: dict[str, str] = {}
    for part in chosen_files(verb, chosen, folders):
        for name, _, comment in commented(part.text):
            # Later files win: they are more special.
            comments[f"{part.package}.{name}".lstrip(".")] = comment
    keys: dict[str, Entry] = {}
    for name, value in settings_of(plain, comments):
        what = comments.get(name, "").removeprefix(mark_of(comments.get(name, "")))
        keys[name] = Entry(name, f"={_show(value)}", what)
    own: set[str] = set()
    first: list[str] = []
    for part in with_bases(Path(f"{verb}.yaml"), "", folders):
        own |= {name for name, _ in settings_of(part.content, comments)}
        first = next((line.split() for line in _FIRST.findall(part.text)), first)
    following = following_groups()
    listed = [group for group in groups_of(verb, folders) if group not in following]
    named = dict.fromkeys(listed, "none") | chosen
    # decoding@callbacks.sample_generation.decoding has no choices: it is not a group by that name.
    groups = {group: choice for group, choice in named.items() if choices(group, config_dir)}
    # The verb's own section first: bench.steps before what every run has.
    ours = sorted((key for key in keys if key in own), key=lambda key: "." not in key)
    return _Composed(verb, config_dir, groups, keys, ours, first)


def _overview(found: _Composed) -> list[Section]:
    """What to set first, the groups, the verb's own keys, and where the others are."""
    first: list[Entry] = []
    for name in found.first:
        if name in found.chosen:
            first.append(_group(name, found))
        elif name in found.keys:
            first.append(found.keys[name])
    own = [found.keys[name] for name in found.own]
    must = [entry for entry in own if entry.value == "=???"]
    rest = [entry for entry in own if entry not in first and entry not in must]
    # Where there is one choice, there is nothing to choose.
    groups = [
        group
        for group in found.chosen
        if group not in found.first and choices(group, found.config_dir) != [found.chosen[group]]
    ]
    return [
        Section("To be given", [Entry(entry.name, "=...", entry.what) for entry in must]),
        Section("Set first", first),
        Section("Keys (key=value; shown with their defaults)", rest),
        _groups("Groups (group=choice)", found, groups),
        _elsewhere(found),
    ]


def _elsewhere(found: _Composed) -> Section:
    """How to see the keys that are not on the page."""
    numbers: dict[str, int] = {}
    for name in found.keys:
        if name not in found.own:
            section = name.partition(".")[0]
            numbers[section] = numbers.get(section, 0) + 1
    if not numbers:
        return Section("", [])
    sections = ", ".join(f"{section} ({number})" for section, number in numbers.items())
    return Section(
        "More keys",
        [
            Entry("--help SECTION", what=f"those of {sections}"),
            Entry("--help WORD", what="those with WORD in their names, such as --help lr"),
            Entry(f"--help {ALL}", what=f"all {len(found.keys)}"),
        ],
    )


def _by_section(found: _Composed) -> list[Section]:
    """All keys, those at the top first."""
    sections: dict[str, list[Entry]] = {}
    for name, entry in found.keys.items():
        section, dot, _ = name.partition(".")
        sections.setdefault(section if dot else "", []).append(entry)
    named = [Section(name or "Keys", entries) for name, entries in sections.items()]
    return sorted(named, key=lambda section: section.heading != "Keys")


def _about(topic: str, found: _Composed) -> list[Section]:
    """The choices of a group and the keys of its section, or the keys with `topic` in their names.

    Raises:
        ConfigError: there are none.
    """
    sections: list[Section] = []
    if topic in found.chosen:
        options = choices(topic, found.config_dir)
        titles = [Entry(name, what=title_of(topic, name, found.config_dir)) for name in options]
        group = _group(topic, found)
        sections.append(Section(f"Group {group.name}{group.value}", titles))
    keys = [entry for name, entry in found.keys.items() if is_within(name, topic)]
    if not keys and topic not in found.chosen:
        keys = [entry for name, entry in found.keys.items() if topic in name]
    if not keys and not sections:
        known = set(found.keys)
        known.update(name.partition(".")[0] for name in found.keys)
        raise ConfigError(
            f"--help {topic}: no group or key of {found.verb} is called so"
            f"{did_you_mean(topic, sorted({*known, *found.chosen}))}"
        )
    return [*sections, Section("Keys (key=value; shown as they are now)", keys)]


def _groups(heading: str, found: _Composed, names: Iterable[str]) -> Section:
    return Section(heading, [_group(name, found) for name in sorted(names)])


def _group(name: str, found: _Composed) -> Entry:
    choice, options = found.chosen[name], ", ".join(choices(name, found.config_dir))
    if isinstance(choice, str):
        return Entry(name, f"={choice}", f"one of {options}")
    return Entry(name, "=[...]", f"now {', '.join(choice) or 'none'}; any of {options}")


def _options(verb: str) -> Section:
    entries: list[Entry] = []
    for option in options_of(verb):
        names = ", ".join(reversed(option.names))
        word = f"[{option.word}]" if option.alone is not None else option.word
        entries.append(Entry(names, f" {word}" if word else "", option.what))
    return Section("Options", entries)


def _show(value: Any) -> str:
    """Write a value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return str(value).replace("'", "")
    return str(value)
