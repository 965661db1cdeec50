"""What the best point of a sweep is worth: it was chosen, and so it is partly the luckiest."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from firstlight.errors import ConfigError, shorten
from firstlight.metrics.measured import metric_of
from firstlight.metrics.splits import is_final, split_of
from firstlight.sweep.points import PointResult

CONFIDENCE = 0.95
TEST_LOSS, TEST_ERROR = "test/loss", "test/loss_error"


@dataclass(frozen=True)
class Worth:
    """A metric of the point that was chosen.

    [`low`, `high`] holds, with CONFIDENCE, the mean with other seeds: corrected for the choice, see
    `firstlight.statistics.mean_of_chosen`. None of a single seed.
    """

    mean: float
    spread: float | None
    """Standard deviation between seeds; None of a single one."""
    low: float | None
    high: float | None
    text_error: float | None
    """Half of the interval of the text, of `test/loss`; None of others."""


def worth_of(
    metric: str,
    chosen: PointResult,
    ranked: Sequence[PointResult],
    objectives: list[str],
    sign: int,
) -> Worth | None:
    """What the point `chosen` among the `ranked` ones is worth in `metric`.

    `sign` is 1 for a metric of which lower is better, else -1.

    None if not all trials of the points that are whole have measured it.
    """
    by_point: dict[str, list[float]] = {}
    for place, point in enumerate(ranked):
        if point.is_whole:
            by_point[str(place)] = point.values(metric)
    values = chosen.values(metric)
    if not all(len(of_point) == chosen.n_seeds for of_point in by_point.values()):
        return None
    from firstlight.statistics import mean_of_chosen  # late: scipy takes a second to import

    interval = mean_of_chosen(
        by_point,
        str(ranked.index(chosen)),
        CONFIDENCE,
        # Those that were pruned could have been chosen as well.
        tried=sum(point.has_begun for point in ranked),
        by_best=_chose_by(metric, objectives),
        is_loss=sign > 0,
    )
    errors = chosen.values(TEST_ERROR) if metric == TEST_LOSS else []
    return Worth(
        mean=mean(values),
        spread=stdev(values) if len(values) > 1 else None,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        text_error=mean(errors) if errors else None,
    )


def reported(metric: str | None, best: PointResult, objectives: list[str]) -> list[str]:
    """The metrics that the best point is told with: the objectives, and `metric` or the test loss.

    Raises:
        ConfigError: its trials have not measured `metric`.
    """
    wanted = metric or TEST_LOSS
    known: set[str] = set.intersection(*(set(row.metrics) for row in best.rows if row.metrics))
    if wanted in known:
        return list(dict.fromkeys([*objectives, wanted]))
    if metric is None:
        return objectives
    if is_final(metric) and not any(map(is_final, known)):
        raise ConfigError(
            f"metric ({metric}): these trials have no score of a test split: their text has none"
            " (data.test_ratio is 0, as in all sweeps of earlier versions)"
        )
    have = ", ".join(sorted(known))
    raise ConfigError(f"metric ({shorten(metric)}): the trials have not measured it (only {have})")


def _chose_by(metric: str, objectives: list[str]) -> bool:
    """Whether the point was chosen by this metric, or by the same one of validation."""
    [first, *others] = objectives
    same = first.removeprefix("best/").replace("val/", "test/", 1)
    return not others and metric in (first, same)


def signs_of(
    metrics: list[str], objectives: list[str], signs: list[int], config: dict[str, Any]
) -> dict[str, int]:
    """For each of the metrics 1 if lower values are better, -1 if higher ones are."""
    found = dict(zip(objectives, signs, strict=True))
    for name in metrics:
        if name not in found:
            metric = metric_of(name.removeprefix("best/"), config)
            found[name] = -1 if metric is not None and metric.direction == "max" else 1
    return found


def lines(name: str, worth: Worth | None, n_points: int, *, is_objective: bool) -> list[str]:
    """What is to be said of a metric of the best point, beside its mean if that is an objective."""
    split = split_of(name)
    start = f"{name}{f' ({split})' if split else ''}"
    if worth is None:
        return [f"{start}: not known, as trials of other points have not measured it"]
    if is_objective:
        start += ", chosen by it"
    else:
        spread = "" if worth.spread is None else f" +- {worth.spread:.4f} between seeds"
        start += f" {worth.mean:.4f}{spread}"
    if worth.low is None:
        found = [f"{start}: one seed of each point does not tell what luck has done (seeds=3 does)"]
    else:
        choice = f", as the best of {n_points} points" if n_points > 1 else ""
        seeds = f"{worth.low:.4f} to {worth.high:.4f} with other seeds ({CONFIDENCE:.0%}{choice})"
        found = [f"{start}: {seeds}"]
    if worth.text_error is not None:
        found.append(f"{name} of other texts: +- {worth.text_error:.4f} from there")
    return found
