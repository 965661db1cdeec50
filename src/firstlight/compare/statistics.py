"""Does a difference between two configs mean anything? Two things vary by chance: the text, and the seed.

**The text.** Another validation text of the same kind would give another loss. The windows of this one are resampled,
the same ones for both configs (paired: what is hard is hard for both), in blocks of neighbours, which are alike (the
circular block bootstrap of Politis and Romano 1992; blocks of 2 n ** (1/3) windows: the order is that which Künsch 1989
and Hall, Horowitz and Jing 1995 found for a variance, the factor covers neighbours that are rather alike).

**The seed.** Another seed would give another model. Between the seeds of each config a variance is estimated (Welch
1947); of a config with a single seed it is taken to be that of the other one.

Both are added, as windows and seeds are crossed: every seed is measured on every window, so that neither is nested in
the other (Clark 1973, on the same question with readers and words). What the variance between seeds owes to the windows
is counted in both, which errs on the side of caution. Degrees of freedom are Satterthwaite's (1946).

With one seed of each, nothing is known of the seed, and the result speaks of the text alone.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firstlight.compare.student import quantile, two_sided

Floats = NDArray[np.float64]
POWER = 0.8
"""With which the advised number of seeds would tell the difference that was seen, if it is the true one."""
MOST_SEEDS = 1000
"""More are not advised."""
FEWEST_WINDOWS = 8
"""Fewer say nothing of another text. From so many on, of equal configs no more than `confidence` allows are told apart
(simulated in tests/comparison/test_statistics.py)."""
CHUNK = 2**22
"""Numbers of a resampling that are drawn at once."""


@dataclass(frozen=True)
class Sample:
    """What was measured of one config.

    `values` (seeds,) are the metric of each seed. Of the text: `nats` (spans,) are sums of a span, their mean over the
    seeds; `units` (spans,) the tokens, or bits' worth of bytes, that a span's sum is divided by. Both are None for a
    metric that is not one of the text.
    """

    values: Floats
    nats: Floats | None = None
    units: Floats | None = None


@dataclass(frozen=True)
class Difference:
    """`value` is other - reference. `low` and `high` bound it; p is that of no difference.

    `text_error` and `seed_error` are the standard errors that are due to either, None where it is not known.
    `more_seeds` of each config are what would probably tell them apart; None: no advice, or (`is_hopeless`) none would.
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
    """The text varies too, and so few windows do not tell by how much: nothing can be said, whatever the seeds."""

    def __init__(self, n_windows: int) -> None:
        super().__init__(f"{n_windows} windows, and at least {FEWEST_WINDOWS} are needed")
        self.n_windows = n_windows


def difference(
    reference: Sample, other: Sample, *, paired: bool, confidence: float, n_pairs: int, resamples: int, seed: int
) -> Difference:
    """How `other` differs from `reference`; `confidence` holds for all `n_pairs` differences together (Bonferroni).

    Raises:
        NothingKnownError: one seed of each, and no windows.
        TooFewWindowsError: fewer than FEWEST_WINDOWS.
    """
    parts: list[tuple[float, float]] = []  # variance of the mean, its degrees of freedom
    value = float(other.values.mean() - reference.values.mean())
    text = _text_part(reference, other, paired=paired, resamples=resamples, seed=seed)
    if text is not None:
        parts.append(text)
    spread = _seed_variances(reference, other)
    seed_variance = None
    if spread is not None:
        parts += [(s / len(sample.values), n) for s, n, sample in zip(*spread, (reference, other), strict=True)]
        seed_variance = sum(variance for variance, _ in parts[-2:])
    if not parts:
        raise NothingKnownError
    level = (1 - confidence) / n_pairs
    variance, degrees = satterthwaite(parts)
    error = math.sqrt(variance)
    width = quantile(1 - level / 2, degrees) * error
    p = two_sided(value / error, degrees) if error else float(value == 0)
    told_apart = abs(value) > width
    more = None
    if not told_apart and spread is not None:
        more = seeds_needed(
            value, sum(spread[0]), text[0] if text else 0.0, level, min(len(reference.values), len(other.values))
        )
    return Difference(
        value=value,
        low=value - width,
        high=value + width,
        p=min(1.0, p * n_pairs),
        text_error=math.sqrt(text[0]) if text is not None else None,
        seed_error=math.sqrt(seed_variance) if seed_variance is not None else None,
        degrees=degrees,
        is_told_apart=told_apart,
        is_paired=paired,
        more_seeds=more,
        is_hopeless=not told_apart and spread is not None and more is None,
    )


