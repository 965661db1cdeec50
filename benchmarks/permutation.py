"""Measure how evenly the permutation of a large epoch spreads windows over places.

    .venv/bin/python benchmarks/permutation.py [--rounds 10 4] [--smallest 5] [--largest 1000]

For each size, permutations with many keys are drawn, and it is counted how often each number comes
to each place, and how far its neighbour comes from it. Printed is the largest distance of
chi-square from its mean over all sizes, in standard deviations, beside that of numpy's generator,
which is the reference: the largest of as many draws is above 3 for an ideal generator, too.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np

from firstlight.data import permutation
from firstlight.data.permutation import ROUNDS, Permutation

MARGIN = 1.5
"""How much further than numpy's the largest distance may be."""
Draw = Callable[[int, int], np.ndarray]
"""A permutation of the numbers below n, by a key."""


def deviations(draw: Draw, n: int) -> tuple[float, float]:
    """How far chi-square is from its mean, in standard deviations: of places, and of neighbours."""
    n_keys = max(200, 4000 // n)
    places, steps = np.zeros((n, n)), np.zeros(n)
    for key in range(n_keys):
        drawn = draw(n, key)
        places[np.arange(n), drawn] += 1
        steps += np.bincount((drawn[1:] - drawn[:-1]) % n, minlength=n)
    # Rows and columns have fixed sums: (n - 1)^2 counts are free, and the sum is n / (n - 1) times
    # as large on average.
    return (
        deviation(places, n_keys / n, (n - 1) ** 2, (n - 1) / n),
        deviation(steps[1:], n_keys, n - 2, 1.0),
    )


def deviation(counts: np.ndarray, expected: float, freedom: int, scale: float) -> float:
    """Chi-square of `counts`, less its mean, in standard deviations."""
    chi2 = ((counts - expected) ** 2 / expected).sum() * scale
    return (chi2 - freedom) / np.sqrt(2 * freedom)


def ours(n: int, key: int) -> np.ndarray:
    """Draw as an epoch of many windows does."""
    return Permutation(n, key, "epoch", 0)(np.arange(n))


def numpys(n: int, key: int) -> np.ndarray:
    """Draw the reference."""
    return np.random.default_rng(key).permutation(n)


def main() -> int:
    """Print the figures; return 1 if the rounds in use are worse than the reference allows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, nargs="+", default=[ROUNDS, 4])
    parser.add_argument("--smallest", type=int, default=5)
    parser.add_argument("--largest", type=int, default=1000)
    given = parser.parse_args()
    sizes = range(given.smallest, given.largest + 1)
    largest: dict[str, tuple[float, float]] = {}
    for name, draw, rounds in [
        ("numpy", numpys, ROUNDS),
        *((f"{rounds} rounds", ours, rounds) for rounds in given.rounds),
    ]:
        permutation.ROUNDS = rounds  # type: ignore[misc]
        found = np.array([deviations(draw, n) for n in sizes])
        largest[name] = tuple(found.max(axis=0))
        worst = [sizes[place] for place in found.argmax(axis=0)]
        print(
            f"  {name:<10} places {largest[name][0]:5.1f} (n = {worst[0]})  neighbours"
            f" {largest[name][1]:5.1f} (n = {worst[1]})",
            flush=True,
        )
    used, reference = largest.get(f"{ROUNDS} rounds"), largest["numpy"]
    is_good = used is None or all(
        one <= other + MARGIN for one, other in zip(used, reference, strict=True)
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
