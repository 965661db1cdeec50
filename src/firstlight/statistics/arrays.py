"""What the functions of this package are given, checked."""

import numpy as np
from numpy.typing import ArrayLike

from firstlight.errors import ConfigError
from firstlight.statistics.text import Floats


def check_confidence(confidence: float) -> None:
    """Refuse a confidence with which an interval would mean nothing.

    Raises:
        ConfigError: it is one.
    """
    if not 0.5 <= confidence < 1:
        raise ConfigError(f"confidence ({confidence}) must be at least 0.5 and below 1")


def check_weights(tokens: ArrayLike) -> Floats:
    """The weights of windows (windows,), which add up to 1.

    Raises:
        ConfigError: they are not one positive number for each.
    """
    weights = numbers("tokens", tokens)
    if weights.ndim != 1 or len(weights) == 0 or not (weights > 0).all():
        raise ConfigError("tokens: one positive number for each window")
    return weights / weights.sum()


def numbers(what: str, values: ArrayLike) -> Floats:
    """`values` as an array.

    Raises:
        ConfigError: they are not numbers, or not finite; `what` they are, for the message.
    """
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: not an array of numbers ({error})") from None
    if not np.isfinite(found).all():
        raise ConfigError(f"{what}: holds nan or inf; leave diverged runs out")
    return found
