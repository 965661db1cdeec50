"""How much a mean over windows of text varies from text to text, where neighbours are alike.

The variance of the mean of a series whose neighbours are correlated is its spectrum at frequency
zero, divided by its length. It is estimated from the series' lowest cosine frequencies (the equally
weighted cosine estimator: Müller 2007; Lazarus, Lewis, Stock and Watson 2018), each of which is one
degree of freedom. Few of them cost power, and many are wrong about texts whose neighbours are much
alike; they are chosen here such that neighbours may be correlated up to NEIGHBOURS, and what is
left of the error in that case is taken out. Below it, the variance is overestimated.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NEIGHBOURS = 0.8
"""The correlation of neighbouring windows up to which the verdicts hold."""


class Frequencies(NamedTuple):
    """The cosines that a series of a certain length is measured with: (n, windows).

    `correction` makes their mean square the variance of the series' mean, if neighbours are
    correlated by NEIGHBOURS.
    """

    cosines: Floats
    correction: float


def number_of_frequencies(windows: int) -> int:
    """How many cosines a series of so many windows is measured with; none for a single window."""
    if windows < 2:
        return 0
    # 20 windows: at NEIGHBOURS a window tells nothing of one that is 20 further on (0.8 ** 20 is
    # 1 %). The power of 2/3 is that of Lazarus et al., for series that are correlated for longer.
    return max(1, round(min(windows / 20, 0.4 * windows ** (2 / 3))))


@lru_cache(maxsize=64)
def frequencies(windows: int) -> Frequencies:
    """The cosines for a series of so many windows, of which there must be two."""
    n = number_of_frequencies(windows)
    places = (np.arange(windows) + 0.5) / windows
    cosines = np.sqrt(2 / windows) * np.cos(np.pi * np.arange(1, n + 1)[:, None] * places)
    # The covariances of a series with correlation NEIGHBOURS are NEIGHBOURS ** distance. Both sums
    # over them, c' C c for each cosine c, are taken as convolutions: C would be windows squared.
    of_mean = _quadratic(np.full(windows, 1 / windows))
    of_cosines = [_quadratic(cosine) / windows for cosine in cosines]
    return Frequencies(cosines, of_mean / float(np.mean(of_cosines)))


def _quadratic(weights: Floats) -> float:
    """The variance of a weighted sum over a series with correlation NEIGHBOURS and variance 1."""
    # What all earlier places add to a place shrinks by NEIGHBOURS from each to the next.
    carried = total = 0.0
    for weight in weights.tolist():
        carried *= NEIGHBOURS
        total += weight * (weight + 2 * carried)
        carried += weight
    return total


def variances_of_means(series: Floats, weights: Floats) -> Floats:
    """The variance, over texts, of the weighted mean over windows of each series.

    `series` is (..., windows), `weights` (windows,) adds up to 1; the result is (...).
    """
    windows = len(weights)
    means = series @ weights
    # A window's share in the mean's error; the mean of all of them is 0.
    shares = (series - means[..., None]) * weights * windows
    cosines, correction = frequencies(windows)
    return correction * ((shares @ cosines.T) ** 2).mean(axis=-1) / windows
