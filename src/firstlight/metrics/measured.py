"""The metrics of a run: which there are, under which names, and which of two values is better."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback

from firstlight.config import build, check_node
from firstlight.errors import ConfigError, did_you_mean, shorten, shown
from firstlight.metrics.base import Direction, Metric, Scored
from firstlight.metrics.bits_per_byte import BitsPerByte
from firstlight.metrics.loss import CrossEntropyLoss
from firstlight.metrics.perplexity import Perplexity

SPLITS = ("train", "val")
"""What the evaluations of a run measure; its metrics are `train/loss`, `val/loss`, ..."""


def default() -> dict[str, Metric]:
    """The metrics of conf/metrics/default.yaml."""
    return {"perplexity": Perplexity(), "bits_per_byte": BitsPerByte()}


def measured(chosen: Mapping[str, Metric] | None) -> list[Metric]:
    """The loss, and the metrics of a section `metrics`; None, of a run that an earlier version
    began: the default.

    Raises:
        ConfigError: two of them have one name, or one does not say what `Metric` asks for.
    """
    metrics = [CrossEntropyLoss(), *(default() if chosen is None else chosen).values()]
    for metric in metrics:
        for attribute in ("name", "direction", "text"):
            if not hasattr(metric, attribute):
                what = f"{type(metric).__name__} has no '{attribute}'"
                raise ConfigError(f"metrics: {what}; see firstlight.metrics.base.Metric")
    names = [metric.name for metric in metrics]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"metrics: there are two with the name {shorten(twice)}; take one away")
    return metrics


def metrics_of(config: dict[str, Any], more: Mapping[str, Metric] | None = None) -> list[Metric]:
    """The metrics of a stored config, which may be somebody else's, and `more`.

    Raises:
        ConfigError: its section `metrics` names something else.
    """
    section = config.get("metrics")
    if section is None:
        return measured(default() | dict(more or {}))
    if not isinstance(section, dict):
        raise ConfigError(f"metrics: expected a section, got {shown(section)}")
    own = {key: build(check_node(f"metrics.{key}", node, Metric)) for key, node in section.items()}
    return measured(own | dict(more or {}))


def metric_of(column: str, config: dict[str, Any]) -> Metric | None:
    """The metric of a stored config that is logged as `column` (`val/loss`); None of a column that
    is no metric.

    Raises:
        ConfigError: see `metrics_of`.
    """
    if column.partition("/")[0] not in SPLITS:
        return None
    known = columns(measured(None))  # those need nothing that the config names
    return known.get(column) or columns(metrics_of(config)).get(column)


def columns(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """The metrics by the names under which they are logged."""
    metrics = list(metrics)
    return {f"{split}/{metric.name}": metric for split in SPLITS for metric in metrics}


def direction_of(column: str, metrics: Iterable[Metric]) -> Direction:
    """Which values of what is logged as `column` are the better ones: of a metric as it says, else
    the lowest.
    """
    metric = columns(metrics).get(column)
    return "min" if metric is None else metric.direction


def check_name(key: str, name: str, known: Iterable[str]) -> None:
    """Refuse a setting `key` that names none of the `known` metrics.

    Raises:
        ConfigError: `name` is none.
    """
    known = list(known)
    if name not in known:
        what = f"{key} ({shorten(name, 40)}): no such metric{did_you_mean(name, known)}"
        raise ConfigError(f"{what} (one of: {', '.join(known)}; metrics=[default,...] adds others)")


def check_monitors(callbacks: Mapping[str, Callback], metrics: list[Metric]) -> None:
    """Refuse callbacks that monitor what no evaluation measures, and tell the others the direction
    of their metric.

    `callbacks` are by the keys of the config that are about them.

    Raises:
        ConfigError: the first one.
    """
    for key, callback in callbacks.items():
        follow = getattr(callback, "follow", None)
        monitor = getattr(callback, "monitor", None)
        if (
            follow is None or monitor is None
        ):  # a callback that is not ours may monitor whatever it collects
            continue
        check_name(f"{key}.monitor", monitor, columns(metrics))
        follow(direction_of(monitor, metrics))


def sums_of(metrics: Iterable[Metric], scored: Scored) -> list[float]:
    """The sums of all metrics, one after the other.

    Raises:
        ValueError: a metric returns another number of them than it says.
    """
    found: list[float] = []
    for metric in metrics:
        sums = metric.sums(scored)
        if len(sums) != metric.n_sums:
            raise ValueError(
                f"metric {metric.name}: sums() has returned {len(sums)} numbers, n_sums is"
                f" {metric.n_sums}"
            )
        found += sums
    return found


def values_of(metrics: Iterable[Metric], sums: list[float]) -> dict[str, float]:
    """The values of the metrics by name, of the totals of `sums_of`."""
    found: dict[str, float] = {}
    for metric in metrics:
        own, sums = sums[: metric.n_sums], sums[metric.n_sums :]
        value = metric.value(own)
        if value is not None:
            found[metric.name] = value
    return found
