"""A variance that all configs share, and the configs that do not share it.

Ten configs of three seeds each tell together how much a seed matters far better than any two of
them. But a config may vary more than the others, as one that is close to diverging does. It counts
by its own variance (Welch 1947), where that is larger.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from firstlight.statistics.text import Floats

WILD = 0.01
"""A config varies more than the others if chance would do it in so few cases. A larger number finds
more of the wild ones and costs power."""
VERY_WILD = 0.001
"""A config so wild is left out of the common variance as well. With a larger number, the common
variance of equal configs would be too small."""


@dataclass(frozen=True)
class Spread:
    """The variance that configs share, its degrees of freedom, and which configs are wilder."""

    common: float
    degrees: float
    is_wild: NDArray[np.bool_]
    """(configs,)"""


def pooled(variances: Floats, degrees: Floats) -> Spread:
    """The common variance of configs with these `variances` and `degrees`, (configs,) each."""
    sums = variances * degrees
    chances = np.ones(len(variances))
    degrees_of_others, sum_of_others = degrees.sum() - degrees, sums.sum() - sums
    # Of two configs neither is the rule: what they share is compared in another way.
    can_tell = (degrees > 0) & (degrees_of_others > 0) & (sum_of_others > 0)
    if len(variances) > 2 and can_tell.any():
        of_others = sum_of_others[can_tell] / degrees_of_others[can_tell]
        chances[can_tell] = stats.f.sf(
            variances[can_tell] / of_others, degrees[can_tell], degrees_of_others[can_tell]
        )
    kept = chances >= VERY_WILD
    left = float(degrees[kept].sum())
    return Spread(float(sums[kept].sum()) / left, left, chances < WILD)
