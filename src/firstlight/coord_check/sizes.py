"""The settings of a model at another width."""

import math
from collections.abc import Sequence
from typing import Any

from firstlight.errors import ConfigError


def at_width(model: dict[str, Any], width: int, grow: Sequence[str]) -> dict[str, int]:
    """The changes to the section `model` that make it `width` wide.

    The first of the keys `grow` is the width; the others that it has grow in proportion, so that
    heads stay as wide, and feed-forwards as much wider than the model.

    Raises:
        ConfigError: the model has no such key, or another one would be no whole number.
    """
    have = _whole(model, grow[0])
    if have is None:
        raise ConfigError(
            f"coord_check.grow: model has no {grow[0]} that is a whole number; name the keys of"
            " model that grow with its width, the width itself first"
        )
    changes = {grow[0]: width}
    for key in grow[1:]:
        value = _whole(model, key)
        if value is None:
            continue
        changes[key], rest = divmod(value * width, have)
        if rest:
            raise ConfigError(
                f"coord_check.widths ({width}): model.{key} ({value} at a width of {have}) would be"
                f" {value * width / have:.4g}; take multiples of {_unit(model, have, grow)}, or"
                f" another model.{key}"
            )
    return changes


def _unit(model: dict[str, Any], have: int, grow: Sequence[str]) -> int:
    """The width of which all widths with whole numbers are multiples."""
    found = [_whole(model, key) for key in grow[1:]]
    return math.lcm(*(have // math.gcd(have, value) for value in found if value is not None))


def _whole(model: dict[str, Any], key: str) -> int | None:
    """A whole number above 0 in the section `model`; None if something else stands there."""
    value = model.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
