"""Which config is best, and whether the others are worse by more than chance."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight.compare.groups import Group
from firstlight.compare.runs import Run
from firstlight.compare.settings import CompareSettings
from firstlight.compare.statistics import (
    FEWEST_WINDOWS,
    Difference,
    NothingKnownError,
    ScoreSample,
    TooFewWindowsError,
    difference,
)
from firstlight.compare.windows import (
    Ground,
    MeasuredWindows,
    check_grounds,
    configured_ground,
    measure_windows,
    measured_mean,
    sample_of,
    scores_last_window,
)
from firstlight.metrics.base import Mean

NOTHING_KNOWN = "nothing can be said with one seed of each and no windows; run each with seeds=3"
MOST_NAMED = 6
"""Most runs that a note names."""


@dataclass(frozen=True)
class Ranked:
    """A config, what was measured of it, and how it differs from the best one.

    `difference` is None for the best one itself, and where nothing can be said.
    """

    group: Group
    sample: ScoreSample
    difference: Difference | None
    sentence: str


def judge(groups: list[Group], settings: CompareSettings) -> tuple[list[Ranked], list[str]]:
    """The configs, best first, each with a verdict; and notes.

    The best one is chosen by looking, so the confidence holds for all pairs of configs.

    Raises:
        ConfigError: a run has not logged the metric, or the runs cannot be compared in it.
    """
    column = settings.metric
    runs = [run for group in groups for run in group.runs]
    for run in runs:
        run.final(column)  # raises if it has none, before the long measuring
    mean = measured_mean(runs[0], settings)
    if mean is not None:
        samples, grounds = _measured(groups, runs, mean, settings)
    else:
        samples, grounds = _logged(groups, column)
    # What qualifies the verdicts is said beside them.
    metric = runs[0].metric(column)
    notes = (
        _unfinished(runs, column)
        + _unlike(runs, column)
        + check_grounds(runs, grounds, column, metric)
    )
    sign = runs[0].sign_of(column)
    pairs = list(zip(groups, samples, strict=True))
    pairs.sort(key=lambda pair: sign * pair[1].mean)
    best_group, best = pairs[0]
    # Each of the others against the best. The first was chosen by looking at all of them, which is
    # why the confidence is shared by all pairs, not only by those that are compared here.
    others = []
    for group, sample in pairs[1:]:
        is_paired = grounds[group.runs[0].folder] == grounds[best_group.runs[0].folder]
        found = None
        try:
            found = difference(
                best,
                sample,
                paired=is_paired,
                confidence=settings.confidence,
                n_pairs=math.comb(len(groups), 2),
                resamples=settings.resamples,
                seed=settings.seed,
            )
            sentence = _sentence(found, is_of_text=metric is not None)
        except TooFewWindowsError as error:
            sentence = _too_few(error.n_windows, settings)
        except NothingKnownError:
            sentence = NOTHING_KNOWN
        others.append(Ranked(group, sample, found, sentence))
    return [Ranked(best_group, best, None, _sentence_of_the_best(others)), *others], notes


def _measured(
    groups: list[Group], runs: list[Run], metric: Mean, settings: CompareSettings
) -> tuple[list[ScoreSample], dict[Path, Ground]]:
    """The scores of the groups from evaluating their weights, and the ground of each run."""
    # All runs on the same windows: the last, shorter one counts only if it counts for all of them.
    last_window = all(map(scores_last_window, runs))
    measured: dict[Path, MeasuredWindows] = {}
    grounds: dict[Path, Ground] = {}
    for run in runs:
        measured[run.folder] = measure_windows(run, metric, settings, last_window=last_window)
        grounds[run.folder] = measured[run.folder].ground
    return [sample_of(group, measured) for group in groups], grounds


def _logged(groups: list[Group], column: str) -> tuple[list[ScoreSample], dict[Path, Ground]]:
    """The scores of the groups from what their runs logged, and the ground of each run."""
    samples: list[ScoreSample] = []
    grounds: dict[Path, Ground] = {}
    for group in groups:
        values = []
        for run in group.runs:
            values.append(run.final(column).value)
            grounds[run.folder] = configured_ground(run)
        samples.append(ScoreSample(np.array(values)))
    return samples, grounds


def _too_few(n_windows: int, settings: CompareSettings) -> str:
    # The user's own limit; otherwise it is the text that is short.
    if settings.windows < FEWEST_WINDOWS:
        return f"too few windows to tell: windows={settings.windows}, and it takes {FEWEST_WINDOWS}"
    return (
        f"validation has too few windows to tell: {n_windows}, and it takes {FEWEST_WINDOWS}; more"
        " validation text, or a lower data.train_ratio, would help"
    )


def _sentence_of_the_best(others: list[Ranked]) -> str:
    if not others:
        return "the only config"
    if any(other.difference is not None for other in others):
        return "the best"
    return "the best here, which may be chance"


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
        f"{_named(names)} {tokens:,}" for tokens, names in sorted(seen.items()) if tokens != usual
    ]
    return [
        f"not all runs have seen the same number of tokens: {'; '.join(others)}; the others"
        f" {usual:,}"
    ]


def _named(names: list[str]) -> str:
    text = ", ".join(names[:MOST_NAMED])
    if len(names) > MOST_NAMED:
        text += f" and {len(names) - MOST_NAMED} more"
    return text


def _sentence(found: Difference, *, is_of_text: bool) -> str:
    if found.seed_error is None:
        verdict = "worse" if found.is_told_apart else "not distinguishable"
        return f"{verdict} on this text; the effect of the seed is unknown: run each with seeds=3"
    if found.is_told_apart:
        if found.text_error is None and is_of_text:
            return (
                "worse on this text, by more than the chance of the seeds; other texts are unknown"
            )
        return "worse, by more than chance"
    if found.more_seeds == 1:
        return "not distinguishable; run about 1 more seed of each"
    if found.more_seeds is not None:
        return f"not distinguishable; run about {found.more_seeds} more seeds of each"
    if found.text_error is not None and abs(found.value) < 2 * found.text_error:
        return "not distinguishable, and no number of seeds would tell: the text is too short"
    return "not distinguishable, and hardly any number of seeds would tell"
