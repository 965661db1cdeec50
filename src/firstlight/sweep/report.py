"""What a sweep says: a line for each trial, tables, and its best point."""

import statistics
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table

from firstlight.console import SafeConsole
from firstlight.errors import ConfigError, counted, one_line
from firstlight.metrics.splits import is_final
from firstlight.output import say
from firstlight.overrides import command, named
from firstlight.runs.run_folder import METRICS, RunFolder
from firstlight.sweep.chosen import Worth, lines, reported, signs_of, worth_of
from firstlight.sweep.ledger import STATES, Ledger, Row
from firstlight.sweep.points import PointResult, best_points, current, points, tie
from firstlight.sweep.record import trial_overrides
from firstlight.sweep.storage import named_storage


def opening_line(ledger: Ledger) -> str:
    """The first line of a sweep that has trials to make."""
    rows = current(ledger.rows())
    planned = sum(row.state == "planned" for row in rows)
    rest = "" if planned == len(rows) else f", {planned} of them still to be made"
    return f"{ledger.folder}: {counted(len(rows), 'trial')}{rest}"


def begins(row: Row, ledger: Ledger) -> str:
    """The line at the beginning of a trial."""
    run = ledger.run_of(row)
    is_resumed = run is not None and (run / "checkpoints").is_dir()
    return f"trial {row.number}: {row.name}{' (resumed)' if is_resumed else ''}"


def ends(row: Row, rows: list[Row], objectives: list[str]) -> str:
    """The line at the end of a trial, of all `rows` of the ledger, with its `objectives`."""
    if row.state == "planned":
        return f"trial {row.number}: stopped, to be resumed"
    known = [name for name in objectives if name in row.metrics]
    told = [f"{name} {row.metrics[name]:.4f}" for name in known]
    # A trial that is done may have no score of its test split.
    result = ", ".join([*told, row.error] if row.error else told)
    left = sum(other.state in ("planned", "running") for other in current(rows))
    time_left = f", {left} left{_time_left(current(rows))}" if left else ""
    return f"trial {row.number}: {row.state} in {row.seconds:.0f} s: {result}{time_left}"


def _time_left(rows: list[Row]) -> str:
    """The estimated time left, from the trials that are done; empty if it is not known."""
    took = [row.seconds for row in rows if row.state == "done"]
    left = [row for row in rows if row.state in ("planned", "running")]
    if not took or not left:
        return ""
    # Each trial takes as long as the mean of those that are done; workers share what is left.
    workers = {row.worker for row in left if row.is_alive}
    seconds = 0.0
    for row in left:
        seconds += max(statistics.mean(took) - row.seconds, 0.0)
    seconds /= max(len(workers), 1)
    return f", about {seconds / 60:.0f} min" if seconds >= 90 else f", about {seconds:.0f} s"


def progress_line(ledger: Ledger) -> str:
    """How far a sweep is that has been stopped, and how it is resumed."""
    rows = current(ledger.rows())
    done = sum(row.state in ("done", "pruned") for row in rows)
    return f"{done} of {len(rows)} trials are done; resume with: {resuming(ledger, 'resume')}"


def resuming(ledger: Ledger, action: str) -> str:
    """The command that resumes a sweep (`action` resume) or retries its failed trials (retry)."""
    record = ledger.record
    words = [named("folder", str(ledger.folder))]
    if record.storage:
        words.append(named_storage(record.storage))
    return command("sweep", action, *words, config_dir=record.config_dir)


def status_data(ledger: Ledger, metric: str | None = None) -> dict[str, Any]:
    """What `status` shows, ready for JSON.

    Raises:
        ConfigError: the trials have not measured `metric`.
    """
    return {
        "folder": str(ledger.folder),
        "objectives": ledger.record.objectives,
        "trials": [{**row.model_dump(), "step": step_of(ledger, row)} for row in ledger.rows()],
        "best": best_data(ledger, metric),
    }


def has_best(ledger: Ledger) -> bool:
    """Whether a point is done, so that one is the best."""
    return bool(best_points(_ranked(ledger), ledger.signs()))


def best_data(ledger: Ledger, metric: str | None = None) -> list[dict[str, Any]]:
    """What `best` shows, ready for JSON; empty while no point is done.

    Raises:
        ConfigError: the trials have not measured `metric`.
    """
    ranked, found = _ranked(ledger), []
    for point in best_points(ranked, ledger.signs()):
        worth = _worth(ledger, point, ranked, metric)
        means = {"overrides": point.overrides, "means": point.means, "spreads": point.spreads}
        shown = {name: None if one is None else vars(one) for name, one in worth.items()}
        found.append({**means, "worth": shown})
    return found


