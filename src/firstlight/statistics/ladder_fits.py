"""The fits of a scaling ladder, and of resamples of its losses.

All losses together are fitted by L(N, D) = E + A / N^alpha + B / D^beta for N parameters and D
tokens, by Huber's loss of the logarithms: approach 3 of Hoffmann et al. 2022, "Training
compute-optimal large language models". As Besiroglu et al. 2024, "Chinchilla scaling: a replication
attempt", found necessary, the fit is run to convergence, from several starts, and on the sum of the
losses. Each budget has a parabola besides (approach 2).
"""

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import optimize

from firstlight.statistics.rungs import Tuned
from firstlight.statistics.text import Floats

HUBER, LEAST_HUBER = 1.345, 1e-3
"""Where Huber's loss ceases to be quadratic, in standard deviations: it then needs 5 % more of
normal data than squares do (Huber 1964). Not below that of Hoffmann et al., of the logarithm."""
STARTS = tuple(product((0.3, 0.7, 0.95), (0.15, 0.4), (0.15, 0.4)))
"""Starts of the fit: the share of the lowest loss that E has, alpha and beta."""
FAR = math.log(1e4)
"""How far beyond the sizes the minimum of a parabola is looked for, as a logarithm."""


TO_THE_END = {"ftol": 1e-10, "xtol": 1e-9, "gtol": None, "max_nfev": 1000}
NEAR_IT = {"ftol": 1e-6, "xtol": 1e-9, "gtol": None, "max_nfev": 50}
"""How far a fit is run: that of the rungs, and those of resamples, which start at the former."""


@dataclass(frozen=True)
class Draws:
    """The laws of the rungs, which come first, and of their resamples."""

    laws: Floats
    """(1 + resamples, 5): see `terms`."""
    centre: tuple[float, float]
    """Mean logarithms of the sizes and of the tokens."""
    of_seed: float
    """Standard deviation of the logarithm of a loss over the seeds."""
    of_rung: float
    """Of what a rung is off the law beside that."""
    news: Floats
    """(1 + resamples,): how far a new rung is off, in standard deviations; the first is 0."""

    def losses(self, parameters: float, tokens: float, n_seeds: int) -> Floats:
        """The mean loss of `n_seeds` runs of a new rung: (1 + resamples,)."""
        n, d = math.log(parameters) - self.centre[0], math.log(tokens) - self.centre[1]
        expected = terms(self.laws.T, np.array(n), np.array(d)).sum(axis=0)
        return expected * np.exp(math.hypot(self.of_seed / n_seeds**0.5, self.of_rung) * self.news)

    def numbers(self) -> tuple[Floats, ...]:
        """E, A, alpha, B and beta of L(N, D), each (1 + resamples,)."""
        e, a, alpha, b, beta = self.laws.T
        n, d = self.centre
        return np.exp(e), np.exp(a + alpha * n), alpha, np.exp(b + beta * d), beta


