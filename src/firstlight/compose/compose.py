"""Compose a config from overrides, and explain what is wrong with them."""

import json
import math
import re
from collections.abc import Iterator
from functools import partial

from hydra.core.override_parser.types import Glob
from omegaconf import DictConfig, OmegaConf, open_dict

from firstlight.compose.chosen import ambiguous_files, check_unambiguous, merged_files
from firstlight.compose.explain import explained, no_such_choice
from firstlight.compose.grammar import MOST_TRIALS, examples_of
from firstlight.compose.hydra_calls import composed, is_about_hydra, parse_overrides
from firstlight.compose.lengths import with_one_length
from firstlight.compose.mistakes import Mistaken, mistaken
from firstlight.compose.yaml_files import choices, following_groups
from firstlight.errors import ConfigError
from firstlight.interpolation import as_typed
from firstlight.overrides import key_of


def compose_config(
    verb: str, overrides: list[str], config_dir: str | None = None, *, with_hydra: bool = False
) -> DictConfig:
    """Compose `conf/<verb>.yaml` with `overrides`; `with_hydra` keeps Hydra's own section.

    Raises:
        ConfigError: one line with the override, what is wrong, and what may have been meant.
    """
    _check_optional(overrides, config_dir)
    with explained(verb, overrides, config_dir):
        # Only with Hydra's section is it known which files were chosen.
        config = composed(verb, overrides, config_dir, with_hydra=True)
    ambiguous = ambiguous_files(config_dir)
    if ambiguous:
        check_unambiguous(verb, config, overrides, config_dir, ambiguous)
    files = partial(merged_files, verb, config, config_dir)
    with_one_length(config, parse_overrides(overrides), files)
    if not with_hydra:
        with open_dict(config):
            del config["hydra"]
    return config


def _check_optional(overrides: list[str], config_dir: str | None) -> None:
    """Check the choices of groups that are optional: Hydra leaves out one that does not exist.

    Raises:
        Mistaken: there is no such choice.
    """
    optional, problems = following_groups(), dict[str, str]()
    for override in parse_overrides([word for word in overrides if key_of(word) in optional]):
        group, options = override.key_or_group, choices(override.key_or_group, config_dir)
        # Several values are refused elsewhere, or are of a sweep, which composes each.
        if override.is_delete() or override.is_sweep_override():
            continue
        choice = str(override.value())
        if choice not in options:
            problems[str(override.input_line)] = no_such_choice(group, choice, options)
    if problems:
        raise mistaken(problems, overrides, config_dir)


def check_single_values(verb: str, overrides: list[str], *, sweep: str = "add -m") -> None:
    """Check that no override has several values, as those of a sweep have.

    `sweep` says how a sweep of `train` is begun.

    Raises:
        Mistaken: some have, or Hydra's grammar refuses some.
    """
    problems: dict[str, str] = {}
    for text, override in zip(overrides, parse_overrides(overrides), strict=True):
        if override.is_sweep_override():
            way = sweep if verb == "train" else f"call {verb} once for each"
            problems[text] = (
                f"{text}: several values make a sweep; {way}, or quote the value ('key=\"a,b\"')"
            )
    if problems:
        raise mistaken(problems, overrides)


def check_trials(verb: str, overrides: list[str], config_dir: str | None) -> DictConfig:
    """Compose the first trial of a sweep, and each choice of a group, before it makes its folder.

    The other values are checked when the sweep is planned, which takes longer. Returns the config
    of the first trial, with Hydra's section.

    Raises:
        Mistaken: some of them cannot be composed.
    """
    # All of them first: what is wrong with the values is found before any is composed.
    first, *others = _trials(overrides, config_dir)
    config, refused, rest = None, list[str](), first
    try:
        config = compose_config(verb, first, config_dir, with_hydra=True)
    except Mistaken as error:
        refused, rest = str(error).split("\n"), error.rest
    for trial in others:
        # What is wrong with the first trial is not said again of each.
        words = [word for word in trial if word in rest or word not in first]
        try:
            compose_config(verb, words, config_dir)
        except Mistaken as error:
            refused += str(error).split("\n")
    if refused or config is None:
        raise Mistaken("\n".join(dict.fromkeys(refused)), rest)
    return config


def _trials(overrides: list[str], config_dir: str | None) -> Iterator[list[str]]:
    """Yield overrides of single trials in which each choice of a group occurs.

    Choices are varied one key at a time, the other keys at their first value: a misspelt choice is
    found in as many trials as there are choices, not points of the grid.
    """
    groups: list[bool] = []
    values_by_key: list[list[str]] = []
    swept: list[str] = []
    for text, override in zip(overrides, parse_overrides(overrides), strict=True):
        groups.append(bool(choices(override.key_or_group, config_dir)))
        if override.is_sweep_override():
            if is_about_hydra(text):
                raise ConfigError(f"{override.key_or_group}: cannot be swept over")
            swept.append(override.get_key_element())
            values_by_key.append(examples_of(override))
        else:
            values_by_key.append([text])
    if math.prod(map(len, values_by_key)) > MOST_TRIALS:
        raise ConfigError(
            f"a sweep has at most {MOST_TRIALS:,} jobs; give fewer values to {', '.join(swept)}"
        )
    first = [values[0] for values in values_by_key]
    yield first
    for position, values in enumerate(values_by_key):
        for value in values[1:] if groups[position] else ():
            yield [*first[:position], value, *first[position + 1 :]]


def listed(text: str, config_dir: str | None) -> str:
    """Replace the glob(...) of an override by the choices of its group that it matches.

    Raises:
        ConfigError: it matches none.
    """
    # Most overrides have none, and are not parsed here.
    if not re.match(r"[^=]*=\s*(tag\(.*)?glob\(", text):
        return text
    [override] = parse_overrides([text])
    glob = override.value()
    if not isinstance(glob, Glob):
        return text
    group = override.key_or_group
    options = choices(group, config_dir)
    if not options:
        raise ConfigError(f"{text}: glob(...) needs a group, and {group} is not one")
    names = glob.filter(options)
    if not names:
        raise ConfigError(f"{text}: matches no option of {group} ({', '.join(options)})")
    return f"{override.get_key_element()}={','.join(names)}"


def to_yaml(config: DictConfig, package: str | None = None, *, resolve: bool = False) -> str:
    """Write a composed config, or its section `package`, as `--cfg job` prints it.

    Raises:
        ConfigError: the section does not exist.
    """
    if package in (None, "_global_"):
        node, header = config, ""
    else:
        node, header = OmegaConf.select(config, package, default=...), f"# @package {package}\n"
    if node is ...:  # a value may be None
        raise ConfigError(f"--package {package}: no such section")
    if not OmegaConf.is_config(node):  # a value
        return f"{as_typed(node if isinstance(node, str) else json.dumps(node))}\n"
    if resolve:
        OmegaConf.resolve(node)
    return as_typed(header + OmegaConf.to_yaml(node))


def slug(text: str) -> str:
    """Make a folder name of the overrides of a trial: lr-1e-3_seed-1 of lr=1e-3,seed=1."""
    name = re.sub(r"[^\w.+-]+", "_", text.replace("=", "-"))
    # A file system counts bytes: the last letter may have been cut in two.
    return name.encode()[:120].decode(errors="ignore")
