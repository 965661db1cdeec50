"""The findings as plain data: table, figure and page show them, compare.json holds them."""

from typing import Any

from firstlight import __version__
from firstlight.compare.groups import NOTHING
from firstlight.compare.importance import importance
from firstlight.compare.runs import X_AXES, CurvePoint, Run
from firstlight.compare.settings import CompareSettings
from firstlight.compare.statistics import FEWEST_WINDOWS
from firstlight.compare.verdict import Ranked
from firstlight.compare.windows import measured_mean
from firstlight.errors import printable_data


def comparison_data(
    ranked: list[Ranked], notes: list[str], settings: CompareSettings
) -> dict[str, Any]:
    """The findings, ready for JSON, the best config first.

    `runs[i].config` is the place of a run's config in `configs`.
    """
    column, first = settings.metric, ranked[0].group.runs[0]
    sign = first.sign_of(column)
    plain_settings = vars(settings) | {"runs": settings.names}
    del plain_settings["storage"]  # it may hold a password
    runs, shown_runs = [], []
    axes = list(X_AXES)  # reduced to those that every point of every run has
    for number, config in enumerate(ranked):
        for run in config.group.runs:
            runs.append(run)
            shown_runs.append(_run(run, number, column))
            for point in run.curve(column):
                axes = [name for name in axes if name in point.x]
    # Lower is better for PED-ANOVA, hence the sign.
    scores = [sign * config.sample.mean for config in ranked]
    metric = first.metric(column)
    direction = "max" if sign < 0 else "min"
    description = "" if metric is None else metric.text
    groups = [config.group for config in ranked]
    found = {
        "firstlight": __version__,
        "settings": plain_settings,
        "metric": {"direction": direction, "text": description},
        "is_measured": measured_mean(first, settings) is not None,
        "windows": _windows(ranked),
        "configs": [_config(config) for config in ranked],
        "runs": shown_runs,
        "axes": axes,
        "importance": importance(groups, scores),
        "environment": _environment(runs),
        "notes": notes,
    }
    # Names, settings and samples may be somebody else's, with control characters for the terminal.
    return printable_data(found)


def _windows(ranked: list[Ranked]) -> dict[str, Any]:
    """How many windows every config was measured on, and whether they allow a verdict.

    `measured` is null if the weights were not measured.
    """
    counts = [len(config.sample.totals) for config in ranked if len(config.sample.totals) > 0]
    measured = min(counts, default=None)
    is_too_few = measured is not None and measured < FEWEST_WINDOWS
    return {"measured": measured, "fewest": FEWEST_WINDOWS, "are_too_few": is_too_few}


def _config(config: Ranked) -> dict[str, Any]:
    return {
        "label": config.group.label,
        "settings": config.group.settings,
        "seeds": [run.seed for run in config.group.runs],
        "mean": config.sample.mean,
        "spread": config.sample.spread,
        "difference": None if config.difference is None else vars(config.difference),
        "verdict": config.sentence,
    }


def _run(run: Run, config: int, column: str) -> dict[str, Any]:
    return {
        "name": run.name,
        "folder": str(run.folder),
        "config": config,
        "seed": run.seed,
        "is_finished": run.is_finished,
        "final": _point(run.final(column)),
        "best": _point(run.best(column)),
        "curve": [_point(point) for point in run.curve(column)],
        "samples": {str(step): text for step, text in run.samples.items()},
    }


def _point(point: CurvePoint) -> dict[str, float]:
    return {**point.x, "value": point.value}


def _environment(runs: list[Run]) -> dict[str, list[str]]:
    """The different values of each entry of the runs' environments."""
    keys: dict[str, None] = {}  # in order, each once
    for run in runs:
        keys |= dict.fromkeys(run.environment)
    values: dict[str, list[str]] = {}
    for key in keys:
        texts = [str(run.environment.get(key, NOTHING)) for run in runs]
        values[key] = list(dict.fromkeys(texts))
    return values
