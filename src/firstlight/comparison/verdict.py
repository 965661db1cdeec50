"""Which config is best, and whether the others are worse by more than chance."""

import math
from dataclasses import dataclass

import numpy as np

from firstlight.comparison.groups import Group
from firstlight.comparison.runs import Run
from firstlight.comparison.settings import Settings, sign_of
from firstlight.comparison.statistics import Difference, NothingKnownError, Sample, difference
from firstlight.comparison.windows import check_grounds, configured_ground, measure, sample_of, scores_last_window


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
    if settings.is_measured:
        last_window = all(map(scores_last_window, runs))  # the same windows for all of them
        measured = {run.folder: measure(run, settings, last_window=last_window) for run in runs}
        grounds = [measured[run.folder].ground for run in runs]
        samples = [sample_of(group, measured, settings.metric) for group in groups]
    else:
        grounds = [configured_ground(run) for run in runs]
        samples = [_logged(group.runs, settings.metric) for group in groups]
    notes = [*check_grounds(runs, grounds, settings.metric), *_lengths(groups, settings.metric)]
    ground_of = {run.folder: ground for run, ground in zip(runs, grounds, strict=True)}
    sign = sign_of(settings.metric)
    order = sorted(range(len(groups)), key=lambda n: sign * float(samples[n].values.mean()))
    best, ranked = order[0], []
    for n in order:
        if n == best:
            ranked.append(Ranked(groups[n], samples[n], None, "the best" if len(groups) > 1 else "the only config"))
            continue
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
        except NothingKnownError:
            ranked.append(Ranked(groups[n], samples[n], None, NOTHING_KNOWN))
            continue
        ranked.append(Ranked(groups[n], samples[n], found, _sentence(found)))
    return ranked, notes


NOTHING_KNOWN = "nothing can be said of one seed of each without enough windows; run each with seeds=3"


def _lengths(groups: list[Group], metric: str) -> list[str]:
    """Of repetitions that are not of one length: they vary by more than their seeds."""
    steps = [(group, sorted({int(run.final(metric).x["step"]) for run in group.runs})) for group in groups]
    return [
        f"{group.label}: its runs end at different steps ({', '.join(f'{n:,}' for n in each)}): are all of them done?"
        for group, each in steps
        if len(each) > 1
    ]


def _logged(runs: list[Run], metric: str) -> Sample:
    return Sample(np.array([run.final(metric).value for run in runs]))


def _sentence(found: Difference) -> str:
    alone = " on this text; of the seed nothing is known: run each with seeds=3" if found.seed_error is None else ""
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
