"""Which files of the config are chosen, and whether one of them stands in two packages."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from firstlight.compose.hydra_calls import parse_overrides
from firstlight.compose.keys import keys_of
from firstlight.compose.yaml_files import (
    Part,
    choices,
    chosen_files,
    defaults_of,
    following_groups,
    with_bases,
)
from firstlight.conf_files import conf_dir, conf_dirs, files_of_config
from firstlight.errors import ConfigError
from firstlight.packages import found

LIST_GROUPS = ("callbacks", "logger", "metrics")
"""Groups of which several are chosen; Hydra does not record these choices."""


def chosen_in(config: DictConfig) -> dict[str, Any]:
    """What is chosen of each group: a name, or a list of names; `config` has Hydra's section."""
    following = following_groups()
    chosen = {group: name for group, name in _made(config).items() if group not in following}
    for group in LIST_GROUPS:
        if config.get(group):
            chosen[group] = list(config[group])  # each choice has a section of its name
    return chosen


def _made(config: DictConfig) -> dict[str, Any]:
    """Every choice that Hydra has made for us."""
    made = config.hydra.runtime.choices.items()
    return {group: name for group, name in made if name and not group.startswith("hydra/")}


def merged_files(verb: str, config: DictConfig, config_dir: str | None) -> list[Part]:
    """The files that decide a value of `config`, which has Hydra's section; later ones win.

    Those that are chosen in lists are left out.
    """
    return chosen_files(verb, _made(config), conf_dirs(config_dir))


def choices_with(key: str, config_dir: str | None) -> list[str]:
    """The choices of the group of `key`, which is the word before its first dot, that have it.

    They are read, and not composed, for which Hydra takes a third of a second each.
    """
    group, _, _ = key.partition(".")
    folders = conf_dirs(config_dir)
    found: list[str] = []
    for choice in choices(group, config_dir):
        with suppress(yaml.YAMLError):  # Hydra says what is wrong with the file, if it is chosen
            if key in keys_with_bases(Path(group) / f"{choice}.yaml", folders):
                found.append(choice)
    return found


def keys_with_bases(relative: Path, folders: list[Path]) -> set[str]:
    """The dotted keys that the choice `relative` sets, and what it is based on."""
    keys: set[str] = set()
    for part in with_bases(relative, relative.parent.name, folders):
        keys.update(keys_of(part.content, f"{part.package}." if part.package else ""))
    return keys


def ambiguous_files(config_dir: str | None) -> dict[Path, list[Path]]:
    """The files that stand in several of the config's folders, relative to them, and those."""
    if len(conf_dirs(config_dir)) == 1:
        return {}
    owners: dict[Path, list[Path]] = {}
    for file in files_of_config(config_dir):
        folder = Path(file.folder)
        owners.setdefault(Path(file.path).relative_to(folder), []).append(folder)
    return {file: several for file, several in owners.items() if len(several) > 1}


def check_unambiguous(
    verb: str,
    config: DictConfig,
    overrides: list[str],
    config_dir: str | None,
    ambiguous: dict[Path, list[Path]],
) -> None:
    """Check that no chosen file is `ambiguous`; see `ambiguous_files`.

    `config`, made with `overrides`, has Hydra's section.

    Raises:
        ConfigError: one is, and the others of its name would be ignored.
    """
    folders = conf_dirs(config_dir)
    parts = chosen_files(verb, chosen_in(config), folders)
    named = _named(parts, overrides)
    for relative in [*(part.relative for part in parts), *_in_lists(named, folders)]:
        if relative not in ambiguous:
            continue
        # What only firstlight's own files choose, such as callbacks=default, is firstlight's: an
        # installed package may not stand in the way of runs that have nothing to do with it.
        is_named = any(relative == name for name, by_us in named if not by_us)
        is_users = config_dir is not None and Path(config_dir) in ambiguous[relative]
        if is_named or is_users or not _is_ours(relative):
            first, second = (_owner(folder) for folder in ambiguous[relative][:2])
            raise ConfigError(
                f"{relative.with_suffix('').as_posix()}: both {first} and {second} have this"
                " choice; rename one of the two files, or uninstall a package"
            )


def _is_ours(relative: Path) -> bool:
    """Whether Hydra takes this file from firstlight, whose folder comes first."""
    return Path(conf_dir(), relative).is_file()


def _named(parts: list[Part], overrides: list[str]) -> list[tuple[Path, bool]]:
    """What `overrides` and the chosen files name, and whether it is one of our own that does."""
    named: list[tuple[str, Any, bool]] = []
    for override in parse_overrides(overrides):
        if not override.is_sweep_override() and not override.is_delete():
            named.append((override.key_or_group, override.value(), False))
    for part in parts:
        by_us = _is_ours(part.relative)
        for key, names in defaults_of(part.content):
            group = key.partition("@")[0] or part.relative.parent.as_posix()
            named.append((group, names, by_us))
    found: list[tuple[Path, bool]] = []
    for group, names, by_us in named:
        for name in names if isinstance(names, list) else [names]:
            found.append((Path(group) / f"{name}.yaml", by_us))
    return found


def _in_lists(named: list[tuple[Path, bool]], folders: list[Path]) -> Iterator[Path]:
    """Yield the files that are chosen in lists, such as callbacks/default of [default,plots].

    `chosen_in` only knows the sections that they hold.
    """
    for name, _ in named:
        if str(name.parent) in LIST_GROUPS:
            for part in with_bases(name, str(name.parent), folders):
                yield part.relative


def _owner(folder: Path) -> str:
    """Whose folder of the config this is, for a message."""
    if folder == Path(conf_dir()):
        return "firstlight"
    for package in found().packages:
        if package.conf == folder:
            return str(package)
    return f"--config-dir {folder}"
