"""What a sweep says: a line for each trial, tables, and which point is best."""

import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from firstlight.console import SafeConsole
from firstlight.errors import ConfigError, counted, one_line
from firstlight.output import say
from firstlight.overrides import command, named
from firstlight.runs.run_folder import METRICS, RunFolder
from firstlight.sweep.ledger import STATES, Ledger, Row
from firstlight.sweep.record import trial_overrides
from firstlight.sweep.storage import named_storage


@dataclass(frozen=True)
class PointResult:
    """A point and its repetitions, with the mean and standard deviation of each objective.

    It is whole when all its repetitions are done and their means are finite: only such points are
    ever best.
    """

    overrides: list[str]
    rows: list[Row]
    n_seeds: int
    means: list[float]
    spreads: list[float | None]

    @property
    def n_done(self) -> int:
        return sum(row.state == "done" for row in self.rows)

    @property
    def is_whole(self) -> bool:
        if not self.means or not all(map(math.isfinite, self.means)):
            return False
        return self.n_done == self.n_seeds

    def rank(self, sign: int) -> tuple[bool, float]:
        """A sort key, lower is better: whole points first, then by the first objective.

        `sign` is -1 for an objective of which higher values are better.
        """
        if self.means == [] or not math.isfinite(self.means[0]):
            return not self.is_whole, math.inf
        return not self.is_whole, sign * self.means[0]


def current(rows: list[Row]) -> list[Row]:
    """The rows that count: those that no retry has replaced."""
    return [row for row in rows if row.replaced_by is None]


def points(
    rows: list[Row], objectives: list[str], signs: list[int], n_seeds: int
) -> list[PointResult]:
    """The points of a sweep, the best first (by the first objective), those without a result last.

    `signs` are those of `Ledger.signs`.
    """
    by_point: dict[int, list[Row]] = {}
    for row in current(rows):
        by_point.setdefault(row.point, []).append(row)
    found = []
    for members in by_point.values():
        # A repetition that no worker has taken yet has no overrides of its own.
        overrides: list[str] = []
        for row in members:
            overrides = overrides or row.overrides
        done = [row for row in members if row.state == "done"]
        means: list[float] = []
        spreads: list[float | None] = []
        for name in objectives if done else ():
            values = [row.metrics[name] for row in done]
            # statistics.stdev fails on inf and nan, and needs two values.
            has_spread = len(values) > 1 and all(map(math.isfinite, values))
            means.append(statistics.mean(values))
            spreads.append(statistics.stdev(values) if has_spread else None)
        found.append(PointResult(overrides, members, n_seeds, means, spreads))
    return sorted(found, key=lambda point: point.rank(signs[0]))


def best_points(ranked: list[PointResult], signs: list[int]) -> list[PointResult]:
    """The best of the `points` of a sweep; of several objectives all that no other beats."""
    whole = [point for point in ranked if point.is_whole]
    if len(signs) == 1:
        return whole[:1]
    # Several objectives: the Pareto front.
    return [point for point in whole if not any(_beats(other, point, signs) for other in whole)]


def _beats(one: PointResult, other: PointResult, signs: list[int]) -> bool:
    """Is a point better than another in some objective, and worse in none?"""
    for sign, mean, its_mean in zip(signs, one.means, other.means, strict=True):
        if sign * mean > sign * its_mean:
            return False
    return one.means != other.means


def tie(best: PointResult, ranked: list[PointResult]) -> str:
    """Say how many points have the same means as the `best` of a sweep with one objective.

    Nothing of several objectives: all points that are equally good are shown there.
    """
    n_equal = sum(point.is_whole and point.means == best.means for point in ranked)
    if n_equal == 1 or len(best.means) > 1:
        return ""
    return f" (the first of {n_equal} points that are equal)"


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
    result = row.error or ""
    if not result:
        known = [name for name in objectives if name in row.metrics]
        result = ", ".join(f"{name} {row.metrics[name]:.4f}" for name in known)
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


def status_data(ledger: Ledger) -> dict[str, Any]:
    """What `status` shows, ready for JSON."""
    return {
        "folder": str(ledger.folder),
        "objectives": ledger.record.objectives,
        "trials": [{**row.model_dump(), "step": step_of(ledger, row)} for row in ledger.rows()],
        "best": best_data(ledger),
    }


def best_data(ledger: Ledger) -> list[dict[str, Any]]:
    """What `best` shows, ready for JSON; empty while no point is done."""
    record, signs = ledger.record, ledger.signs()
    ranked = points(ledger.rows(), record.objectives, signs, len(record.seeds))
    return [
        {"overrides": point.overrides, "means": point.means, "spreads": point.spreads}
        for point in best_points(ranked, signs)
    ]


def show(ledger: Ledger, *, best_only: bool = False) -> None:
    """Print the table of trials, how far the sweep is, and its best point."""
    rows, signs = current(ledger.rows()), ledger.signs()
    objectives, n_seeds = ledger.record.objectives, len(ledger.record.seeds)
    ranked = points(rows, objectives, signs, n_seeds)
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
        say(
            f"best: {', '.join(results)}{tie(point, ranked)}\n "
            f" {command('train', *words, config_dir=ledger.record.config_dir)}"
        )


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
