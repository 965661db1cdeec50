"""Is the difference between two configs more than chance?

Two things vary by chance: the text and the seed.

**The text.** Another validation text of the same kind would give another loss. The windows of this
one are resampled, the same ones for both configs (paired: what is hard is hard for both), in blocks
of neighbours, which are alike (the circular block bootstrap of Politis and Romano 1992; blocks of 2
n ** (1/3) windows: the order is that which Künsch 1989 and Hall, Horowitz and Jing 1995 found for a
variance, the factor covers neighbours that are rather alike).

**The seed.** Another seed would give another model. Between the seeds of each config a variance is
estimated (Welch 1947); of a config with a single seed it is taken to be that of the other one.

Both are added, as windows and seeds are crossed: every seed is measured on every window, so that
neither is nested in the other (Clark 1973, on the same question with readers and words). What the
variance between seeds owes to the windows is counted in both, which errs on the side of caution.
Degrees of freedom are Satterthwaite's (1946).

With one seed of each, nothing is known of the seed, and the result speaks of the text alone.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from firstlight.compare.student import quantile, two_sided

Floats = NDArray[np.float64]
POWER = 0.8
"""Probability that the advised number of seeds shows the difference seen, if it is the true one."""
MOST_SEEDS = 1000
"""Most seeds that are advised."""
FEWEST_WINDOWS = 8
"""Fewer windows say nothing about another text. From this number on, equal configs are told apart
no more often than `confidence` allows (simulated in tests/compare/test_statistics.py)."""
DRAWN_AT_ONCE = 2**22
"""Random numbers drawn at once: 32 MiB."""


@dataclass(frozen=True)
class ScoreSample:
    """What was measured of one config.

    `values` (seeds,) are the metric of each seed. `totals` (windows,) are what the metric adds up
    over a window, a mean over the seeds; `units` (windows,) are what a window's total is divided
    by: its tokens, or its bytes times ln 2. Both are empty for a metric that was not measured on
    windows of a text.
    """

    values: Floats
    totals: Floats = field(default_factory=lambda: np.empty(0))
    units: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(self.values.mean())

    @property
    def spread(self) -> float | None:
        """Standard deviation between seeds; None for a single one."""
        if len(self.values) < 2:
            return None
        return float(self.values.std(ddof=1))


class Variance(NamedTuple):
    """An estimated variance, and its degrees of freedom."""

    value: float
    degrees: float


@dataclass(frozen=True)
class Difference:
    """The difference `value` = other - reference, with its confidence interval and `p`.

    `p` is the probability of a difference as large if the configs were equal.

    `text_error` and `seed_error` are the standard errors that are due to either, None where it is
    not known. `more_seeds` of each config would probably tell them apart; None: no advice, or
    (`is_hopeless`) no number would.
    """

    value: float
    low: float
    high: float
    p: float
    text_error: float | None
    seed_error: float | None
    degrees: float
    is_told_apart: bool
    is_paired: bool
    more_seeds: int | None
    is_hopeless: bool


class NothingKnownError(ValueError):
    """Neither seeds nor windows: nothing can be said."""


class TooFewWindowsError(NothingKnownError):
    """Too few windows to estimate how much the text varies, however many seeds there are."""

    def __init__(self, n_windows: int) -> None:
        super().__init__(f"{n_windows} windows, and at least {FEWEST_WINDOWS} are needed")
        self.n_windows = n_windows


def difference(
    reference: ScoreSample,
    other: ScoreSample,
    *,
    paired: bool,
    confidence: float,
    n_pairs: int,
    resamples: int,
    seed: int,
) -> Difference:
    """How `other` differs from `reference`.

    `confidence` holds for all `n_pairs` differences together (Bonferroni).

    Raises:
        NothingKnownError: one seed of each, and no windows.
        TooFewWindowsError: fewer than FEWEST_WINDOWS.
    """
    value = other.mean - reference.mean
    text = _text_variance(reference, other, paired=paired, resamples=resamples, seed=seed)
    seeds = _seed_variances(reference, other)
    # The variance of the difference is the sum of its parts: the text's, and each config's seeds'.
    parts = []
    text_error = seed_error = None
    text_variance = 0.0
    if text is not None:
        parts.append(text)
        text_variance = text.value
        text_error = math.sqrt(text_variance)
    if seeds:
        means = _of_means(seeds, (reference, other))
        parts += means
        seed_error = math.sqrt(satterthwaite(means).value)
    if not parts:
        raise NothingKnownError
    # Student's t, at a level shared by all pairs.
    level = (1 - confidence) / n_pairs
    total, degrees = satterthwaite(parts)
    error = math.sqrt(total)
    width = quantile(1 - level / 2, degrees) * error
    p = two_sided(value / error, degrees) if error else float(value == 0)
    told_apart = abs(value) > width
    more = None
    if seeds and not told_apart:
        have = min(len(reference.values), len(other.values))
        more = seeds_needed(value, sum(seed.value for seed in seeds), text_variance, level, have)
    return Difference(
        value=value,
        low=value - width,
        high=value + width,
        p=min(1.0, p * n_pairs),
        text_error=text_error,
        seed_error=seed_error,
        degrees=degrees,
        is_told_apart=told_apart,
        is_paired=paired,
        more_seeds=more,
        is_hopeless=bool(seeds) and not told_apart and more is None,
    )


def satterthwaite(parts: list[Variance]) -> Variance:
    """The sum of independent variances, with its own degrees of freedom."""
    total = sum(part.value for part in parts)
    if total == 0:
        return Variance(0.0, min(part.degrees for part in parts))
    return Variance(total, total**2 / sum(part.value**2 / part.degrees for part in parts))


def _seed_variances(reference: ScoreSample, other: ScoreSample) -> list[Variance]:
    """The variance between seeds of either; none if neither has several seeds."""
    known = []
    for sample in (reference, other):
        n = len(sample.values)
        if n > 1:
            known.append(Variance(float(sample.values.var(ddof=1)), n - 1.0))
    if len(known) == 1:
        # One estimate, used twice: as one part it has its own degrees of freedom, as two each has
        # half of them.
        [only] = known
        return 2 * [Variance(only.value, only.degrees / 2)]
    return known


def _of_means(seeds: list[Variance], samples: tuple[ScoreSample, ...]) -> list[Variance]:
    """The variances of the samples' means over their seeds."""
    found = []
    for variance, sample in zip(seeds, samples, strict=True):
        found.append(Variance(variance.value / len(sample.values), variance.degrees))
    return found


