"""How sure one mean is: a loss over a text, and that of the config that was chosen as the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from firstlight.errors import ConfigError
from firstlight.statistics.arrays import check_confidence, check_weights, numbers
from firstlight.statistics.spread import pooled
from firstlight.statistics.text import Floats, number_of_frequencies, variances_of_means


@dataclass(frozen=True)
class Interval:
    """A mean; [`low`, `high`] holds what it is an estimate of, with the confidence asked for."""

    mean: float
    low: float
    high: float


def mean_over_text(
    losses: ArrayLike, tokens: ArrayLike, confidence: float = 0.95
) -> Interval | None:
    """The mean loss of one model, and where it would be on all text of the same kind.

    `losses` (windows,) are mean losses of neighbouring windows, `tokens` (windows,) their weights.
    The variance is that of `firstlight.statistics.text`, with Student's t of its frequencies. None
    of a single window, which tells nothing of others.

    Raises:
        ConfigError: the arrays do not fit together, or hold something that is not finite.
    """
    check_confidence(confidence)
    values, weights = numbers("losses", losses), check_weights(tokens)
    if values.shape != weights.shape:
        raise ConfigError(f"losses: an array {values.shape}, and tokens make it {weights.shape}")
    n_frequencies = number_of_frequencies(len(weights))
    if n_frequencies == 0:
        return None
    mean, variance = float(values @ weights), float(variances_of_means(values, weights))
    margin = _t((1 - confidence) / 2, n_frequencies) * variance**0.5
    return Interval(mean, mean - margin, mean + margin)


def mean_of_chosen(
    losses: Mapping[str, Sequence[float]],
    chosen: str,
    confidence: float = 0.95,
    *,
    tried: int | None = None,
    by_best: bool = True,
    is_loss: bool = True,
) -> Interval | None:
    """The mean over seeds of the config `chosen` from several, and where it is with other seeds.

    `losses` maps the name of a config to its losses by seed, the same seeds for all (seeds,).
    `tried` configs were in the choice, by default these; unfinished ones count as well. The chosen
    one is partly the luckiest, so the interval reaches further up than down: the upper limit holds
    for all that were tried together (Bonferroni). The lower limit needs no correction if the
    config with the lowest mean was chosen (`by_best`), of these losses or of others that the same
    luck makes lower: were it too high for the chosen one, whose mean is below all others, it would
    be so for the truly best one, too. Unless `is_loss`, higher is better, and all is the other way
    round. None of a single seed.

    A seed that is lucky for all configs is counted apart, with its own degrees of freedom; the
    squares of both margins add up (Banerjee 1960). A config that varies far more over the seeds
    than the others counts by its own variance where that is larger.

    Raises:
        ConfigError: the configs have other numbers of seeds, or losses that are not finite.
    """
    check_confidence(confidence)
    if chosen not in losses:
        raise ConfigError(f"chosen ({chosen}): not one of the configs")
    rows = [numbers(f"losses of {name}", of_config) for name, of_config in losses.items()]
    if len({row.shape for row in rows}) > 1 or rows[0].ndim != 1:
        raise ConfigError("losses: a list for each config, and all as long, for the same seeds")
    values, place = np.stack(rows), list(losses).index(chosen)  # (configs, seeds)
    if values.shape[1] < 2:
        return None
    alpha = (1 - confidence) / 2
    of_all = alpha / max(tried or 0, len(values))
    mean, worse = float(values[place].mean()), _margin(values, place, alpha, of_all)
    better = _margin(values, place, alpha, alpha) if by_best else worse
    if is_loss:
        return Interval(mean, mean - better, mean + worse)
    return Interval(mean, mean - worse, mean + better)


def _margin(values: Floats, place: int, alpha: float, of_own: float) -> float:
    """How far the mean of row `place` is from the truth, but for `alpha` of the cases.

    What the seeds do to all configs (configs, seeds) was not chosen from; what they do to each
    apart was, so that its share is `of_own`.
    """
    k, n = values.shape
    by_seed = values.mean(axis=0)  # (seeds,)
    square = _t(alpha, n - 1) ** 2 * float(by_seed.var(ddof=1)) / n
    if k > 1:
        residuals = values - values.mean(axis=1, keepdims=True) - by_seed + by_seed.mean()
        degrees = (k - 1) * (n - 1)
        # A config's deviation from the mean of k has (k - 1) / k of the variance.
        of_deviation = float((residuals**2).sum()) / degrees * (k - 1) / k
        square += _t(of_own, degrees) ** 2 * of_deviation / n
    own = values.var(axis=1, ddof=1)  # (configs,)
    if pooled(own, np.full(k, n - 1.0)).is_wild[place]:
        square = max(square, _t(of_own, n - 1) ** 2 * float(own[place]) / n)
    return square**0.5


@lru_cache(maxsize=1024)
def _t(alpha: float, degrees: float) -> float:
    """Student's, one-sided."""
    return float(stats.t.isf(alpha, degrees))
