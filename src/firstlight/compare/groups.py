"""Runs of one config and several seeds are repetitions of it; what configs differ in."""

import json
from dataclasses import dataclass
from typing import Any

from firstlight.compare.runs import Run
from firstlight.runs.flat_config import flatten

NOT_COMPARED = (
    *("seed", "order.seed", "name", "output_dir", "resume", "logger", "callbacks", "metrics", "compile", "on_nan"),
    *("data.num_workers", "data.eval_batches", "data.untrained_eval_batches", "data.eval_last_window"),
    *("trainer.eval_", "trainer.log_", "trainer.enable_"),
)
"""Keys that change no number of training, and the seed, which repeats it."""
CHANGES_TRAINING = "early_stopping"
"""The one callback that does."""
NOTHING = "-"
"""Shown for a key that a config does not have."""


@dataclass(frozen=True)
class Group:
    """A config and its repetitions. `settings` are the values of the keys in which the compared configs differ."""

    label: str
    settings: dict[str, str]
    runs: list[Run]


def _settings(run: Run) -> dict[str, Any]:
    """What makes its config another one, by dotted key."""
    stopping = (run.config.get("callbacks") or {}).get(CHANGES_TRAINING)
    more = flatten({"callbacks": {CHANGES_TRAINING: stopping}}) if stopping else {}
    return flatten(run.config, NOT_COMPARED) | more


def group_runs(runs: list[Run]) -> tuple[list[Group], list[str]]:
    """The configs among `runs`, in the order in which they come first, and notes.

    Of runs of one config and one seed only that which was written last is kept, as the others say nothing new.
    """
    members: dict[str, dict[int, Run]] = {}
    firsts: list[dict[str, Any]] = []
    notes = []
    for run in runs:
        values = _settings(run)
        key = json.dumps(values, sort_keys=True, default=str)
        if key not in members:
            members[key] = {}
            firsts.append(values)
        if twin := members[key].get(run.seed):
            older, run = sorted((twin, run), key=lambda run: run.written)
            notes.append(f"{older.name} is left out: {run.name} has the same config and seed, and is newer")
        members[key][run.seed] = run
    keys = list(dict.fromkeys(key for values in firsts for key in values))
    differing = [key for key in keys if len({_shown(values, key) for values in firsts}) > 1]
    groups = []
    for seeds, values in zip(members.values(), firsts, strict=True):
        settings, kept = {key: _shown(values, key) for key in differing}, list(seeds.values())
        groups.append(Group(_label(settings, kept[0]), settings, kept))
    return groups, notes


def _shown(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return NOTHING
    value = values[key]
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _label(settings: dict[str, str], run: Run) -> str:
    """What a config is called: by what it differs in, if that is short, else by its run."""
    text = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items() if value != NOTHING)
    return text if text and len(text) <= 60 else run.name
