"""A whole config of a run as data, and the changes that make short runs of it."""

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from firstlight.config import build


@dataclass(frozen=True)
class RunConfig:
    """A whole config: `plain` as it is built; `stored` as it is kept, with text for what came from the environment."""

    plain: dict[str, Any]
    stored: dict[str, Any]

    def changed(self, changes: dict[str, Any]) -> Self:
        """With the values of `changes`, nested as they are, in place of its own."""
        return type(self)(_changed(self.plain, changes), _changed(self.stored, changes))


def _changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    nested = {key: _changed(config[key], value) for key, value in changes.items() if isinstance(value, dict)}
    return config | changes | nested


def shortened_warmup(scheduler: dict[str, Any], steps: int) -> dict[str, int]:
    """The change of `scheduler` that lets it serve a run of `steps`, if its warm-up is what keeps it from that."""
    if "warmup_steps" not in scheduler:
        return {}
    for change in ({}, {"warmup_steps": steps // 4}, {"warmup_steps": 0}):
        with suppress(ValueError):
            build(scheduler | change, "scheduler").check(max_steps=steps, peak=math.inf)  # the rates are the run's
            return change
    return {}
