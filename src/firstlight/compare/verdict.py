"""Which config is best, and whether the others are worse by more than chance."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight.compare.equal_tokens import common_tokens, names_of
from firstlight.compare.groups import Group
from firstlight.compare.runs import Run
from firstlight.compare.settings import CompareSettings
from firstlight.compare.windows import (
    Ground,
    Measured,
    block_losses,
    check_grounds,
    configured_ground,
    measure,
    measured_mean,
    scores_last_window,
)
from firstlight.errors import counted
from firstlight.metrics.base import Mean
from firstlight.statistics import comparison as statistics

BEST = "0"
"""The place of the best config in the ranking, which is its name where they are compared."""
OTHER_TEXT = "cannot be told: measured on another text than the best"


@dataclass(frozen=True)
class Difference:
    """The difference `value` = this config - the best one, with its interval, in the metric.

    `low` and `high` are None where nothing is known; the rest as in `firstlight.statistics.Pair`.
    """

    value: float
    low: float | None
    high: float | None
    is_told_apart: bool
    text_error: float | None
    seed_error: float | None
    more_seeds: int | None


@dataclass(frozen=True)
class Ranked:
    """A config, what was measured of it, and how it differs from the best one.

    `difference` is None for the best one itself, and for one that was measured on another text.
    """

    group: Group
    values: list[float]
    """The metric of each seed."""
    difference: Difference | None
    could_be_best: bool
    sentence: str

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def spread(self) -> float | None:
        """Standard deviation between seeds; None for a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Judged:
    """The configs, best first, and what they were measured on; None if they were not measured."""

    ranked: list[Ranked]
    n_windows: int | None
    n_blocks: int | None


@dataclass(frozen=True)
class _Scores:
    """The metric and the ground of each run, and what was measured of it, if anything was."""

    values: dict[Path, float]
    grounds: dict[Path, Ground]
    measured: dict[Path, Measured]

    def of(self, group: Group) -> list[float]:
        """The metric of each run of a group."""
        return [self.values[run.folder] for run in group.runs]


def judge(groups: list[Group], settings: CompareSettings) -> tuple[Judged, list[str]]:
    """The configs, best first, each with a verdict; and notes.

    Raises:
        ConfigError: a run has not logged the metric, or the runs cannot be compared in it.
    """
    column = settings.metric
    runs = [run for group in groups for run in group.runs]
    for run in runs:
        run.final(column)  # raises if it has none, before the long measuring
    mean = measured_mean(runs[0], settings)
    scores = _logged(runs, column) if mean is None else _measured(runs, mean, settings)
    # What qualifies the verdicts is said beside them.
    metric = runs[0].metric(column)
    notes = (
        _unlike(runs, column)
        + (_unfinished(runs, column) if settings.at == "end" else [])
        + check_grounds(runs, scores.grounds, column, metric)
    )
    sign = runs[0].sign_of(column)

    ranked = sorted(groups, key=lambda group: sign * float(np.mean(scores.of(group))))
    return _judged(ranked, scores, sign, settings, of_text=metric is not None), notes


def _measured(runs: list[Run], metric: Mean, settings: CompareSettings) -> _Scores:
    # All runs on the same windows: the last, shorter one counts only if it counts for all of them.
    last_window = all(map(scores_last_window, runs))
    scores = _Scores({}, {}, {})
    for run in runs:
        measured = measure(run, metric, settings, last_window=last_window)
        scores.values[run.folder] = measured.value
        scores.grounds[run.folder] = measured.ground
        scores.measured[run.folder] = measured
    return scores


def _logged(runs: list[Run], column: str) -> _Scores:
    values = {run.folder: run.final(column).value for run in runs}
    grounds = {run.folder: configured_ground(run) for run in runs}
    return _Scores(values, grounds, {})


def _same_text(group: Group, best: Group, scores: _Scores) -> bool:
    texts = {scores.grounds[run.folder].text for run in [*group.runs, *best.runs]}
    return len(texts) == 1


def _judged(
    ranked: list[Group], scores: _Scores, sign: int, settings: CompareSettings, *, of_text: bool
) -> Judged:
    """The verdicts on `ranked`: what is comparable is compared with the first."""
    # By their places in the ranking.
    comparable: dict[str, Group] = {}
    for place, group in enumerate(ranked):
        if not of_text or _same_text(group, ranked[0], scores):
            comparable[str(place)] = group
    comparison, n_blocks = None, None
    pairs: dict[str, statistics.Pair] = {}
    if len(comparable) > 1:
        comparison, n_blocks = _compared(comparable, scores, sign, settings)
        pairs = {pair.b: pair for pair in comparison.pairs if pair.a == BEST}
    rest = _rest_of_text(scores)
    found = []
    for place, group in enumerate(ranked):
        pair, difference, could_be_best = pairs.get(str(place)), None, True
        if pair is not None:
            difference = _difference(pair, sign)
            sentence = _sentence(pair, sign, rest, of_text=of_text)
        elif str(place) == BEST:
            sentence = _sentence_of_the_best(len(ranked), comparison)
        else:
            sentence = OTHER_TEXT
        if comparison is not None and str(place) in comparable:
            could_be_best = str(place) in comparison.could_be_best
        found.append(Ranked(group, scores.of(group), difference, could_be_best, sentence))
    n_windows = min((of_run.n_windows for of_run in scores.measured.values()), default=None)
    return Judged(found, n_windows, n_blocks)


