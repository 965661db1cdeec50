"""Which differences between configs are more than chance, and which configs could be the best.

Two things vary by chance: the text and the seed. Another text of the same kind would give other
losses; another seed would give another model. Every seed is measured on every window, so neither is
nested in the other, and the variances of both are added (Clark 1973, on the same question with
readers and words). What is due to a window and a seed together is in both, and counted once.

Each of the two variances is estimated from little, and has its own factor for that, Tukey's for all
pairs of configs. The squares of the half widths add up, which keeps the confidence whatever the
true variances are (Banerjee 1960, for two). tests/statistics simulates it.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from firstlight.errors import ConfigError, shorten
from firstlight.statistics.arrays import check_confidence, check_weights, numbers
from firstlight.statistics.critical import all_pairs, to_the_best
from firstlight.statistics.design import Design, design
from firstlight.statistics.parts import SeedPart, TextPart, Variance
from firstlight.statistics.text import Floats, number_of_frequencies

MORE_THAN_CHANCE = "more than chance"
MORE_THAN_SEEDS = "more than the chance of the seeds; other texts are unknown"
LOWER_HERE = "lower on this text; another seed may reverse it"
ONE_SEED = "cannot be told: one seed of each"
LITTLE_TEXT = "cannot be told: too little text"
OTHER_SEEDS = "not told apart: other seeds may reverse it"
OTHER_TEXT = "not told apart: another text may reverse it"

POWER = 0.8
"""Probability that the advised number of seeds shows the difference seen, if it is the true one."""
MOST_SEEDS = 1000
"""Most seeds that are advised."""
FEW_FREQUENCIES = 3
"""With fewer cosine frequencies, so below 50 windows, a text may be too short to tell anything."""


@dataclass(frozen=True)
class Pair:
    """Two configs: `difference` is a's mean loss less b's, in the unit of the losses.

    [`low`, `high`] holds the true difference; for all pairs of a comparison together, with its
    confidence. They are infinite where nothing is known: one seed each, or a single window.
    `reason` says in words why the two are told apart or not; LOWER_HERE is meant of the lower one.

    `text_error` and `seed_error` are the standard errors that are due to either (None: unknown).
    `more_seeds` of each config would probably tell them apart, if the true difference is this one
    (None: no number would, or `compare` was not asked for advice on them).
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    told_apart: bool
    reason: str
    text_error: float | None
    seed_error: float | None
    more_seeds: int | None


@dataclass(frozen=True)
class Comparison:
    """What losses say of configs.

    `means` are the configs' mean losses, `pairs` every pair once, in the order of the names.
    `could_be_best` names the configs that could have the lowest mean (Hsu 1984): at the
    confidence, the best one is among them. `has_blocks` is whether seeds were blocks.
    """

    means: dict[str, float]
    pairs: list[Pair]
    could_be_best: list[str]
    has_blocks: bool


def compare(
    losses: Mapping[str, ArrayLike],
    tokens: ArrayLike | None,
    seeds: Mapping[str, Sequence[int]],
    confidence: float = 0.95,
    *,
    advise_on: str | None = None,
) -> Comparison:
    """Compare configs by their losses, lower being better.

    `losses` maps the name of a config to an array (seeds, windows): the mean loss of each seed's
    model in each window of the same text, in nats or any other unit. `tokens` (windows,) are the
    windows' weights. `seeds` maps the name to the seeds, one for each row. Configs that share their
    seeds are compared with the seeds as blocks.

    With `tokens` None the losses are (seeds,), means over a text that is not known in more detail.
    The comparison then speaks of that text alone.

    `confidence` holds for all intervals together: configs that are all equal lead to any verdict
    with a probability of at most 1 - confidence, as long as neighbouring windows are correlated by
    at most 0.8.

    Pairs with the config `advise_on` that are not told apart say how many more seeds would do. It
    takes a moment for each number of seeds that is tried.

    Raises:
        ConfigError: the arrays do not fit together, or hold something that is not finite.
    """
    values, weights = _checked(losses, tokens, seeds, confidence)
    names, seed_lists = list(losses), [list(seeds[name]) for name in losses]
    plan = design(seed_lists)
    judge = _Judge(values, weights, plan, seed_lists, 1 - confidence, of_text=tokens is not None)
    pairs = []
    for i, j in combinations(range(len(names)), 2):
        pairs.append(judge.pair(names[i], names[j], i, j, advise=advise_on in (names[i], names[j])))
    means = np.bincount(plan.config_of, values @ weights) / np.bincount(plan.config_of)
    return Comparison(
        means=dict(zip(names, means.tolist(), strict=True)),
        pairs=pairs,
        could_be_best=[name for i, name in enumerate(names) if judge.could_be_best(i)],
        has_blocks=plan.has_blocks,
    )


