"""The metrics of a run: their names in the logs, and which of their values are better."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback

from firstlight.config import build, check_node
from firstlight.errors import ConfigError, did_you_mean, shorten, shown
from firstlight.metrics.base import Direction, Metric, MetricGroup, Scored
from firstlight.metrics.bits_per_byte import BitsPerByte
from firstlight.metrics.loss import CrossEntropyLoss
from firstlight.metrics.perplexity import Perplexity
from firstlight.metrics.splits import FINAL, SPLITS, is_final


def default() -> dict[str, MetricGroup]:
    """Return the metrics of conf/metrics/default.yaml."""
    return {"perplexity": Perplexity(), "bits_per_byte": BitsPerByte()}


def measured(chosen: Mapping[str, MetricGroup] | None) -> list[Metric]:
    """Return the loss and the `chosen` metrics.

    Raises:
        ConfigError: two metrics have the same name, or one lacks what `Metric` asks for.
    """
    # Runs of earlier versions have no section `metrics`; they measured the default.
    if chosen is None:
        chosen = default()
    # The loss always, and first: checkpoints, early stopping and the progress bar count on it.
    metrics: list[Metric] = [CrossEntropyLoss()]
    for group in chosen.values():
        metrics += group.metrics()
    names: set[str] = set()
    for metric in metrics:
        for attribute in ("name", "direction", "text"):
            if not hasattr(metric, attribute):
                what = f"{type(metric).__name__} has no '{attribute}'"
                raise ConfigError(f"metrics: {what}; see firstlight.metrics.base.Metric")
        if metric.name in names:
            raise ConfigError(f"metrics: two are named {shorten(metric.name)}; remove one of them")
        names.add(metric.name)
    return metrics


def metrics_of(
    config: dict[str, Any], more: Mapping[str, MetricGroup] | None = None
) -> list[Metric]:
    """Build the metrics of a stored config, which may be somebody else's, and add `more`.

    Raises:
        ConfigError: its section `metrics` names something that is not a metric.
    """
    section = config.get("metrics")
    if section is None:
        return measured(default() | dict(more or {}))
    if not isinstance(section, dict):
        raise ConfigError(f"metrics: expected a section, got {shown(section)}")
    # The config decides what is imported and called, so each node is checked before it is built.
    own = {
        key: build(check_node(f"metrics.{key}", node, MetricGroup)) for key, node in section.items()
    }
    return measured(own | dict(more or {}))


def metric_of(column: str, config: dict[str, Any]) -> Metric | None:
    """Return the metric that is logged as `column` (`val/loss`); None for other columns.

    Raises:
        ConfigError: see `metrics_of`.
    """
    splits = (*SPLITS, FINAL)
    if column.partition("/")[0] not in splits:
        return None
    # The default metrics need nothing that the config names, so its mistakes do not matter.
    known = columns(measured(None), splits)
    return known.get(column) or columns(metrics_of(config), splits).get(column)


def columns(metrics: Iterable[Metric], splits: Iterable[str] = SPLITS) -> dict[str, Metric]:
    """Map the names in the logs, such as `val/loss`, to their metrics."""
    metrics = list(metrics)
    return {f"{split}/{metric.name}": metric for split in splits for metric in metrics}


def direction_of(column: str, metrics: Iterable[Metric]) -> Direction:
    """Return the better direction of `column`: the metric's own, or "min" if it is not a metric."""
    metric = columns(metrics).get(column)
    return "min" if metric is None else metric.direction


def check_name(key: str, name: str, known: Iterable[str]) -> None:
    """Check that the setting `key`, which chooses by it, names one of the `known` metrics.

    Raises:
        ConfigError: `name` is not one of them, or of the test split.
    """
    known = list(known)
    if is_final(name.removeprefix("best/")):
        raise ConfigError(
            f"{key} ({shorten(name, 40)}): the test split is scored once, when a run has ended, and"
            f" may choose nothing; take {name.replace(f'{FINAL}/', 'val/', 1)}"
        )
    if name not in known:
        what = f"{key} ({shorten(name, 40)}): no such metric{did_you_mean(name, known)}"
        raise ConfigError(f"{what} (one of: {', '.join(known)}; metrics=[default,...] adds others)")


def check_monitors(callbacks: Mapping[str, Callback], metrics: list[Metric]) -> None:
    """Check what callbacks monitor, and tell each the direction of its metric.

    `callbacks` are by their keys in the config.

    Raises:
        ConfigError: a callback monitors what no evaluation measures.
    """
    for key, callback in callbacks.items():
        follow = getattr(callback, "follow", None)
        monitor = getattr(callback, "monitor", None)
        # Only our callbacks have `follow`; others may monitor whatever they collect themselves.
        if follow is None or monitor is None:
            continue
        # Before training, not after the first evaluation, where Lightning would complain.
        check_name(f"{key}.monitor", monitor, columns(metrics))
        follow(direction_of(monitor, metrics))


def sums_of(metrics: Iterable[Metric], scored: Scored) -> list[float]:
    """Concatenate the sums of all metrics.

    Raises:
        ValueError: a metric does not return `n_sums` numbers.
    """
    found: list[float] = []
    for metric in metrics:
        sums = metric.sums(scored)
        if len(sums) != metric.n_sums:
            raise ValueError(
                f"metric {metric.name}: sums() returned {len(sums)} numbers, but n_sums is"
                f" {metric.n_sums}"
            )
        found += sums
    return found


def values_of(metrics: Iterable[Metric], sums: list[float]) -> dict[str, float]:
    """Compute the metrics, by name, from the totals of `sums_of`."""
    found: dict[str, float] = {}
    for metric in metrics:
        # The sums of all metrics are one row, so that processes exchange them in one message.
        own, sums = sums[: metric.n_sums], sums[metric.n_sums :]
        value = metric.value(own)
        if value is not None:
            found[metric.name] = value
    return found
