"""A comparison in the terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

MOST_COLUMNS = 6
"""Most keys with a column each. If more keys differ, they are the rows of a second table, whose
columns are the configs, if there are at most this many."""
WIDE = 140
"""Width of a terminal from which one table has the verdicts and what the runs have logged."""
METRIC = "metric"
"""The column of the metric, which has its name for a heading."""
LOGGED = ("last logged", "best logged", "tokens", "training s")
JUDGED = ("from the best", "verdict")


def tables(found: dict[str, Any], width: int = WIDE) -> Iterator[Table]:
    """The tables: the verdicts; the differing settings if they are many; the importance.

    `width` is that of the terminal: in a narrow one, what the runs have logged is a table as well.
    """
    configs = found["configs"]
    keys = list(configs[0]["settings"])
    named = keys if len(keys) <= MOST_COLUMNS else []
    caption = _caption(found["settings"]["metric"], **found["metric"])
    if width >= WIDE:
        yield _configs(found, named, ("seeds", METRIC, *LOGGED, *JUDGED), caption)
    else:
        yield _configs(found, named, ("seeds", METRIC, *JUDGED), caption)
        yield _configs(found, named, LOGGED)
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


def _configs(
    found: dict[str, Any], keys: list[str], columns: Sequence[str], caption: Text | None = None
) -> Table:
    """A row for each config: its value of each of `keys`, or else its label, and `columns`."""
    table = Table(box=box.SIMPLE_HEAD, caption=caption)
    for heading in _headings(keys) or ["config"]:
        table.add_column(heading, overflow="fold")
    for name in columns:
        heading = found["settings"]["metric"] if name == METRIC else name
        table.add_column(heading, justify="left" if name in JUDGED else "right", overflow="fold")
    for n, config in enumerate(found["configs"]):
        cells = _cells(config, [run for run in found["runs"] if run["config"] == n])
        names = [config["settings"][key] for key in keys] or [config["label"]]
        # rich reads markup in a str; a Text is shown as it is, whatever a run has written.
        table.add_row(*map(Text, names), *(cells[name] for name in columns))
    return table


def _cells(config: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, str]:
    """What the columns of a config say, whose runs these are."""
    mean = f"{config['mean']:.4f}"
    if config["spread"] is not None:
        mean += f" +- {config['spread']:.4f}"
    best, step = _mean(runs, "best", "value", ".4f"), _mean(runs, "best", "step", ",.0f")
    return {
        "seeds": str(len(runs)),
        METRIC: mean,
        "last logged": _mean(runs, "final", "value", ".4f"),
        "best logged": f"{best} at {step}",
        "tokens": _mean(runs, "final", "tokens", ",.0f"),
        "training s": _mean(runs, "final", "seconds", ",.0f"),
        "from the best": _difference(config["difference"]),
        "verdict": config["verdict"],
    }


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
    """The difference from the best config, and its interval."""
    if difference is None:
        return ""
    shown = f"{difference['value']:+.4f}"
    if difference["low"] is not None:
        shown += f" ({difference['low']:+.4f} to {difference['high']:+.4f})"
    return shown


def _mean(runs: list[dict[str, Any]], which: str, name: str, form: str) -> str:
    values = [run[which].get(name) for run in runs]
    # Of some of the runs only, it would not be the figure of this row.
    if None in values:
        return ""
    return format(sum(values) / len(values), form)
