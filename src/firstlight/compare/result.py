"""What a comparison has found, as plain data: the table, the figure and the report show it, compare.json holds it."""

from typing import Any

from firstlight import __version__
from firstlight.compare.groups import NOTHING
from firstlight.compare.importance import importance
from firstlight.compare.runs import X_AXES, Run
from firstlight.compare.settings import Settings
from firstlight.compare.statistics import FEWEST_WINDOWS
from firstlight.compare.verdict import Ranked
from firstlight.compare.windows import measured_as
from firstlight.errors import printable_data


def as_data(ranked: list[Ranked], notes: list[str], settings: Settings) -> dict[str, Any]:
    """JSON-ready; configs are best first, and `runs[i].config` is a place among them."""
    metric, first = settings.metric, ranked[0].group.runs[0]
    sign, known = first.sign_of(metric), first.metric(metric)
    runs = [_run(run, n, metric) for n, config in enumerate(ranked) for run in config.group.runs]
    found = {
        "firstlight": __version__,
        "settings": {key: value for key, value in vars(settings).items() if key != "storage"}
        | {"runs": settings.names},
        "metric": {"direction": "max" if sign < 0 else "min", "text": "" if known is None else known.text},
        "is_measured": measured_as(first, settings) is not None,
        "windows": _windows(ranked),
        "configs": [_config(config) for config in ranked],
        "runs": runs,
        "axes": [name for name in X_AXES if all(name in point for run in runs for point in run["curve"])],
        "importance": importance([config.group for config in ranked], [sign * config.mean for config in ranked]),
        "environment": _environment([run for config in ranked for run in config.group.runs]),
        "notes": notes,
    }
    return printable_data(found)  # names, settings and samples are those of the runs, which may be somebody else's


def _windows(ranked: list[Ranked]) -> dict[str, Any]:
    """How many windows every config was measured on (null: on none), and whether they are too few for a verdict."""
    counts = [len(config.sample.nats) for config in ranked if config.sample.nats is not None]
    measured = min(counts) if counts else None
    return {
        "measured": measured,
        "fewest": FEWEST_WINDOWS,
        "are_too_few": measured is not None and measured < FEWEST_WINDOWS,
    }


def _config(config: Ranked) -> dict[str, Any]:
    found = config.difference
    return {
        "label": config.group.label,
        "settings": config.group.settings,
        "seeds": [run.seed for run in config.group.runs],
        "mean": config.mean,
        "spread": config.spread,
        "difference": None if found is None else vars(found),
        "verdict": config.sentence,
    }


def _run(run: Run, config: int, metric: str) -> dict[str, Any]:
    final, best = run.final(metric), run.best(metric)
    return {
        "name": run.name,
        "folder": str(run.folder),
        "config": config,
        "seed": run.seed,
        "is_finished": run.is_finished,
        "final": {**final.x, "value": final.value},
        "best": {**best.x, "value": best.value},
        "curve": [{**point.x, "value": point.value} for point in run.curve(metric)],
        "samples": {str(step): text for step, text in run.samples.items()},
    }


def _environment(runs: list[Run]) -> dict[str, list[str]]:
    """Of each thing that a run keeps of its environment the values there are, over all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.environment)
    return {key: list(dict.fromkeys(str(run.environment.get(key, NOTHING)) for run in runs)) for key in keys}