def _compared(
    groups: dict[str, Group], scores: _Scores, sign: int, settings: CompareSettings
) -> tuple[statistics.Comparison, int | None]:
    """The comparison of groups by their places; and on how many blocks of text."""
    runs = [run for group in groups.values() for run in group.runs]
    n_blocks, weights = None, None
    losses = np.array([scores.values[run.folder] for run in runs])  # (runs,)
    if scores.measured:
        # (runs, blocks)
        losses, weights = block_losses([scores.measured[run.folder] for run in runs])
        n_blocks = len(weights)
    seeds = {place: [run.seed for run in group.runs] for place, group in groups.items()}
    lasts = np.cumsum([len(of_group) for of_group in seeds.values()])
    # np.split takes the places between its parts, so not the last end.
    of_groups = dict(zip(groups, np.split(sign * losses, lasts[:-1]), strict=True))
    found = statistics.compare(of_groups, weights, seeds, settings.confidence, advise_on=BEST)
    return found, n_blocks


def _difference(pair: statistics.Pair, sign: int) -> Difference:
    """The pair (best, other) the other way round, in the metric, of which more may be better."""
    # A change of sign turns an interval round.
    low, high = sorted((-sign * pair.low, -sign * pair.high))
    is_known = bool(np.isfinite(low))  # JSON has no infinity
    return Difference(
        value=-sign * pair.difference,
        low=low if is_known else None,
        high=high if is_known else None,
        is_told_apart=pair.told_apart,
        text_error=pair.text_error,
        seed_error=pair.seed_error,
        more_seeds=pair.more_seeds,
    )


def _rest_of_text(scores: _Scores) -> int | None:
    """The windows that all runs have, if fewer were measured; None if all were, or none."""
    measured = scores.measured.values()
    of_text = min((of_run.n_windows_of_text for of_run in measured), default=0)
    used = max((of_run.n_windows for of_run in measured), default=0)
    return of_text if of_text > used else None


def _sentence_of_the_best(n: int, comparison: statistics.Comparison | None) -> str:
    if n == 1:
        return "the only config"
    if comparison is None:
        return "the best here, which may be chance"
    others = len(comparison.could_be_best) - 1
    if others == 0:
        return "the best"
    return f"the best here, which may be chance: {counted(others, 'other')} could be the best"


def _sentence(pair: statistics.Pair, sign: int, rest: int | None, *, of_text: bool) -> str:
    if pair.reason == statistics.MORE_THAN_CHANCE:
        return "worse, by more than chance"
    if pair.reason == statistics.MORE_THAN_SEEDS:
        if not of_text:
            return "worse, by more than the chance of the seeds"
        return f"worse on this text, by {pair.reason}"
    if pair.reason == statistics.LOWER_HERE:
        than_best = "higher" if sign > 0 else "lower"
        return f"{than_best} on this text; another seed may reverse it: run each with seeds=3"
    if pair.reason == statistics.ONE_SEED:
        return f"{pair.reason}; run each with seeds=3"
    if pair.more_seeds is not None:
        return f"{pair.reason}; run about {counted(pair.more_seeds, 'more seed')} of each"
    if pair.reason == statistics.OTHER_SEEDS:
        return "not told apart, and hardly any number of seeds would tell"
    if rest is not None:
        return f"{pair.reason}; measure all of it: windows={rest}"
    return f"{pair.reason}; more text to measure on, or a lower data.train_ratio, would help"


def _unfinished(runs: list[Run], column: str) -> list[str]:
    notes = []
    for run in runs:
        if not run.is_finished:
            step = int(run.final(column).x["step"])
            notes.append(f"{run.name} is unfinished (step {step:,}): it may still change")
    return notes


def _unlike(runs: list[Run], column: str) -> list[str]:
    """A note that names the runs that have not seen as many tokens as most others."""
    seen: dict[int, list[str]] = {}
    for run in runs:
        tokens = run.final(column).x.get("tokens")
        if tokens is not None:
            seen.setdefault(int(tokens), []).append(run.name)
    if len(seen) < 2:
        return []
    # Most runs decide what is usual; of two numbers seen equally often, the larger one.
    usual = max(seen, key=lambda tokens: (len(seen[tokens]), tokens))
    others = [
        f"{names_of(names)} {tokens:,}" for tokens, names in sorted(seen.items()) if tokens != usual
    ]
    common = common_tokens(runs, column)
    offer = "" if common is None else f"; at=equal_tokens compares them after {common:,}"
    return [
        f"not all runs have seen the same number of tokens: {'; '.join(others)}; the others"
        f" {usual:,}{offer}"
    ]