def satterthwaite(parts: list[tuple[float, float]]) -> tuple[float, float]:
    """The sum of variances that were estimated with some degrees of freedom each, and its own degrees of freedom."""
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0, min(degrees for _, degrees in parts)
    return total, total**2 / sum(variance**2 / degrees for variance, degrees in parts)


def _seed_variances(reference: Sample, other: Sample) -> tuple[list[float], list[float]] | None:
    """The variance between seeds of either, and its degrees of freedom; None if neither has several."""
    counts = [len(reference.values), len(other.values)]
    if max(counts) < 2:
        return None
    known = [float(s.values.var(ddof=1)) if len(s.values) > 1 else None for s in (reference, other)]
    if known[0] is None or known[1] is None:
        only, degrees = next((v, n - 1.0) for v, n in zip(known, counts, strict=True) if v is not None)
        # One estimate, used twice: as one part it has its own degrees of freedom, as two each has half of them.
        return [only, only], [degrees / 2, degrees / 2]
    return [known[0], known[1]], [n - 1.0 for n in counts]


def _text_part(
    reference: Sample, other: Sample, *, paired: bool, resamples: int, seed: int
) -> tuple[float, float] | None:
    """The variance of the difference that is due to the text, and its degrees of freedom; None without windows.

    Raises:
        TooFewWindowsError: fewer than FEWEST_WINDOWS.
    """
    samples = [s for s in (reference, other) if s.nats is not None and s.units is not None]
    if len(samples) < 2:
        return None
    fewest = min(len(s.nats) for s in samples if s.nats is not None)
    if fewest < FEWEST_WINDOWS:
        raise TooFewWindowsError(fewest)
    if paired:
        one, two = samples
        assert one.nats is not None and one.units is not None and two.nats is not None and two.units is not None
        draws = resampled([(two.nats, two.units), (one.nats, one.units)], resamples=resamples, seed=seed)
        return _bootstrap_variance(draws[0] - draws[1], len(one.nats))
    parts = []
    for number, sample in enumerate(samples):
        assert sample.nats is not None and sample.units is not None
        [draws] = resampled([(sample.nats, sample.units)], resamples=resamples, seed=seed + number)
        parts.append(_bootstrap_variance(draws, len(sample.nats)))
    return satterthwaite(parts)


def block_length(n: int) -> int:
    """Windows in a block, of `n` in all."""
    return max(1, math.ceil(2 * n ** (1 / 3)))


def resampled(ratios: list[tuple[Floats, Floats]], *, resamples: int, seed: int) -> Floats:
    """Sums of numerators over sums of denominators (n,), of the same resampled blocks for all: (ratios, resamples)."""
    n = len(ratios[0][0])
    length = block_length(n)
    n_blocks = max(1, round(n / length))
    sums = np.stack([_circular_sums(values, length) for pair in ratios for values in pair])  # (2 ratios, n)
    generator = np.random.default_rng(seed)
    totals = []
    for start in range(0, resamples, chunk := max(1, CHUNK // n_blocks)):
        starts = generator.integers(n, size=(min(chunk, resamples - start), n_blocks))
        totals.append(np.stack([row[starts].sum(axis=1) for row in sums]))
    total = np.concatenate(totals, axis=1)
    return total[0::2] / total[1::2]


def _circular_sums(values: Floats, length: int) -> Floats:
    """The sum of `length` values from each place on; after the last comes the first."""
    running = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: length - 1]]))])
    return running[length:] - running[:-length]


def _bootstrap_variance(draws: Floats, n: int) -> tuple[float, float]:
    """The variance of what was drawn, for `n` windows, and its degrees of freedom: those of as many whole blocks.

    As the mean of b blocks varies about their own mean, a bootstrap sees (b - 1) / b of the variance.
    """
    length = block_length(n)
    blocks = n / length
    drawn = max(1, round(blocks))
    return float(draws.var()) * drawn / (blocks - 1), blocks - 1


def seeds_needed(value: float, seed_variances: float, text_variance: float, level: float, have: int) -> int | None:
    """More seeds of each config until a difference of `value` would be told from none with POWER.

    `seed_variances` is the sum of both configs' variances between seeds. None: more than MOST_SEEDS, or no number
    would do, as the text alone hides the difference.
    """
    if value == 0:
        return None

    def would_tell(n: int) -> bool:
        degrees = 2 * (n - 1)
        error = math.sqrt(seed_variances / n + text_variance)
        return abs(value) >= (quantile(1 - level / 2, degrees) + quantile(POWER, degrees)) * error

    fewest = max(have, 1) + 1
    n = fewest + bisect_left(range(fewest, MOST_SEEDS + 1), True, key=would_tell)
    return n - have if n <= MOST_SEEDS else None