Critical = Callable[[int, float, float], float]
"""How many standard errors: of the configs, the degrees of freedom and 1 - confidence."""


class _Part(NamedTuple):
    """How large a difference must be for one part of its variance: `factor` times `error`."""

    margin: float
    error: float
    factor: float


class _Judge:
    """The differences of configs, and how large they must be."""

    def __init__(
        self,
        values: Floats,
        weights: Floats,
        plan: Design,
        seeds: Sequence[Sequence[int]],
        alpha: float,
        *,
        of_text: bool,
    ) -> None:
        self._windows, self._k, self._alpha = len(weights), len(seeds), alpha
        self._plan, self._seeds, self._is_of_text = plan, seeds, of_text
        effects = plan.to_effects @ values  # (configs, windows)
        self._effects = effects @ weights
        self._text = self._seed = None
        if self._windows > 1:
            self._text = TextPart(effects, weights)
        if plan.degrees > 0 and (self._windows > 1 or not of_text):
            self._seed = SeedPart(plan, values, weights, seeds)

    def pair(self, a: str, b: str, i: int, j: int, *, advise: bool) -> Pair:
        """Whether the configs `i` and `j`, named `a` and `b`, are told apart."""
        difference = float(self._effects[i] - self._effects[j])
        text, seed = self._parts(i, j, all_pairs)
        margin = self._margin(i, j, text, seed)
        told_apart = abs(difference) > margin
        more_seeds = None
        if advise and not told_apart and seed is not None:
            more_seeds = self._more_seeds(i, j, text, seed)
        return Pair(
            a=a,
            b=b,
            difference=difference,
            low=difference - margin,
            high=difference + margin,
            told_apart=told_apart,
            reason=self._reason(abs(difference), margin, text, seed),
            text_error=None if text is None else text.error,
            seed_error=None if seed is None else seed.error,
            more_seeds=more_seeds,
        )

    def could_be_best(self, i: int) -> bool:
        """Whether no other config is better than `i` by more than chance."""
        for j in range(self._k):
            if j == i:
                continue
            margin = self._margin(i, j, *self._parts(i, j, to_the_best))
            if self._effects[i] - self._effects[j] > margin:
                return False
        return True

    def _parts(self, i: int, j: int, critical: Critical) -> tuple[_Part | None, _Part | None]:
        """What the text asks of a difference, and the seed; None where it is not known."""
        text = seed = None
        if self._text is not None:
            text = self._largest(self._text.estimates(i, j), critical)
        if self._seed is not None:
            seed = self._largest(self._seed.estimates(i, j), critical)
        return text, seed

    def _largest(self, estimates: list[Variance], critical: Critical) -> _Part:
        parts = []
        for value, degrees in estimates:
            factor = critical(self._k, degrees, self._alpha)
            parts.append(_Part(factor * math.sqrt(value), math.sqrt(value), factor))
        # By the margin, which is the first field.
        return max(parts)

    def _margin(self, i: int, j: int, text: _Part | None, seed: _Part | None) -> float:
        """How large a difference must be; infinite where that is not known."""
        if seed is None or (text is None and self._is_of_text):
            return math.inf
        if text is None:
            return seed.margin
        # The smaller factor: to take off too little only makes the interval wider.
        both = self._of_seed_and_window(i, j) * min(text.factor, seed.factor) ** 2
        square = text.margin**2 + seed.margin**2 - both
        # Never less than the seeds alone ask for, whose estimate knows nothing of the text.
        return math.sqrt(max(square, seed.margin**2))

    def _of_seed_and_window(self, i: int, j: int) -> float:
        return 0.0 if self._seed is None else self._seed.of_seed_and_window(i, j)

    def _reason(self, size: float, margin: float, text: _Part | None, seed: _Part | None) -> str:
        if text is None and self._is_of_text:
            return LITTLE_TEXT
        if seed is None:
            if text is not None and size > text.margin:
                return LOWER_HERE
            return ONE_SEED
        if size > margin:
            if text is None:
                return MORE_THAN_SEEDS
            return MORE_THAN_CHANCE
        if text is None or size > text.margin:
            return OTHER_SEEDS
        if number_of_frequencies(self._windows) < FEW_FREQUENCIES:
            return LITTLE_TEXT
        return OTHER_TEXT

    def _more_seeds(self, i: int, j: int, text: _Part | None, seed: _Part) -> int | None:
        """How many more seeds of each would tell a difference of this size, with POWER."""
        size = abs(float(self._effects[i] - self._effects[j]))
        have = min(len(self._seeds[i]), len(self._seeds[j]))
        # What the text asks for whatever the number of seeds, and the variance of one seed's model.
        of_text = 0.0
        if text is not None:
            of_text = text.margin**2 - text.factor**2 * self._of_seed_and_window(i, j)
        of_one = seed.error**2 / float(self._plan.factors[i, j])
        # Degrees of freedom: (k - 1)(n - 1) with seeds as blocks, k (n - 1) without.
        groups = self._k - 1 if self._plan.has_blocks else self._k

        def would_tell(n: int) -> bool:
            degrees = groups * (n - 1)
            factor = all_pairs(self._k, degrees, self._alpha) + float(stats.t.ppf(POWER, degrees))
            # 2 / n: the variance of a difference of two means, of n seeds each.
            return size**2 >= max(of_text, 0.0) + factor**2 * of_one * 2 / n

        fewest = max(have, 1) + 1
        # More seeds only help, so the first number that is enough can be found by bisection.
        n = fewest + bisect_left(range(fewest, MOST_SEEDS + 1), True, key=would_tell)
        return n - have if n <= MOST_SEEDS else None


