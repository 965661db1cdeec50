"""What a scaling ladder says: the best size for a budget, and the loss of a model not yet trained.

For each budget of compute a parabola in the logarithm of the size has its minimum at the best size,
and a power law of the budget runs through these (approach 2 of Hoffmann et al. 2022). The law
L(N, D) of all losses together (approach 3) predicts. Intervals come from a bootstrap over the
seeds. `ladder_fits` has the fits and their sources.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from firstlight.errors import ConfigError
from firstlight.statistics.arrays import check_confidence
from firstlight.statistics.ladder_fits import Draws, Fits, vertex
from firstlight.statistics.means import Interval
from firstlight.statistics.rungs import Rung, Tuned, tuned
from firstlight.statistics.text import Floats

LEAST_BUDGETS, LEAST_SIZES, LEAST_SEEDS, LEAST_RATES = 3, 4, 2, 3
"""A law of three budgets, a parabola of four sizes and a spread of two seeds are the least that
have an error of their own, and of three rates one lies between others."""
LEAST_RESAMPLES = 2
"""The fewest that have quantiles at all; 400 are the default."""


@dataclass(frozen=True)
class Problem:
    """Why nothing can be predicted: of what there is too little, and a phrase with figures."""

    kind: Literal["budgets", "sizes", "seeds", "rates", "minimum"]
    text: str


@dataclass(frozen=True)
class Parabola:
    """The losses at one budget over the logarithm of the size."""

    compute: float
    coefficients: Floats
    """(3,): of the square, of the logarithm, and of 1."""
    parameters: Interval | None
    """Of the best size; None where the parabola has no minimum."""
    loss: float
    """At the best size, or where the parabola ends if it has none."""


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta, each number with its interval."""

    E: Interval
    A: Interval
    alpha: Interval
    B: Interval
    beta: Interval


@dataclass(frozen=True)
class Ladder:
    """What rungs say.

    `problems` are the reasons why nothing can be predicted, empty if it can: else there is no law
    and no exponent, and of too few budgets, sizes or seeds no parabola. `exponent` is a of
    N_best ~ C^a, by the parabolas.
    """

    rungs: list[Tuned]
    problems: list[Problem]
    confidence: float
    parabolas: list[Parabola] = field(default_factory=list)
    exponent: Interval | None = None
    law: Law | None = None
    sizes: Floats | None = field(default=None, repr=False)
    """(1 + resamples, 2): log k and a of N_best = k C^a; those of the rungs come first."""
    draws: Draws | None = field(default=None, repr=False)

    def best_parameters(self, compute: float) -> Interval:
        """The best size for a budget, by the power law through the parabolas' minima.

        Raises:
            ConfigError: see `problems`.
        """
        self._check()
        assert self.sizes is not None
        return _interval(np.exp(self.sizes @ [1, math.log(compute)]), self.confidence)

    def predict(self, parameters: float, tokens: float, n_seeds: int) -> Interval:
        """The mean loss of `n_seeds` runs, at a tuned rate, of a model not yet trained.

        Raises:
            ConfigError: see `problems`.
        """
        self._check()
        assert self.draws is not None
        return _interval(self.draws.losses(parameters, tokens, n_seeds), self.confidence)

    def _check(self) -> None:
        if self.problems:
            reasons = "; ".join(problem.text for problem in self.problems)
            raise ConfigError(f"nothing can be predicted: {reasons}")