class Fits:
    """The parabolas and the law of rungs, and of resamples of their losses.

    `by_budget` has the rungs of each budget by size, with two seeds at least.
    """

    def __init__(self, by_budget: dict[float, list[Tuned]]) -> None:
        best = [one for members in by_budget.values() for one in members]
        self.budgets = np.log(list(by_budget))
        ends = np.cumsum([len(members) for members in by_budget.values()])
        self.of_budget = np.split(np.arange(len(best)), ends[:-1])
        """Which rungs are of each budget."""
        self.n = np.log([one.rung.parameters for one in best])  # (rungs,)
        self.d = np.log([one.rung.tokens for one in best])
        self.centre = float(self.n.mean()), float(self.d.mean())
        self.losses = np.log([one.mean for one in best])
        self.n_seeds = np.array([len(one.losses) for one in best])
        self.residuals = np.concatenate([_residuals(one.losses) for one in best])
        self.of_seed = float(np.sqrt((self.residuals**2).mean()))
        self.of_seeds = self.of_seed * float((1 / self.n_seeds).mean()) ** 0.5
        """Standard deviation of a rung's mean over its seeds."""

    def parabolas(self, resamples: int, generator: np.random.Generator) -> Floats:
        """Coefficients of the rungs' parabolas, and of resamples: (1 + resamples, budgets, 3)."""
        first = self._parabolas(self.losses)
        off: list[Floats] = []
        for rungs, parabola in zip(self.of_budget, first, strict=True):
            expected = np.polyval(parabola, self.n[rungs])
            off.append(np.log(expected) - self.losses[rungs])
        degrees = len(self.n) - 3 * len(first)
        of_rung = self._beyond_seeds(np.concatenate(off), degrees)
        found = [first]
        for _ in range(resamples):
            losses, _ = self._again(of_rung, degrees, generator)
            found.append(self._parabolas(losses))
        return np.array(found)

    def sizes(self, parabolas: Floats) -> Floats:
        """Log k and a of N_best = k C^a, by least squares of parabolas' minima: (..., 2)."""
        found: list[Floats] = []
        for of_budgets in parabolas:
            best: list[float] = []
            for rungs, parabola in zip(self.of_budget, of_budgets, strict=True):
                low, high = self.n[rungs[0]], self.n[rungs[-1]]
                best.append(vertex(parabola, float(low), float(high)))
            a, log_k = np.polyfit(self.budgets, best, 1)
            found.append(np.array([log_k, a]))
        return np.array(found)

    def laws(self, resamples: int, generator: np.random.Generator) -> Draws:
        """The law of the rungs, and those of resamples."""
        fits = [self._law_from(start, self.losses, TO_THE_END) for start in self._starts()]
        law = min(fits, key=lambda fit: fit.cost).x
        degrees = len(self.n) - len(law)
        of_rung = self._beyond_seeds(self._off(law, self.losses), degrees)
        laws, news = [law], [0.0]
        for _ in range(resamples):
            losses, unsure = self._again(of_rung, degrees, generator)
            laws.append(self._law_from(law, losses, NEAR_IT).x)
            news.append(unsure * generator.normal())
        return Draws(np.array(laws), self.centre, self.of_seed, of_rung, np.array(news))

    def _beyond_seeds(self, off: Floats, degrees: int) -> float:
        """Standard deviation of what rungs are `off` a fit (rungs,), beyond that of their seeds."""
        return max(float((off**2).sum()) / degrees - self.of_seeds**2, 0.0) ** 0.5

    def _again(
        self, of_rung: float, degrees: int, generator: np.random.Generator
    ) -> tuple[Floats, float]:
        """Losses of the rungs (rungs,) whose seeds are drawn again, from the residuals of all.

        A rung is off the fit by `of_rung` besides. All is larger or smaller by a factor, which is
        returned too: the spread itself is an estimate, with so many `degrees` of freedom, and this
        makes Student's t of what is normal.
        """
        unsure = float((degrees / generator.chisquare(degrees)) ** 0.5)
        noise = of_rung * generator.normal(size=len(self.n))
        for rung, n_seeds in enumerate(self.n_seeds):
            noise[rung] += generator.choice(self.residuals, n_seeds).mean()
        return self.losses + unsure * noise, unsure

    def _parabolas(self, losses: Floats) -> Floats:
        """(budgets, 3)"""
        found = [np.polyfit(self.n[rungs], np.exp(losses[rungs]), 2) for rungs in self.of_budget]
        return np.array(found)

    def _starts(self) -> list[Floats]:
        low, middle = float(np.exp(self.losses.min())), float(np.exp(self.losses.mean()))
        found: list[Floats] = []
        for share, alpha, beta in STARTS:
            half = math.log((middle - share * low) / 2)
            found.append(np.array([math.log(share * low), half, alpha, half, beta]))
        return found

    def _law_from(
        self, start: Floats, losses: Floats, until: dict[str, Any]
    ) -> optimize.OptimizeResult:
        """The fit of the law to losses (rungs,), from a start and `until` it is good enough."""
        delta = max(HUBER * self.of_seeds, LEAST_HUBER)
        # A step too far overflows, and is taken back.
        with np.errstate(all="ignore"):
            return optimize.least_squares(
                self._off,
                start,
                self._slopes,  # type: ignore[arg-type]
                loss="huber",
                f_scale=delta,
                args=(losses,),
                **until,
            )

    def _off(self, law: Floats, losses: Floats) -> Floats:
        """The logarithms of the law's losses less those of the rungs (rungs,)."""
        found = terms(law, self.n - self.centre[0], self.d - self.centre[1])
        return np.log(found.sum(axis=0)) - losses

    def _slopes(self, law: Floats, losses: Floats) -> Floats:
        """(rungs, 5): of `_off`, by the numbers of the law."""
        n, d = self.n - self.centre[0], self.d - self.centre[1]
        found = terms(law, n, d)
        of_e, of_n, of_d = found / found.sum(axis=0)
        return np.stack([of_e, of_n, -n * of_n, of_d, -d * of_d], axis=1)


def terms(law: Floats, n: Floats, d: Floats) -> Floats:
    """E, A / N^alpha and B / D^beta; `n` and `d` are logarithms less those of the centre.

    `law` holds log E, log A, alpha, log B and beta, with N and D in units of the centre: so the
    numbers depend less on each other.
    """
    e, a, alpha, b, beta = law
    return np.exp(np.stack(np.broadcast_arrays(e, a - alpha * n, b - beta * d)))


def vertex(parabola: Floats, low: float, high: float) -> float:
    """Where a parabola of sizes from `low` to `high` has its minimum, at most FAR beyond them.

    Of one without a minimum: so far beyond its lower end.
    """
    square, slope, _ = parabola
    if square > 0:
        return float(np.clip(-slope / (2 * square), low - FAR, high + FAR))
    return low - FAR if slope + square * (low + high) > 0 else high + FAR


def _residuals(losses: Floats) -> Floats:
    """What the logarithms of losses (seeds,) are off their mean.

    Those of n seeds are too small by the root of (n - 1) / n.
    """
    logs, n = np.log(losses), len(losses)
    return (logs - logs.mean()) * (n / (n - 1)) ** 0.5
