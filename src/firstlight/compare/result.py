"""The findings as plain data: table, figure and page show them, compare.json holds them."""

from typing import Any

from firstlight import __version__
from firstlight.compare.groups import NOTHING
from firstlight.compare.importance import importance
from firstlight.compare.runs import X_AXES, CurvePoint, Run
from firstlight.compare.settings import CompareSettings
from firstlight.compare.verdict import Judged, Ranked
from firstlight.compare.windows import measured_mean
from firstlight.errors import printable_data
from firstlight.metrics.splits import split_of


def comparison_data(judged: Judged, notes: list[str], settings: CompareSettings) -> dict[str, Any]:
    """The findings, ready for JSON, the best config first.

    `runs[i].config` is the place of a run's config in `configs`.
    """
    ranked = judged.ranked
    column, first = settings.metric, ranked[0].group.runs[0]
    sign = first.sign_of(column)
    weights = "best" if settings.takes_best else "last"
    plain_settings = vars(settings) | {"runs": settings.names, "weights": weights}
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
    scores = [sign * config.mean for config in ranked]
    metric = first.metric(column)
    direction = "max" if sign < 0 else "min"
    description = "" if metric is None else f"{metric.text}, of the {split_of(column)}"
    groups = [config.group for config in ranked]
    found = {
        "firstlight": __version__,
        "settings": plain_settings,
        "metric": {"direction": direction, "text": description},
        "is_measured": measured_mean(first, settings) is not None,
        # Of the run with the fewest; null if the weights were not measured.
        "windows": {"measured": judged.n_windows, "blocks": judged.n_blocks},
        "configs": [_config(config) for config in ranked],
        "runs": shown_runs,
        "axes": axes,
        "importance": importance(groups, scores),
        "environment": _environment(runs),
        "notes": notes,
    }
    # Names, settings and samples may be somebody else's, with control characters for the terminal.
    return printable_data(found)


def _config(config: Ranked) -> dict[str, Any]:
    return {
        "label": config.group.label,
        "settings": config.group.settings,
        "seeds": [run.seed for run in config.group.runs],
        "mean": config.mean,
        "spread": config.spread,
        "could_be_best": config.could_be_best,
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
