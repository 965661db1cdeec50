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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from firstlight.errors import ConfigError, shorten
from firstlight.statistics.critical import all_pairs, to_the_best
from firstlight.statistics.design import Design, design
from firstlight.statistics.parts import SeedPart, TextPart, Variance
from firstlight.statistics.text import number_of_frequencies

Floats = NDArray[np.float64]
LITTLE_TEXT = 3
"""With fewer cosine frequencies, so below 50 windows, a text may be too short to tell anything."""


@dataclass(frozen=True)
class Pair:
    """Two configs: `difference` is a's mean loss less b's, in the unit of the losses.

    [`low`, `high`] holds the true difference; for all pairs of a comparison together, with its
    confidence. They are infinite where nothing is known: one seed each, or a single window.
    `reason` says in words why the two are told apart or not.

    `text_error` and `seed_error` are the standard errors that are due to either (None: unknown).
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
    tokens: ArrayLike,
    seeds: Mapping[str, Sequence[int]],
    confidence: float = 0.95,
) -> Comparison:
    """Compare configs by their losses, lower being better.

    `losses` maps the name of a config to an array (seeds, windows): the mean loss of each seed's
    model in each window of the same text, in nats or any other unit. `tokens` (windows,) are the
    windows' weights. `seeds` maps the name to the seeds, one for each row. Configs that share their
    seeds are compared with the seeds as blocks.

    `confidence` holds for all intervals together: configs that are all equal lead to any verdict
    with a probability of at most 1 - confidence, as long as neighbouring windows are correlated by
    at most 0.8.

    Raises:
        ConfigError: the arrays do not fit together, or hold something that is not finite.
    """
    values, weights = _checked(losses, tokens, seeds, confidence)
    names, seed_lists = list(losses), [list(seeds[name]) for name in losses]
    plan = design(seed_lists)
    judge = _Judge(values, weights, plan, seed_lists, 1 - confidence)
    pairs = []
    for i, j in combinations(range(len(names)), 2):
        pairs.append(judge.pair(names[i], names[j], i, j))
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
    """How large a difference must be for one part of its variance: factor x error."""

    margin: float
    error: float
    factor: float


class _Margins(NamedTuple):
    """How large a difference must be: on another text with these seeds, and in general.

    Infinite where it is not known.
    """

    text: float
    both: float
    text_error: float | None
    seed_error: float | None


class _Judge:
    """The differences of configs, and how large they must be."""

    def __init__(
        self,
        values: Floats,
        weights: Floats,
        plan: Design,
        seeds: Sequence[Sequence[int]],
        alpha: float,
    ) -> None:
        self._windows, self._k, self._alpha = len(weights), len(seeds), alpha
        effects = plan.to_effects @ values  # (configs, windows)
        self._effects = effects @ weights
        self._text = self._seed = None
        if self._windows > 1:
            self._text = TextPart(effects, weights)
            if plan.degrees > 0:
                self._seed = SeedPart(plan, values, weights, seeds)

    def pair(self, a: str, b: str, i: int, j: int) -> Pair:
        """Whether the configs `i` and `j`, named `a` and `b`, are told apart."""
        difference = float(self._effects[i] - self._effects[j])
        found = self._margins(i, j, all_pairs)
        told_apart = abs(difference) > found.both
        return Pair(
            a=a,
            b=b,
            difference=difference,
            low=difference - found.both,
            high=difference + found.both,
            told_apart=told_apart,
            reason=self._reason(difference, found),
            text_error=found.text_error,
            seed_error=found.seed_error,
        )

    def could_be_best(self, i: int) -> bool:
        """Whether no other config is better than `i` by more than chance."""
        for j in range(self._k):
            if j == i:
                continue
            margins = self._margins(i, j, to_the_best)
            if self._effects[i] - self._effects[j] > margins.both:
                return False
        return True

    def _margins(self, i: int, j: int, critical: Critical) -> _Margins:
        if self._text is None:
            return _Margins(math.inf, math.inf, None, None)
        text = self._largest(self._text.estimates(i, j), critical)
        if self._seed is None:
            return _Margins(text.margin, math.inf, text.error, None)
        seed = self._largest(self._seed.estimates(i, j), critical)
        counted_twice = self._seed.of_seed_and_window(i, j) * min(text.factor, seed.factor) ** 2
        square = text.margin**2 + seed.margin**2 - counted_twice
        # Never less than the seeds alone ask for, whose estimate knows nothing of the text.
        both = math.sqrt(max(square, seed.margin**2))
        return _Margins(text.margin, both, text.error, seed.error)

    def _largest(self, estimates: list[Variance], critical: Critical) -> _Part:
        parts = []
        for value, degrees in estimates:
            factor = critical(self._k, degrees, self._alpha)
            parts.append(_Part(factor * math.sqrt(value), math.sqrt(value), factor))
        return max(parts)

    def _reason(self, difference: float, margins: _Margins) -> str:
        size = abs(difference)
        if self._text is None:
            return "cannot be told: a single window of text"
        if self._seed is None:
            if size > margins.text:
                lower = "a" if difference < 0 else "b"
                return f"{lower} is lower on this text; another seed may reverse it"
            return "one seed of each, and not told apart on this text either"
        if size > margins.both:
            return "more than chance"
        if size > margins.text:
            return "not told apart: other seeds may reverse it"
        if number_of_frequencies(self._windows) < LITTLE_TEXT:
            return f"cannot be told: {self._windows} windows are too little text"
        return "not told apart: another text may reverse it"


def _checked(
    losses: Mapping[str, ArrayLike],
    tokens: ArrayLike,
    seeds: Mapping[str, Sequence[int]],
    confidence: float,
) -> tuple[Floats, Floats]:
    """The losses of all runs, (runs, windows), and the windows' weights, which add up to 1."""
    if len(losses) < 2:
        raise ConfigError(f"losses: {len(losses)} configs, and comparing takes two")
    if not 0.5 <= confidence < 1:
        raise ConfigError(f"confidence ({confidence}) must be at least 0.5 and below 1")
    weights = _numbers("tokens", tokens)
    if weights.ndim != 1 or len(weights) == 0 or not (weights > 0).all():
        raise ConfigError("tokens: one positive number for each window")
    if set(seeds) != set(losses):
        different = shorten(", ".join(sorted(map(str, set(seeds) ^ set(losses)))))
        raise ConfigError(f"seeds and losses name different configs ({different})")
    rows = []
    for name, of_config in losses.items():
        values, where = _numbers(f"losses of {shorten(str(name))}", of_config), list(seeds[name])
        if values.shape != (len(where), len(weights)) or not where:
            raise ConfigError(
                f"losses of {shorten(str(name))}: an array {values.shape}, and it must have a row"
                f" for each of its {len(where)} seeds and a column for each of"
                f" {len(weights)} windows"
            )
        if len(set(where)) < len(where):
            raise ConfigError(f"seeds of {shorten(str(name))}: a seed is named twice ({where})")
        rows.append(values)
    return np.concatenate(rows), weights / weights.sum()


def _numbers(what: str, values: ArrayLike) -> Floats:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: not an array of numbers ({error})") from None
    if not np.isfinite(numbers).all():
        raise ConfigError(f"{what}: holds nan or inf; leave diverged runs out")
    return numbers
