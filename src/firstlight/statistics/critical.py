"""How many standard errors a difference must measure before it is more than chance.

Both numbers are for differences of k means that were chosen by looking at all of them, and have a
variance with `degrees` degrees of freedom.
"""

import math
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

NODES = 200
"""Points of either quadrature. With 400 the quantiles change by less than 1e-5 of themselves."""


def all_pairs(k: int, degrees: float, alpha: float) -> float:
    """Tukey's: any of all k (k - 1) / 2 differences is larger with probability `alpha`.

    In standard errors of a difference, which are sqrt(2) of those of a mean.
    """
    if k == 2:  # Student's, which takes no time
        return float(stats.t.isf(alpha / 2, degrees))
    return _studentized_range(k, _rounded_down(degrees), alpha) / 2**0.5


def to_the_best(k: int, degrees: float, alpha: float) -> float:
    """Dunnett's, one-sided: any of k - 1 differences from one config is larger so.

    It is what Hsu (1984) needs for the configs that could be the best.
    """
    if k == 2:
        return float(stats.t.isf(alpha, degrees))
    return _dunnett(k, _rounded_down(degrees), alpha)


def _rounded_down(degrees: float) -> float:
    """To two digits, so that few quantiles are computed: each takes some hundredths of a second.

    Fewer degrees of freedom ask for a larger difference, so this errs on the side of caution.
    """
    step = 10.0 ** (math.floor(math.log10(degrees)) - 1)
    # What is whole but for an error of rounding stays whole.
    return round(math.floor(degrees / step + 1e-9) * step, 9)


@lru_cache(maxsize=4096)
def _studentized_range(k: int, degrees: float, alpha: float) -> float:
    return float(stats.studentized_range.isf(alpha, k, degrees))


@lru_cache(maxsize=4096)
def _dunnett(k: int, degrees: float, alpha: float) -> float:
    # P(all Z_j - Z_0 <= sqrt(2) d s), with Z normal and s the estimated standard deviation, whose
    # square times `degrees` is chi squared. Both are integrated over their quantiles.
    points, weights = np.polynomial.legendre.leggauss(NODES)
    shares, weights = (points + 1) / 2, weights / 2
    spreads = np.sqrt(stats.chi2.ppf(shares, degrees) / degrees)  # (NODES,)
    of_the_one = stats.norm.ppf(shares)[:, None]  # (NODES, 1)

    def excess(d: float) -> float:
        below = stats.norm.cdf(of_the_one + 2**0.5 * d * spreads) ** (k - 1)
        return float(weights @ below @ weights) - (1 - alpha)

    low, high = 0.0, 1.0
    while excess(high) < 0:
        low, high = high, 2 * high
    return float(optimize.bisect(excess, low, high, xtol=1e-6 * high))  # type: ignore[arg-type]
