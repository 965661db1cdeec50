"""Student's t distribution with fractional degrees of freedom; torch and numpy have none."""

import math
from functools import lru_cache

import numpy as np

# Nodes and weights of Gauss-Legendre quadrature on [-1, 1].
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(400)


def two_sided(t: float, degrees: float) -> float:
    """The probability of a value as far from 0 as `t`.

    With t = sqrt(degrees) tan(a) the density becomes cos(a) ** (degrees - 1), which is integrated
    by Gauss-Legendre.
    """
    angle = math.atan(abs(t) / math.sqrt(degrees))
    half = (math.pi / 2 - angle) / 2
    angles = angle + half * (NODES + 1)
    # The integral of cos(a) ** (degrees - 1) over the half circle, by which the density is
    # normalised.
    log_area = math.log(math.pi) / 2 + math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2)
    return float(2 * half * (NODE_WEIGHTS @ np.cos(angles) ** (degrees - 1)) / math.exp(log_area))


@lru_cache(maxsize=4096)
def quantile(probability: float, degrees: float) -> float:
    """The t below which a value is with `probability`, in [0.5, 1); found by bisection."""
    tails = 2 * (1 - probability)
    # Double `high` until the value is below it, then halve the interval down to float precision.
    low, high = 0.0, 1.0
    while two_sided(high, degrees) > tails:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if two_sided(middle, degrees) > tails:
            low = middle
        else:
            high = middle
    return (low + high) / 2