def _ranked(ledger: Ledger) -> list[PointResult]:
    record = ledger.record
    return points(ledger.rows(), record.objectives, ledger.signs(), len(record.seeds))


def _worth(
    ledger: Ledger, best: PointResult, ranked: list[PointResult], metric: str | None
) -> dict[str, Worth | None]:
    """What the `best` point is worth, in its objectives and in `metric` or the test loss."""
    objectives = ledger.record.objectives
    names = reported(metric, best, objectives)
    signs = signs_of(names, objectives, ledger.signs(), ledger.record.config)
    return {name: worth_of(name, best, ranked, objectives, signs[name]) for name in names}


def show(ledger: Ledger, *, best_only: bool = False, metric: str | None = None) -> None:
    """Print the table of trials, how far the sweep is, and its best point, with `metric`.

    Raises:
        ConfigError: the trials have not measured `metric`.
    """
    rows, signs = current(ledger.rows()), ledger.signs()
    objectives, n_seeds = ledger.record.objectives, len(ledger.record.seeds)
    ranked = _ranked(ledger)
    if not best_only:
        # rich would take 80 columns for a file, too few for the overrides.
        console = SafeConsole(width=None if sys.stdout.isatty() else 140)
        console.print(_table(ledger, rows, objectives))
        if n_seeds > 1:
            console.print(_point_table(ranked, objectives))
        counts = Counter(row.state for row in rows)
        states = []
        for state in (*STATES.values(), "refused"):
            if counts[state]:
                states.append(f"{counts[state]} {state}")
        say(f"{counted(len(rows), 'trial')}: {', '.join(states)}{_time_left(rows)}")
    for point in best_points(ranked, signs):
        results = []
        for name, mean, spread in zip(objectives, point.means, point.spreads, strict=True):
            over_seeds = "" if spread is None else f" +- {spread:.4f} over {n_seeds} seeds"
            results.append(f"{name} {mean:.4f}{over_seeds}")
        words = trial_overrides(ledger.record, point.overrides, point.rows[0].seed)
        told = [f"best: {', '.join(results)}{tie(point, ranked)}"]
        n_points = sum(other.has_begun for other in ranked)
        worth = _worth(ledger, point, ranked, metric)
        for name, of_metric in worth.items():
            told += lines(name, of_metric, n_points, is_objective=name in objectives)
        if not any(map(is_final, worth)):
            told.append("no test score: only the text that it was chosen by has been measured")
        told.append(command("train", *words, config_dir=ledger.record.config_dir))
        say("\n  ".join(told))


def _table(ledger: Ledger, rows: list[Row], objectives: list[str]) -> Table:
    """The trials."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in (
        "trial",
        "overrides",
        "seed",
        "state",
        "step",
        *objectives,
        "time",
        "what was wrong",
    ):
        table.add_column(
            column,
            overflow="fold",
            justify="right" if column in ("trial", "step", "time") else "left",
        )
    for row in rows:
        # The ledger says "running" until another worker takes the row over.
        state = row.state
        if state == "running" and not row.is_alive:
            state = "its worker died"
        table.add_row(
            str(row.number),
            " ".join(row.overrides),
            str(row.seed),
            state,
            str(step_of(ledger, row) or ""),
            *_cells(row.metrics.get(name) for name in objectives),
            f"{row.seconds:.0f} s" if row.seconds else "",
            row.error or "",
        )
    return table


def _point_table(ranked: list[PointResult], objectives: list[str]) -> Table:
    """The points, where they are repeated with several seeds."""
    table = Table(box=box.SIMPLE_HEAD)
    columns = ["point", "seeds"]
    for name in objectives:
        columns += [f"{name} mean", f"{name} spread"]
    for column in columns:
        table.add_column(column, overflow="fold")
    for point in ranked:
        values: list[float | None] = []
        for pair in zip(point.means, point.spreads, strict=True):
            values += pair
        table.add_row(
            " ".join(point.overrides), f"{point.n_done} of {point.n_seeds}", *_cells(values)
        )
    return table


def _cells(values: Iterable[float | None]) -> list[str]:
    return ["" if value is None else f"{value:.4f}" for value in values]


def step_of(ledger: Ledger, row: Row) -> int | None:
    """The last step that the run of a row has logged.

    Raises:
        ConfigError: what it has logged is not what firstlight writes.
    """
    run = ledger.run_of(row)
    if run is None:
        return None
    try:
        logged = RunFolder(run).rows
        return int(logged[-1]["step"]) if logged else None
    except (OSError, ValueError, LookupError) as error:
        raise ConfigError(
            f"{run / METRICS}: not what firstlight writes ({one_line(error)})"
        ) from None
