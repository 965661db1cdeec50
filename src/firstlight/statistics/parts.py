"""The two parts of the variance of a difference: what is due to the text, and to the seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from firstlight.statistics.design import ROUNDING, Design, design
from firstlight.statistics.spread import pooled
from firstlight.statistics.text import Floats, number_of_frequencies, variances_of_means


class Variance(NamedTuple):
    """An estimated variance of a difference, and its degrees of freedom."""

    value: float
    degrees: float


class TextPart:
    """What is due to the text: windows that are easier for one config than for another.

    `effects` (configs, windows) are what the configs add to the loss of each window, `weights`
    (windows,) add up to 1. There must be two windows at least.
    """

    def __init__(self, effects: Floats, weights: Floats) -> None:
        self._effects, self._weights = effects, weights
        self._n_frequencies = number_of_frequencies(len(weights))
        k = len(effects)
        # What is hard for all of them cancels. A deviation from the mean of k configs has
        # (k - 1) / k of the variance, and of the degrees of freedom.
        own = variances_of_means(effects - effects.mean(axis=0), weights)
        degrees = np.full(k, self._n_frequencies * (k - 1) / k)
        self._spread = pooled(own * k / (k - 1), degrees)

    def estimates(self, i: int, j: int) -> list[Variance]:
        """The variance of the difference of two configs; where they are wild, their own as well."""
        found = [Variance(2 * self._spread.common, self._spread.degrees)]
        if self._spread.is_wild[i] or self._spread.is_wild[j]:
            own = variances_of_means(self._effects[i] - self._effects[j], self._weights)
            found.append(Variance(float(own), self._n_frequencies))
        return found


class SeedPart:
    """What is due to the seeds. `values` (runs, windows) are the losses, weighted by `weights`.

    There must be a config with two seeds.
    """

    def __init__(
        self, plan: Design, values: Floats, weights: Floats, seeds: Sequence[Sequence[int]]
    ) -> None:
        self._plan, self._seeds, self._losses = plan, seeds, values @ weights
        residuals = plan.to_residuals @ values  # (runs, windows)
        # The degrees of freedom of the runs, which add up to those of the plan.
        shares = np.diag(plan.to_residuals)
        degrees = np.bincount(plan.config_of, shares).astype(np.float64)
        degrees[degrees < ROUNDING] = 0.0  # configs of a single seed
        sums = np.bincount(plan.config_of, (residuals @ weights) ** 2)
        self._own = np.divide(sums, degrees, out=np.zeros_like(sums), where=degrees > 0)
        self._own_degrees = degrees
        self._spread = pooled(self._own, degrees)
        self._with_windows = 0.0
        if len(weights) > 1:
            of_residuals = variances_of_means(residuals, weights)
            self._with_windows = float(of_residuals.sum()) / plan.degrees
        self._known: dict[tuple[int, int], list[Variance]] = {}

    def of_seed_and_window(self, i: int, j: int) -> float:
        """The variance of a difference that is due to a window and a seed together.

        The estimates of both parts contain it.
        """
        return self._with_windows * float(self._plan.factors[i, j])

    def estimates(self, i: int, j: int) -> list[Variance]:
        """The variance of the difference of two configs; where they are wild, their own as well."""
        pair = min(i, j), max(i, j)
        if pair not in self._known:
            self._known[pair] = self._estimates(*pair)
        return self._known[pair]

    def _estimates(self, i: int, j: int) -> list[Variance]:
        if len(self._seeds) == 2 and not self._plan.has_blocks:
            # Two configs have nothing in common that others could tell.
            return [self._welch(i, j, [c for c in (i, j) if self._own_degrees[c] > 0])]
        factor = float(self._plan.factors[i, j])
        common = Variance(self._spread.common * factor, self._spread.degrees)
        wild = [config for config in (i, j) if self._spread.is_wild[config]]
        if not wild:
            return [common]
        of_both = design([self._seeds[i], self._seeds[j]])
        if not of_both.has_blocks:
            return [common, self._welch(i, j, wild)]
        runs = np.concatenate([np.flatnonzero(self._plan.config_of == c) for c in (i, j)])
        residuals = of_both.to_residuals @ self._losses[runs]
        variance = float(residuals @ residuals) / of_both.degrees * float(of_both.factors[0, 1])
        return [common, Variance(variance, of_both.degrees)]

    def _welch(self, i: int, j: int, own: list[int]) -> Variance:
        """The variance of a difference where the configs `own` have variances of their own."""
        parts = []
        for config in (i, j):
            value, degrees = self._spread.common, self._spread.degrees
            if config in own:
                value, degrees = float(self._own[config]), float(self._own_degrees[config])
            parts.append(Variance(value / len(self._seeds[config]), degrees))
        total = sum(part.value for part in parts)
        if total == 0:
            return Variance(0.0, min(part.degrees for part in parts))
        # Satterthwaite's degrees of freedom (1946).
        return Variance(total, total**2 / sum(p.value**2 / p.degrees for p in parts))
