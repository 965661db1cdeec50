"""The measurements of a scaling ladder: models of several sizes at equal compute, checked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from firstlight.errors import ConfigError
from firstlight.statistics.arrays import numbers
from firstlight.statistics.text import Floats


@dataclass(frozen=True)
class Rung:
    """A size of model at a budget of compute, trained at several learning rates and seeds.

    `losses` (rates, seeds) are final losses; `rates` (rates,) learning rates in rising order, and
    `seeds` are at least one. `compute` is the budget in FLOPs, by which rungs are compared;
    `parameters` and `tokens` are what was trained, and on how much.
    """

    compute: float
    parameters: float
    tokens: float
    rates: Sequence[float]
    losses: ArrayLike


@dataclass(frozen=True)
class Tuned:
    """A rung at its best rate, that of the lowest mean over the seeds."""

    rung: Rung
    rate: float
    losses: Floats
    """Of each seed (seeds,)."""
    at_edge: str
    """"lowest" or "highest" if the best rate is the first or the last of those tried; else ""."""

    @property
    def mean(self) -> float:
        return float(self.losses.mean())


def tuned(rung: Rung) -> Tuned:
    """A rung at its best rate.

    Raises:
        ConfigError: its arrays do not fit together, or hold something that is not finite.
    """
    rates, losses = numbers("rates", rung.rates), numbers("losses", rung.losses)
    is_whole = losses.ndim == 2 and losses.shape[0] == len(rates) and losses.size > 0
    if rates.ndim != 1 or not is_whole or (np.diff(rates) <= 0).any():
        raise ConfigError("rung: losses must be (rates, seeds), and rates rise")
    sizes = numbers("rung", [rung.compute, rung.parameters, rung.tokens])
    if (sizes <= 0).any() or (losses <= 0).any() or (rates <= 0).any():
        raise ConfigError("rung: compute, parameters, tokens, rates and losses must be above 0")
    best = int(losses.mean(axis=1).argmin())
    at_edge = {0: "lowest", len(rates) - 1: "highest"}.get(best, "")
    return Tuned(rung, float(rates[best]), losses[best], at_edge)
