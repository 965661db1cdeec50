"""Keys that were added to the config of runs in a later version, and what runs without them do."""

from dataclasses import dataclass, field
from typing import Any

from firstlight.config import takes

# A new key of conf/ that decides the numbers of a run must be added to one of the two tables, or
# sweeps that were planned before it cannot be resumed.
LATER_KEYS: dict[str, Any] = {
    "data.eval_last_window": False,
    "data.test_batches": None,
    "data.format": "text",
    "data.field": "text",
    "data.cache_dir": None,
    "trainer.num_nodes": 1,
    "trainer.timeout": 120,
    "trainer.activation_checkpointing": False,
    "trainer.virtual_shards": None,
}
"""Keys (SECTION.NAME), with the value that a run or sweep has whose stored config lacks them."""
LATER_SECTIONS: dict[str, tuple[str, ...]] = {
    "loss": ("~loss",),
    # None where the default of conf/ is what every run did before there was a choice.
    "metrics": (),
    "freeze": (),
    "lr_scale": (),
    "parametrization": (),
    "on_spike": (),
}
"""Sections, and keys outside of sections, with the overrides by which trials do without them."""
EARLIER_DEFAULTS: dict[str, dict[str, Any]] = {"data.test_batches": {"data.test_ratio": 0.0}}
"""Defaults of conf/ that were others before there was a key of `LATER_KEYS`."""
CHANGED_DEFAULTS: dict[str, Any] = {"scheduler.warmup_steps": 20}
"""Defaults of conf/ that have changed with no new key to tell it."""


@dataclass(frozen=True)
class Earlier:
    """How an earlier version differs from this one; nothing of what this version has made."""

    lacks: dict[str, Any] = field(default_factory=dict)
    """Keys that it did not know, with the values that it implied; see `lacking`."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Keys that have its default, where today's is another."""

    @classmethod
    def of(cls, stored: dict[str, Any]) -> "Earlier":
        """What the stored config of a run or sweep tells of its version."""
        lacks = lacking(stored)
        defaults: dict[str, Any] = {}
        for marker in EARLIER_DEFAULTS.keys() & lacks.keys():
            for key, value in EARLIER_DEFAULTS[marker].items():
                section, name = key.split(".")
                # Another value was given by a file of the user's, which still gives it.
                if stored[section].get(name) == value:
                    defaults[key] = value
        for key, value in CHANGED_DEFAULTS.items():
            section, name = key.split(".")
            # Where a file of the user's gives it, it is given twice, and is the same.
            if repr(stored.get(section, {}).get(name)) == repr(value):
                defaults[key] = value
        return cls(lacks, defaults)


THIS_VERSION = Earlier()


def lacking(stored: dict[str, Any]) -> dict[str, Any]:
    """Return what the stored config of a run or sweep lacks.

    Keys have their value, sections None.

    A key counts only if what its section builds would take it.
    """
    found: dict[str, Any] = {section: None for section in LATER_SECTIONS if section not in stored}
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