def fit_ladder(
    rungs: Sequence[Rung], confidence: float = 0.95, *, resamples: int = 400, seed: int = 0
) -> Ladder:
    """Fit the losses of sizes at equal compute, and say what stands against a prediction.

    At least 3 budgets, 4 sizes at each, 2 seeds and 3 rates are needed to predict. Each rung's best
    rate must lie between others. So must each budget's best size, in `confidence` of the
    `resamples`, which are drawn with `seed`.

    Raises:
        ConfigError: no rung, or one whose arrays do not fit together or are not finite; or too few
            `resamples` for an interval.
    """
    check_confidence(confidence)
    if resamples < LEAST_RESAMPLES:
        raise ConfigError(f"resamples ({resamples}) must be at least {LEAST_RESAMPLES}")
    if not rungs:
        raise ConfigError("rungs: none")
    best = sorted(map(tuned, rungs), key=lambda one: (one.rung.compute, one.rung.parameters))
    by_budget: dict[float, list[Tuned]] = {}
    for one in best:
        by_budget.setdefault(one.rung.compute, []).append(one)
    few, untuned = _too_few(by_budget), _untuned(best)
    if few:
        return Ladder(best, [*few, *untuned], confidence)
    fits, generator = Fits(by_budget), np.random.default_rng(seed)
    parabolas = fits.parabolas(resamples, generator)
    shown, edges = [], []
    for number, (budget, members) in enumerate(by_budget.items()):
        of_budget = parabolas[:, number]
        shown.append(_parabola(budget, members, of_budget, confidence))
        edges += _without_minimum(budget, members, of_budget, confidence)
    problems = [*untuned, *edges]
    if problems:
        return Ladder(best, problems, confidence, shown)
    sizes, draws = fits.sizes(parabolas), fits.laws(resamples, generator)
    law = Law(*(_interval(values, confidence) for values in draws.numbers()))
    exponent = _interval(sizes[:, 1], confidence)
    return Ladder(best, [], confidence, shown, exponent, law, sizes, draws)


def _too_few(by_budget: dict[float, list[Tuned]]) -> list[Problem]:
    found: list[Problem] = []
    if len(by_budget) < LEAST_BUDGETS:
        found.append(Problem("budgets", f"{len(by_budget)} budgets of at least {LEAST_BUDGETS}"))
    for budget, members in by_budget.items():
        n_sizes = len({one.rung.parameters for one in members})
        if n_sizes < LEAST_SIZES:
            text = f"{n_sizes} sizes of at least {LEAST_SIZES} at {budget:.3g} FLOPs"
            found.append(Problem("sizes", text))
    fewest = min(len(one.losses) for members in by_budget.values() for one in members)
    if fewest < LEAST_SEEDS:
        found.append(Problem("seeds", f"{fewest} seed of at least {LEAST_SEEDS} (better 3)"))
    return found


def _untuned(best: list[Tuned]) -> list[Problem]:
    found: list[Problem] = []
    for one in best:
        if one.at_edge:
            text = (
                f"the best rate of {one.rung.parameters:,.0f} parameters at {one.rung.compute:.3g}"
                f" FLOPs, {one.rate:.3g}, is the {one.at_edge} of {len(one.rung.rates)}"
            )
            found.append(Problem("rates", text))
    return found


def _without_minimum(
    budget: float, members: list[Tuned], parabolas: Floats, confidence: float
) -> list[Problem]:
    """Why a budget has no minimum between its sizes; its `parabolas` are (1 + resamples, 3)."""
    lowest = min(members, key=lambda one: one.mean)
    for one, name, others in (
        (members[0], "smallest", "smaller"),
        (members[-1], "largest", "larger"),
    ):
        if one is lowest:
            text = (
                f"at {budget:.3g} FLOPs the lowest loss, {one.mean:.3f}, is that of the {name}"
                f" model ({one.rung.parameters:,.0f} parameters), so that {others} ones are needed"
            )
            return [Problem("minimum", text)]
    low, high = _ends(members)
    inside = [low < vertex(parabola, low, high) < high for parabola in parabolas]
    share = float(np.mean(inside[1:]))
    if inside[0] and share >= confidence:
        return []
    text = (
        f"at {budget:.3g} FLOPs the minimum lies between the sizes in only {share:.0%} of the"
        " resamples, so that more seeds or a wider range of sizes are needed"
    )
    return [Problem("minimum", text)]


def _ends(members: list[Tuned]) -> tuple[float, float]:
    """The logarithms of the smallest and the largest size."""
    return math.log(members[0].rung.parameters), math.log(members[-1].rung.parameters)


def _parabola(
    budget: float, members: list[Tuned], parabolas: Floats, confidence: float
) -> Parabola:
    first = parabolas[0]
    best = np.array([vertex(parabola, *_ends(members)) for parabola in parabolas])
    size = _interval(np.exp(best), confidence) if first[0] > 0 else None
    return Parabola(budget, first, size, float(np.polyval(first, best[0])))


def _interval(values: Floats, confidence: float) -> Interval:
    """The first of `values`, that of the rungs, and the quantiles of the others."""
    alpha = (1 - confidence) / 2
    low, high = np.quantile(values[1:], [alpha, 1 - alpha])
    return Interval(float(values[0]), float(low), float(high))
