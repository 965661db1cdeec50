"""Keys that the config of a run has had since a later version: what an earlier one did is what its records lack."""

from typing import Any

from firstlight.config import takes

LATER_KEYS: dict[str, Any] = {"data.eval_last_window": False}
"""Keys (SECTION.NAME), and what runs and sweeps do whose stored config lacks them. A new key of conf/ that decides the
numbers of a run is added here, or no sweep that was planned before it can be resumed."""
LATER_SECTIONS = ("loss",)
"""Sections likewise, without which a run does what runs did before there were any."""
METRICS = "metrics"
"""A section likewise, but its default is what runs without it do."""


def lacking(stored: dict[str, Any]) -> dict[str, Any]:
    """The keys of LATER_KEYS that the stored config of a run or sweep could have and lacks, with what it did; of
    the sections those that it lacks, with None."""
    found: dict[str, Any] = {section: None for section in (*LATER_SECTIONS, METRICS) if section not in stored}
    for key, value in LATER_KEYS.items():
        section, _, name = key.partition(".")
        node = stored.get(section)
        if isinstance(node, dict) and name not in node and takes(node, name, value):
            found[key] = value
    return found


def without(config: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """A config as it was before it had `keys`."""
    kept = {key: value for key, value in config.items() if key not in keys}
    for key in keys:
        section, _, name = key.partition(".")
        if isinstance(kept.get(section), dict):
            kept[section] = {other: value for other, value in kept[section].items() if other != name}
    return kept
