"""A comparison in the terminal."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

MOST = 6
"""Keys that have a column each. More are rows of a table of their own, if there are as few configs."""


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """The configs, best first, with their verdicts; what they differ in, if it is much; its importance, if known."""
    configs, metric, table = found["configs"], found["settings"]["metric"], Table(box=box.SIMPLE_HEAD)
    table.caption = _caption(metric, **found["metric"])
    keys = list(configs[0]["settings"])
    names = [key.rpartition(".")[2] for key in keys]
    headings = [name if names.count(name) == 1 else key for name, key in zip(names, keys, strict=True)]
    in_columns = 0 < len(keys) <= MOST
    for heading in headings if in_columns else ["config"]:
        table.add_column(heading, overflow="fold")
    for heading in ("seeds", metric, "last logged", "best logged", "tokens", "training s", "from the best", "verdict"):
        is_number = heading not in ("verdict", "from the best")
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for n, config in enumerate(configs):
        runs = [run for run in found["runs"] if run["config"] == n]
        table.add_row(
            *(Text(value) for value in (config["settings"].values() if in_columns else [config["label"]])),
            str(len(runs)),
            f"{config['mean']:.4f}" + (f" +- {config['spread']:.4f}" if config["spread"] is not None else ""),
            _mean(runs, "final", "value", ".4f"),
            f"{_mean(runs, 'best', 'value', '.4f')} at {_mean(runs, 'best', 'step', ',.0f')}",
            _mean(runs, "final", "tokens", ",.0f"),
            _mean(runs, "final", "seconds", ",.0f"),
            difference_text(config["difference"]),
            config["verdict"],
        )
    yield table
    if len(keys) > MOST >= len(configs):
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


def _caption(metric: str, *, direction: str, text: str) -> Text:
    better = "lower" if direction == "min" else "higher"
    return Text(f"{metric}: {text} ({better} is better)" if text else "")


def difference_text(difference: dict[str, Any] | None) -> str:
    """The difference from the best config, its interval, and the probability of as large a one if there were none."""
    if difference is None:
        return ""
    p = f"p = {difference['p']:.2g}" if difference["p"] >= 1e-4 else "p < 0.0001"
    return f"{difference['value']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f}), {p}"


def _mean(runs: list[dict[str, Any]], which: str, name: str, form: str) -> str:
    values = [run[which].get(name) for run in runs]
    return "" if None in values else format(sum(values) / len(values), form)
