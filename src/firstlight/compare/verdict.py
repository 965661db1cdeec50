"""Which config is best, and whether the others are worse by more than chance."""

import math
from dataclasses import dataclass

import numpy as np

from firstlight.compare.groups import Group
from firstlight.compare.runs import Run
from firstlight.compare.settings import Settings
from firstlight.compare.statistics import (
    FEWEST_WINDOWS,
    Difference,
    NothingKnownError,
    Sample,
    TooFewWindowsError,
    difference,
)
from firstlight.compare.windows import (
    check_grounds,
    configured_ground,
    measure,
    measured_as,
    sample_of,
    scores_last_window,
)


@dataclass(frozen=True)
class Ranked:
    """A config with what was measured of it. `difference` is from the best one: None of that one itself, and where
    nothing can be said."""

    group: Group
    sample: Sample
    difference: Difference | None
    sentence: str

    @property
    def mean(self) -> float:
        return float(self.sample.values.mean())

    @property
    def spread(self) -> float | None:
        """Standard deviation between seeds; None of a single one."""
        return float(self.sample.values.std(ddof=1)) if len(self.sample.values) > 1 else None


def judge(groups: list[Group], settings: Settings) -> tuple[list[Ranked], list[str]]:
    """The configs, best first, each with a verdict; and what is to be noted.

    The best one is chosen by looking, so the confidence holds for all pairs there are.

    Raises:
        ConfigError: a run has not logged the metric, or the runs cannot be compared in it.
    """
    runs = [run for group in groups for run in group.runs]
    for run in runs:
        run.final(settings.metric)
    metric = runs[0].metric(settings.metric)
    if (mean := measured_as(runs[0], settings)) is not None:
        last_window = all(map(scores_last_window, runs))  # the same windows for all of them
        measured = {run.folder: measure(run, mean, settings, last_window=last_window) for run in runs}
        grounds = [measured[run.folder].ground for run in runs]
        samples = [sample_of(group, measured) for group in groups]
    else:
        grounds = [configured_ground(run) for run in runs]
        samples = [_logged(group.runs, settings.metric) for group in groups]
    notes = [*_unlike(runs, settings.metric), *check_grounds(runs, grounds, settings.metric, metric)]
    ground_of = {run.folder: ground for run, ground in zip(runs, grounds, strict=True)}
    sign = runs[0].sign_of(settings.metric)
    order = sorted(range(len(groups)), key=lambda n: sign * float(samples[n].values.mean()))
    best, others = order[0], []
    for n in order[1:]:
        is_paired = ground_of[groups[n].runs[0].folder] == ground_of[groups[best].runs[0].folder]
        try:
            found = difference(
                samples[best],
                samples[n],
                paired=is_paired,
                confidence=settings.confidence,
                n_pairs=math.comb(len(groups), 2),
                resamples=settings.resamples,
                seed=settings.seed,
            )
        except TooFewWindowsError as error:
            others.append(Ranked(groups[n], samples[n], None, _too_few(error.n_windows, settings)))
        except NothingKnownError:
            others.append(Ranked(groups[n], samples[n], None, NOTHING_KNOWN))
        else:
            others.append(Ranked(groups[n], samples[n], found, _sentence(found, is_of_text=metric is not None)))
    first = Ranked(groups[best], samples[best], None, _sentence_of_the_best(others))
    return [first, *others], notes


NOTHING_KNOWN = "nothing can be said of one seed of each without windows; run each with seeds=3"
MOST_NAMED = 6
"""Runs that a note names one by one."""


def _too_few(n_windows: int, settings: Settings) -> str:
    if settings.windows < FEWEST_WINDOWS:
        return f"too few windows to tell: windows={settings.windows}, and it takes {FEWEST_WINDOWS}"
    return (
        f"validation has too few windows to tell: {n_windows}, and it takes {FEWEST_WINDOWS}; more validation text, "
        "or a lower data.train_ratio, would help"
    )


def _sentence_of_the_best(others: list[Ranked]) -> str:
    if not others:
        return "the only config"
    is_anything_known = any(other.difference is not None for other in others)
    return "the best" if is_anything_known else "the best here, which may be chance"


def _unlike(runs: list[Run], metric: str) -> list[str]:
    """The runs that are not finished, and those that have seen other numbers of tokens than most."""
    notes = [
        f"{run.name} is unfinished (step {int(run.final(metric).x['step']):,}): it may still change"
        for run in runs
        if not run.is_finished
    ]
    seen: dict[int, list[str]] = {}
    for run in runs:
        tokens = run.final(metric).x.get("tokens")
        if tokens is not None:
            seen.setdefault(int(tokens), []).append(run.name)
    if len(seen) > 1:
        usual = max(seen, key=lambda tokens: (len(seen[tokens]), tokens))
        others = [f"{_named(names)} {tokens:,}" for tokens, names in sorted(seen.items()) if tokens != usual]
        notes.append(f"not all runs have seen the same number of tokens: {'; '.join(others)}; the others {usual:,}")
    return notes


def _named(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _logged(runs: list[Run], metric: str) -> Sample:
    return Sample(np.array([run.final(metric).value for run in runs]))


def _sentence(found: Difference, *, is_of_text: bool) -> str:
    alone = " on this text; of the seed nothing is known: run each with seeds=3" if found.seed_error is None else ""
    if found.is_told_apart and found.text_error is None and is_of_text:
        return "worse on this text, by more than the chance of the seeds; of another text nothing is known"
    if found.is_told_apart:
        return f"worse{alone or ', by more than chance'}"
    if found.seed_error is None:
        return f"not distinguishable{alone}"
    if found.more_seeds is not None:
        plural = "s" if found.more_seeds > 1 else ""
        return f"not distinguishable; run about {found.more_seeds} more seed{plural} of each"
    if found.text_error is not None and abs(found.value) < 2 * found.text_error:
        return "not distinguishable, and no number of seeds would tell: the text is too short"
    return "not distinguishable, and hardly any number of seeds would tell"
