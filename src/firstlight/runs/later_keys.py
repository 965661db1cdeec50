"""Keys that were added to the config of runs in a later version, and what runs without them do."""

from typing import Any

from firstlight.config import takes

LATER_KEYS: dict[str, Any] = {"data.eval_last_window": False}
"""Keys (SECTION.NAME), with the value that a run or sweep has whose stored config lacks them. A new
key of conf/ that decides the numbers of a run must be added here, or sweeps planned before it
cannot be resumed."""
LATER_SECTIONS = ("loss",)
"""Sections without which a run behaves as runs did before the section existed."""
WITH_OLD_DEFAULT = ("metrics", "freeze", "lr_scale")
"""Sections, and keys outside of sections, likewise, but their default is what runs without them
do."""


def lacking(stored: dict[str, Any]) -> dict[str, Any]:
    """What the stored config of a run or sweep lacks: keys of LATER_KEYS with their value, sections
    with None.

    A key counts only if what its section builds would take it.
    """
    found: dict[str, Any] = {}
    for section in (*LATER_SECTIONS, *WITH_OLD_DEFAULT):
        if section not in stored:
            found[section] = None
    for key, value in LATER_KEYS.items():
        section, name = key.split(".")
        node = stored.get(section)
        if isinstance(node, dict) and name not in node and takes(node, name, value):
            found[key] = value
    return found


def without(config: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """A copy of the config without `keys`, which are sections or SECTION.NAME."""
    kept = dict(config)
    for key in keys:
        section, _, name = key.partition(".")
        if not name:
            kept.pop(key, None)
        elif isinstance(kept.get(section), dict):
            kept[section] = {
                other: value for other, value in kept[section].items() if other != name
            }
    return kept
