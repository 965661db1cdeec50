"""A comparison in the terminal."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

MOST_COLUMNS = 6
"""Most keys with a column each. If more keys differ, they are the rows of a second table, whose
columns are the configs, if there are at most this many."""


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """The tables: the verdicts; the differing settings if they are many; the importance."""
    configs = found["configs"]
    keys = list(configs[0]["settings"])
    if len(keys) <= MOST_COLUMNS:
        yield _verdicts(found, keys)
    else:
        yield _verdicts(found, [])
    if len(keys) > MOST_COLUMNS >= len(configs):
        differing = Table("key", box=box.SIMPLE_HEAD)
        for config in configs:
            differing.add_column(Text(config["label"]), overflow="fold")
        for key in keys:
            differing.add_row(key, *(Text(config["settings"][key]) for config in configs))
        yield differing
    if found["importance"]:
        shares = Table("key", "importance", box=box.SIMPLE_HEAD)
        for key, share in found["importance"].items():
            shares.add_row(key, f"{share:.0%}")
        yield shares


def _verdicts(found: dict[str, Any], keys: list[str]) -> Table:
    """A row for each config, with a column for each of `keys`, or else with its label."""
    metric = found["settings"]["metric"]
    table = Table(box=box.SIMPLE_HEAD, caption=_caption(metric, **found["metric"]))
    for heading in _headings(keys) or ["config"]:
        table.add_column(heading, overflow="fold")
    for heading in ("seeds", metric, "last logged", "best logged", "tokens", "training s"):
        table.add_column(heading, justify="right", overflow="fold")
    for heading in ("from the best", "verdict"):
        table.add_column(heading, overflow="fold")
    for n, config in enumerate(found["configs"]):
        runs = [run for run in found["runs"] if run["config"] == n]
        mean = f"{config['mean']:.4f}"
        if config["spread"] is not None:
            mean += f" +- {config['spread']:.4f}"
        cells = [config["settings"][key] for key in keys] or [config["label"]]
        # rich reads markup in a str; a Text is shown as it is, whatever a run has written.
        table.add_row(
            *map(Text, cells),
            str(len(runs)),
            mean,
            _mean(runs, "final", "value", ".4f"),
            f"{_mean(runs, 'best', 'value', '.4f')} at {_mean(runs, 'best', 'step', ',.0f')}",
            _mean(runs, "final", "tokens", ",.0f"),
            _mean(runs, "final", "seconds", ",.0f"),
            _difference(config["difference"]),
            config["verdict"],
        )
    return table


def _caption(metric: str, direction: str, text: str) -> Text:
    """What the metric is and which of its values are better; empty for other columns."""
    if not text:
        return Text()
    better = "lower" if direction == "min" else "higher"
    return Text(f"{metric}: {text} ({better} is better)")


def _headings(keys: list[str]) -> list[str]:
    """The last part of each key, or all of it if two keys share that part."""
    names = [key.rpartition(".")[2] for key in keys]
    headings = []
    for name, key in zip(names, keys, strict=True):
        is_unique = names.count(name) == 1
        headings.append(name if is_unique else key)
    return headings


def _difference(difference: dict[str, Any] | None) -> str:
    """The difference from the best config, its interval, and its p-value."""
    if difference is None:
        return ""
    p = f"p = {difference['p']:.2g}"
    if difference["p"] < 1e-4:
        p = "p < 0.0001"
    return (
        f"{difference['value']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f}), {p}"
    )


def _mean(runs: list[dict[str, Any]], which: str, name: str, form: str) -> str:
    values = [run[which].get(name) for run in runs]
    # Of some of the runs only, it would not be the figure of this row.
    if None in values:
        return ""
    return format(sum(values) / len(values), form)
