"""The points of a sweep and their repetitions, and which of them are best."""

import math
import statistics
from dataclasses import dataclass

from firstlight.sweep.ledger import Row


@dataclass(frozen=True)
class PointResult:
    """A point and its repetitions, with the mean and standard deviation of each objective.

    It is whole when all its repetitions are done and their means are finite: only such points are
    ever best.
    """

    overrides: list[str]
    rows: list[Row]
    n_seeds: int
    means: list[float]
    spreads: list[float | None]

    @property
    def n_done(self) -> int:
        return sum(row.state == "done" for row in self.rows)

    @property
    def has_begun(self) -> bool:
        """Whether it was tried, to its end or not."""
        return any(row.state in ("done", "pruned", "failed") for row in self.rows)

    def values(self, metric: str) -> list[float]:
        """A metric of the repetitions that are done and have it, by their seeds."""
        done = [row for row in self.rows if row.state == "done" and metric in row.metrics]
        return [row.metrics[metric] for row in sorted(done, key=lambda row: row.seed)]

    @property
    def is_whole(self) -> bool:
        if not self.means or not all(map(math.isfinite, self.means)):
            return False
        return self.n_done == self.n_seeds

    def rank(self, sign: int) -> tuple[bool, float]:
        """A sort key, lower is better: whole points first, then by the first objective.

        `sign` is -1 for an objective of which higher values are better.
        """
        if self.means == [] or not math.isfinite(self.means[0]):
            return not self.is_whole, math.inf
        return not self.is_whole, sign * self.means[0]


def current(rows: list[Row]) -> list[Row]:
    """The rows that count: those that no retry has replaced."""
    return [row for row in rows if row.replaced_by is None]


def points(
    rows: list[Row], objectives: list[str], signs: list[int], n_seeds: int
) -> list[PointResult]:
    """The points of a sweep, the best first (by the first objective), those without a result last.

    `signs` are those of `Ledger.signs`.
    """
    by_point: dict[int, list[Row]] = {}
    for row in current(rows):
        by_point.setdefault(row.point, []).append(row)
    found = []
    for members in by_point.values():
        # A repetition that no worker has taken yet has no overrides of its own.
        overrides: list[str] = []
        for row in members:
            overrides = overrides or row.overrides
        done = [row for row in members if row.state == "done"]
        means: list[float] = []
        spreads: list[float | None] = []
        for name in objectives if done else ():
            values = [row.metrics[name] for row in done]
            # statistics.stdev fails on inf and nan, and needs two values.
            has_spread = len(values) > 1 and all(map(math.isfinite, values))
            means.append(statistics.mean(values))
            spreads.append(statistics.stdev(values) if has_spread else None)
        found.append(PointResult(overrides, members, n_seeds, means, spreads))
    return sorted(found, key=lambda point: point.rank(signs[0]))


def best_points(ranked: list[PointResult], signs: list[int]) -> list[PointResult]:
    """The best of the `points` of a sweep; of several objectives all that no other beats."""
    whole = [point for point in ranked if point.is_whole]
    if len(signs) == 1:
        return whole[:1]
    # Several objectives: the Pareto front.
    return [point for point in whole if not any(_beats(other, point, signs) for other in whole)]


def _beats(one: PointResult, other: PointResult, signs: list[int]) -> bool:
    """Is a point better than another in some objective, and worse in none?"""
    for sign, mean, its_mean in zip(signs, one.means, other.means, strict=True):
        if sign * mean > sign * its_mean:
            return False
    return one.means != other.means


def tie(best: PointResult, ranked: list[PointResult]) -> str:
    """Say how many points have the same means as the `best` of a sweep with one objective.

    Nothing of several objectives: all points that are equally good are shown there.
    """
    n_equal = sum(point.is_whole and point.means == best.means for point in ranked)
    if n_equal == 1 or len(best.means) > 1:
        return ""
    return f" (the first of {n_equal} points that are equal)"
