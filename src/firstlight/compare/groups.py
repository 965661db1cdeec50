"""Groups of runs: those whose configs differ in the seed alone are repetitions of one config."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.compare.runs import Run
from firstlight.compose.chosen import keys_with_bases
from firstlight.compose.keys import is_within
from firstlight.compose.yaml_files import choices, following_groups
from firstlight.conf_files import conf_dirs
from firstlight.optim.base import steps_of
from firstlight.runs.chosen import chosen_names
from firstlight.runs.flat_config import flatten
from firstlight.runs.later_keys import LATER_SECTIONS

IGNORED_KEYS = (
    *(
        "seed",
        "order.seed",
        "name",
        "output_dir",
        "resume",
        "logger",
        "callbacks",
        "metrics",
        "compile",
        "on_nan",
        "on_spike",
    ),
    *(
        "data.num_workers",
        "data.cache_dir",
        "data.eval_batches",
        "data.untrained_eval_batches",
        "data.test_batches",
        "data.eval_last_window",
    ),
    *("trainer.eval_", "trainer.log_", "trainer.enable_"),
)
"""Keys that do not change what is trained, and seeds: runs that differ in these are repetitions."""
CHANGES_TRAINING = "early_stopping"
"""The one callback that changes the training."""
WARMUP = "scheduler.warmup_steps"
NOTHING = "-"
"""Shown for a key that a config does not have."""


@dataclass(frozen=True)
class Group:
    """A config and its repetitions.

    `settings` holds the config's values of the keys in which the compared configs differ.
    """

    label: str
    settings: dict[str, str]
    runs: list[Run]


def group_runs(runs: list[Run]) -> tuple[list[Group], list[str]]:
    """The configs among `runs`, in order of their first run, and notes.

    Of several runs with the same config and seed only the newest is kept: the others say nothing
    new.
    """
    by_config: dict[str, dict[int, Run]] = {}
    values_of: dict[str, dict[str, str]] = {}
    notes = []
    for run, values in zip(runs, _with_one_warmup(list(map(_values, runs))), strict=True):
        # Keys in one order: configs of different versions list them in another.
        config = json.dumps(values, sort_keys=True)
        # The first run decides the order of the keys, which is that of the columns.
        values_of.setdefault(config, values)
        by_seed = by_config.setdefault(config, {})
        twin = by_seed.get(run.seed)
        if twin is not None:
            older, run = sorted((twin, run), key=lambda run: run.written)
            notes.append(
                f"{older.name} is left out: {run.name} has the same config and seed, and is newer"
            )
        by_seed[run.seed] = run
    firsts = [next(iter(by_seed.values())) for by_seed in by_config.values()]
    configs = list(values_of.values())
    derived = derived_keys(firsts, configs)
    if derived:
        notes.append(f"differing as well, by the rules of the model: {', '.join(derived)}")
    groups = []
    for settings, by_seed in zip(
        settings_of(firsts, configs, derived), by_config.values(), strict=True
    ):
        members = list(by_seed.values())
        groups.append(Group(_label(settings, members[0]), settings, members))
    return groups, notes


def _values(run: Run) -> dict[str, str]:
    """The values that make the config of a run another one, as text, by dotted key."""
    # What a run lacks that an earlier version began is null in today's, if nothing was chosen.
    later = {key: None for key, words in LATER_SECTIONS.items() if not words}
    values = flatten({**later, **run.config}, IGNORED_KEYS)
    # Callbacks are ignored on the whole; this one decides how long a run trains.
    stopping = (run.config.get("callbacks") or {}).get(CHANGES_TRAINING)
    if stopping:
        values |= flatten({"callbacks": {CHANGES_TRAINING: stopping}})
    for key, value in values.items():
        if not isinstance(value, str):
            values[key] = json.dumps(value, default=str)
    return values


def _with_one_warmup(configs: list[dict[str, str]]) -> list[dict[str, str]]:
    """The `configs` with warm-ups in steps, where some have a share of the run and some steps.

    Those of earlier versions have the same default in steps.
    """
    parts = {config.get(WARMUP, "") for config in configs}
    if not (any(part.endswith("%") for part in parts) and any(part.isdigit() for part in parts)):
        return configs
    found: list[dict[str, str]] = []
    for config in configs:
        part, max_steps = config.get(WARMUP, ""), config.get("trainer.max_steps", "")
        if part.endswith("%") and max_steps.isdigit():
            config = config | {WARMUP: str(steps_of(part, int(max_steps)))}
        found.append(config)
    return found


def settings_of(
    runs: list[Run], configs: list[dict[str, str]], derived: list[str]
) -> list[dict[str, str]]:
    """What differs between the `configs` of these runs, for each of them, without `derived` keys.

    Keys that differ because another choice of a group was made (model=nano) are shown as one key,
    that of the group, with the names of the choices.
    """
    names = [chosen_names(run.config, run.overrides) for run in runs]
    chosen, given = _choices_that_differ(names), _given(runs)
    differing = [key for key in _differing(configs) if key not in derived]
    group_of: dict[str, str] = {}
    for key in differing:
        if any(is_within(key, other) for other in given if "." in other):
            continue
        values = [config.get(key) for config in configs]
        group = _group_that_decides(key, values, chosen, runs[0].config)
        if group is not None:
            group_of[key] = group
    settings: list[dict[str, str]] = []
    for config, found in zip(configs, names, strict=True):
        row: dict[str, str] = {}
        for key in differing:
            group = group_of.get(key)
            row[group or key] = found[group] if group else config.get(key, NOTHING)
        settings.append(row)
    return settings


def derived_keys(runs: list[Run], configs: list[dict[str, str]]) -> list[str]:
    """The differing keys that rules have decided from what was given: those of model=dial.

    They say nothing that the given keys, such as model.depth, do not say.
    """
    models = {chosen_names(run.config, run.overrides).get("model") for run in runs}
    [model, *others] = models
    if model is None or others:
        return []
    by_rule, given, differing = _keys_of_rules(model), _given(runs), _differing(configs)
    deciding = [key for key in differing if key in given]
    ruled = [key for key in differing if key in by_rule and key not in given]
    return [key for key in ruled if _follows(key, deciding, configs)]


def _keys_of_rules(model: str) -> set[str]:
    """The keys that the rules of a choice of `model` set."""
    found: set[str] = set()
    for group in following_groups():
        for name in choices(group):
            # dial_warmup_cosine has the rules of model=dial for one choice of another group.
            if name == model or name.startswith(f"{model}_"):
                found |= keys_with_bases(Path(group) / f"{name}.yaml", conf_dirs())
    return found


def _follows(key: str, deciding: list[str], configs: list[dict[str, str]]) -> bool:
    """Whether configs with the same values of the keys `deciding` have the same value of `key`.

    Of other rules, those of an earlier version, they would not.
    """
    values: dict[tuple[str | None, ...], str | None] = {}
    for config in configs:
        decision = tuple(config.get(other) for other in deciding)
        if values.setdefault(decision, config.get(key)) != config.get(key):
            return False
    return True


def _given(runs: list[Run]) -> set[str]:
    """The keys that the command lines of the runs have set."""
    given: set[str] = set()
    for run in runs:
        given.update(word.partition("=")[0].lstrip("+") for word in run.overrides)
    return given


def _choices_that_differ(names: list[dict[str, str]]) -> dict[str, list[str]]:
    """The choices of each group of which every run has one, and not all the same."""
    chosen = {}
    for group in names[0]:
        made = [found[group] for found in names if group in found]
        if len(made) == len(names) and len(set(made)) > 1:
            chosen[group] = made
    return chosen


def _group_that_decides(
    key: str,
    values: list[str | None],
    chosen: dict[str, list[str]],
    sections: Mapping[str, Any],
) -> str | None:
    """The first group whose choices decide the values of a key; None if none does."""
    for group, made in chosen.items():
        # A group that is no section, such as experiment, has keys in several.
        may_decide = group not in sections or is_within(key, group)
        # It decides if there is one value only with each choice.
        if may_decide and len(set(zip(made, values, strict=True))) == len(set(made)):
            return group
    return None


def _differing(configs: list[dict[str, str]]) -> list[str]:
    """The keys that do not have the same value in all configs."""
    keys: dict[str, None] = {}  # in order, each once
    for config in configs:
        keys |= dict.fromkeys(config)
    differing = []
    for key in keys:
        values = {config.get(key) for config in configs}
        if len(values) > 1:
            differing.append(key)
    return differing


def _label(settings: dict[str, str], run: Run) -> str:
    """The settings in which a config differs, if that is short, else the name of its run."""
    words = []
    for key, value in settings.items():
        name = key.rpartition(".")[2]
        if value != NOTHING:
            words.append(f"{name}={value}")
    text = " ".join(words)
    return text if 0 < len(text) <= 60 else run.name
