"""Read several values of one key: `1,2`, `range(1,5)`, `interval(0,1)`, `tag(log, ...)`.

This is the only place where they are read: for `firstlight train -m`, and for the checks before it.
"""

import random
from itertools import islice
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from hydra.errors import HydraException

from firstlight.errors import ConfigError, one_line

MOST_TRIALS = 1000
"""Trials of a sweep, and values of one key; each takes a third of a second to compose."""
TAGS = {"log", "int"}
"""Tags of an interval: draw on a logarithmic scale, draw whole numbers."""


def interval_of(override: Override) -> IntervalSweep | None:
    """The interval from which values are drawn; None if the override lists its values.

    Raises:
        ConfigError: the interval has an unknown tag, or nothing can be drawn between its ends.
    """
    interval = override.value()
    if not isinstance(interval, IntervalSweep):
        return None
    unknown = interval.tags - TAGS
    if unknown:
        raise ConfigError(f"{override.input_line}: unknown tag {min(unknown)}; give log or int")
    low, high = interval.start, interval.end
    assert low is not None and high is not None  # Hydra's grammar wants both
    if not low < high:
        raise ConfigError(f"{override.input_line}: its first end must be below its second")
    if "log" in interval.tags and low <= 0:
        raise ConfigError(
            f"{override.input_line}: its first end must be above 0 on a logarithmic scale"
        )
    return interval


def values_of(override: Override, seed: int = 0) -> dict[str, Any]:
    """The values that an override lists, each under an override `key=value`.

    The order of shuffle(...) follows from `seed` and the override: a resumed sweep finds it again.

    Raises:
        ConfigError: it lists no value, too many, or one of them twice.
    """
    key, typed = override.get_key_element(), override.input_line
    try:
        # One more than allowed: range(1,1e12) would not end.
        values = list(islice(override.sweep_iterator(), MOST_TRIALS + 1))
    except (HydraException, ValueError, AttributeError) as error:  # range(1, 5, 0)
        raise not_values(override, error) from None
    if not values:
        raise ConfigError(f"{typed}: no value in it")
    if len(values) > MOST_TRIALS:
        raise ConfigError(f"{key}: a sweep has at most {MOST_TRIALS:,} trials; give fewer values")
    if getattr(override.value(), "shuffle", False):
        # Hydra has shuffled them with Python's global generator, in another order each time.
        values.sort(key=Transformer.str)
        random.Random(f"{seed} {typed}").shuffle(values)
    found: dict[str, Any] = {}
    for value in values:
        text = Transformer.str(value)
        if f"{key}={text}" in found:
            raise ConfigError(
                f"{typed}: {text} is there twice; to repeat a trial with other seeds, give seeds=3"
            )
        found[f"{key}={text}"] = value
    return found


def examples_of(override: Override) -> list[str]:
    """An override for each value that is listed; for an interval one, for its start.

    Raises:
        ConfigError: see `interval_of` and `values_of`.
    """
    interval = interval_of(override)
    if interval is None:
        return list(values_of(override))
    # One is enough to compose: whether a value in between is allowed is checked when it is drawn.
    return [f"{override.get_key_element()}={interval.start}"]


def not_values(override: Override, error: Exception) -> ConfigError:
    """The mistake of an override whose values Hydra or Optuna refuses."""
    return ConfigError(
        f"{override.input_line}: these are not values to sweep over: list them ({one_line(error)})"
    )