def _text_variance(
    reference: ScoreSample, other: ScoreSample, *, paired: bool, resamples: int, seed: int
) -> Variance | None:
    """The variance of the difference due to the text; None without windows.

    Raises:
        TooFewWindowsError: fewer than FEWEST_WINDOWS.
    """
    fewest = min(len(reference.totals), len(other.totals))
    if fewest == 0:
        return None
    if fewest < FEWEST_WINDOWS:
        raise TooFewWindowsError(fewest)
    # Paired: the same draws for both, so that what is hard for both cancels in the difference.
    if paired:
        draws = resampled([other, reference], resamples=resamples, seed=seed)
        return _bootstrap_variance(draws[0] - draws[1], len(reference.totals))
    parts = []
    # Each is resampled with a seed of its own, so that the two are independent.
    for number, sample in enumerate((reference, other)):
        [draws] = resampled([sample], resamples=resamples, seed=seed + number)
        parts.append(_bootstrap_variance(draws, len(sample.totals)))
    return satterthwaite(parts)


def block_length(n: int) -> int:
    """Windows in a block, of `n` in all."""
    return max(1, math.ceil(2 * n ** (1 / 3)))


def resampled(samples: list[ScoreSample], *, resamples: int, seed: int) -> Floats:
    """The metric of each sample on the same resampled blocks of text: (samples, resamples)."""
    n = len(samples[0].totals)
    length = block_length(n)
    n_blocks = max(1, round(n / length))
    sums = []
    for sample in samples:
        # The sum of the block that begins at each window: (n,) each.
        sums += [_circular_sums(sample.totals, length), _circular_sums(sample.units, length)]
    generator = np.random.default_rng(seed)
    chunk = max(1, DRAWN_AT_ONCE // n_blocks)  # all resamples at once could need gigabytes
    totals = []
    for first in range(0, resamples, chunk):
        starts = generator.integers(n, size=(min(chunk, resamples - first), n_blocks))
        totals.append(np.stack([row[starts].sum(axis=1) for row in sums]))
    total = np.concatenate(totals, axis=1)  # (2 samples, resamples)
    # A ratio of sums, as the metric itself: windows count by their units, not each the same.
    return total[0::2] / total[1::2]


def _circular_sums(values: Floats, length: int) -> Floats:
    """The sum of `length` values from each place on; after the last comes the first."""
    circle = np.concatenate([values, values[: length - 1]])
    running = np.concatenate([[0.0], np.cumsum(circle)])
    return running[length:] - running[:-length]


def _bootstrap_variance(draws: Floats, n: int) -> Variance:
    """The variance of bootstrap `draws` of `n` windows, and its degrees of freedom.

    As the mean of b blocks varies about their own mean, a bootstrap sees (b - 1) / b of the
    variance.
    """
    # n windows hold as much information as `blocks` independent blocks: blocks - 1 degrees.
    blocks = n / block_length(n)
    drawn = max(1, round(blocks))
    return Variance(float(draws.var()) * drawn / (blocks - 1), blocks - 1)


def seeds_needed(
    value: float, seed_variances: float, text_variance: float, level: float, have: int
) -> int | None:
    """More seeds of each config until a difference of `value` would be told from none with POWER.

    `seed_variances` is the sum of both configs' variances between seeds. None: more than
    MOST_SEEDS, or no number would do, as the text alone hides the difference.
    """
    if value == 0:
        return None

    def would_tell(n: int) -> bool:
        # n seeds of each of the two configs.
        degrees = 2 * (n - 1)
        error = math.sqrt(seed_variances / n + text_variance)
        return abs(value) >= (quantile(1 - level / 2, degrees) + quantile(POWER, degrees)) * error

    fewest = max(have, 1) + 1  # at least two, as one seed has no variance
    # More seeds only help, so the first number that is enough can be found by bisection.
    n = fewest + bisect_left(range(fewest, MOST_SEEDS + 1), True, key=would_tell)
    return n - have if n <= MOST_SEEDS else None