def _checked(
    losses: Mapping[str, ArrayLike],
    tokens: ArrayLike | None,
    seeds: Mapping[str, Sequence[int]],
    confidence: float,
) -> tuple[Floats, Floats]:
    """The losses of all runs, (runs, windows), and the windows' weights, which add up to 1."""
    if len(losses) < 2:
        raise ConfigError(f"losses: {len(losses)} configs, and comparing takes two")
    check_confidence(confidence)
    weights = np.ones(1) if tokens is None else check_weights(tokens)
    if set(seeds) != set(losses):
        different = shorten(", ".join(sorted(map(str, set(seeds) ^ set(losses)))))
        raise ConfigError(f"seeds and losses name different configs ({different})")
    rows = []
    for name, of_config in losses.items():
        what, n_seeds = shorten(str(name)), len(seeds[name])
        values = numbers(f"losses of {what}", of_config)
        wanted = (n_seeds,) if tokens is None else (n_seeds, len(weights))
        if values.shape != wanted or n_seeds == 0:
            raise ConfigError(
                f"losses of {what}: an array {values.shape}, and its seeds and the windows make it"
                f" {wanted}"
            )
        if len(set(seeds[name])) < n_seeds:
            raise ConfigError(f"seeds of {what}: a seed is named twice")
        rows.append(values.reshape(n_seeds, len(weights)))
    return np.concatenate(rows), weights
