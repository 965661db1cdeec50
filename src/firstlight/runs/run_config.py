"""A whole config of a run as data, and the changes that make short runs of it."""

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from firstlight.config import build


@dataclass(frozen=True)
class RunConfig:
    """A whole config, as it is built and as it is stored.

    `stored` has references to the environment, `plain` has their values.
    """

    plain: dict[str, Any]
    stored: dict[str, Any]

    def changed(self, changes: dict[str, Any]) -> Self:
        """A copy with the values of `changes`, which is nested like the config."""
        return type(self)(_changed(self.plain, changes), _changed(self.stored, changes))


def _changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    config = dict(config)
    for key, value in changes.items():
        config[key] = _changed(config[key], value) if isinstance(value, dict) else value
    return config


def shortened_warmup(scheduler: dict[str, Any], steps: int) -> dict[str, int]:
    """The change to `scheduler` that fits its warm-up to `steps` steps; empty if it fits."""
    if "warmup_steps" not in scheduler:
        return {}
    # As it is, a quarter of the run, none: the first that the schedule accepts.
    for change in ({}, {"warmup_steps": steps // 4}, {"warmup_steps": 0}):
        with suppress(ValueError):
            # Any peak will do here: the learning rates are checked with the run itself.
            build(scheduler | change, "scheduler").check(max_steps=steps, peak=math.inf)
            return change
    return {}
