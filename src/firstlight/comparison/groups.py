"""Runs of one config and several seeds are repetitions of it; what configs differ in."""

import json
from dataclasses import dataclass
from typing import Any

from firstlight.comparison.runs import Run
from firstlight.training.flat_config import flatten

NOT_COMPARED = (
    *("seed", "order.seed", "name", "output_dir", "resume", "logger", "callbacks", "compile", "on_nan"),
    *("data.num_workers", "data.eval_batches", "data.untrained_eval_batches"),
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


def without_twins(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Of runs of one config and one seed only that which was written last, as they say nothing new; and notes."""
    kept: dict[tuple[str, int], Run] = {}
    notes = []
    for run in sorted(runs, key=lambda run: run.written):
        twin = kept.get(key := (json.dumps(_settings(run), sort_keys=True, default=str), run.seed))
        if twin is not None:
            notes.append(f"{twin.name} is left out: {run.name} has the same config and seed, and is newer")
        kept[key] = run
    return [run for run in runs if run in kept.values()], notes


def _settings(run: Run) -> dict[str, Any]:
    """What makes its config another one, by dotted key."""
    stopping = (run.config.get("callbacks") or {}).get(CHANGES_TRAINING)
    more = flatten({"callbacks": {CHANGES_TRAINING: stopping}}) if stopping else {}
    return flatten(run.config, NOT_COMPARED) | more


def group_runs(runs: list[Run]) -> list[Group]:
    """The configs among `runs`, in the order in which they come first."""
    flat = [_settings(run) for run in runs]
    members: dict[str, list[int]] = {}
    for n, values in enumerate(flat):
        members.setdefault(json.dumps(values, sort_keys=True, default=str), []).append(n)
    firsts = [flat[indices[0]] for indices in members.values()]
    keys = list(dict.fromkeys(key for values in firsts for key in values))
    differing = [key for key in keys if len({_shown(values, key) for values in firsts}) > 1]
    groups = []
    for indices, values in zip(members.values(), firsts, strict=True):
        settings = {key: _shown(values, key) for key in differing}
        groups.append(Group(_label(settings, runs[indices[0]]), settings, [runs[n] for n in indices]))
    return groups


def _shown(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return NOTHING
    value = values[key]
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _label(settings: dict[str, str], run: Run) -> str:
    """What a config is called: by what it differs in, if that is short, else by its run."""
    text = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items() if value != NOTHING)
    return text if text and len(text) <= 60 else run.name
