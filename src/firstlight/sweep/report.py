"""What a sweep says: a line a trial, a table, and which point is best."""

import math
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from firstlight.console import SafeConsole
from firstlight.errors import ConfigError, one_line
from firstlight.output import say
from firstlight.overrides import command, named
from firstlight.runs.run_folder import METRICS, RunFolder
from firstlight.sweep.ledger import STATES, Ledger, Row
from firstlight.sweep.record import trial_overrides
from firstlight.sweep.storage import named_storage


@dataclass(frozen=True)
class Point:
    """A point of the space and its repetitions; `means` and `spreads` (standard deviations) are of the objectives.

    It is whole when all its repetitions are done, and what they came to is a number: only such points are ever best.
    """

    overrides: list[str]
    rows: list[Row]
    n_seeds: int
    means: list[float]
    spreads: list[float | None]

    @property
    def is_whole(self) -> bool:
        n_done = sum(row.state == "done" for row in self.rows)
        return len(self.means) > 0 and all(map(math.isfinite, self.means)) and n_done == self.n_seeds

    @property
    def rank(self) -> tuple[bool, float]:
        """The lower, the better: whole points by the mean of the first objective, then the others."""
        return not self.is_whole, self.means[0] if self.means and math.isfinite(self.means[0]) else math.inf


def current(rows: list[Row]) -> list[Row]:
    """The rows that count: not those that are made again."""
    return [row for row in rows if row.replaced_by is None]


def points(rows: list[Row], objectives: list[str], n_seeds: int) -> list[Point]:
    """The points of a sweep, the best first (by the first objective); those without a result last."""
    by_point: dict[int, list[Row]] = {}
    for row in current(rows):
        by_point.setdefault(row.point, []).append(row)
    found = []
    for members in by_point.values():
        done = [row for row in members if row.state == "done"]
        values = [[row.metrics[name] for row in done] for name in objectives]
        means = [statistics.mean(v) for v in values] if done else []
        spreads = [_spread(v) for v in values] if done else []
        overrides = next((row.overrides for row in members if row.overrides), [])
        found.append(Point(overrides, members, n_seeds, means, spreads))
    return sorted(found, key=lambda point: point.rank)


def _spread(values: list[float]) -> float | None:
    """Their standard deviation; None of one, or where there is none."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def best_points(rows: list[Row], objectives: list[str], n_seeds: int) -> list[Point]:
    """Those that no other is better than in every objective: of one objective the best one."""
    whole = [point for point in points(rows, objectives, n_seeds) if point.is_whole]

    def is_beaten(point: Point) -> bool:
        pairs = [list(zip(other.means, point.means, strict=True)) for other in whole if other is not point]
        return any(all(a <= b for a, b in pair) and any(a < b for a, b in pair) for pair in pairs)

    front = [point for point in whole if not is_beaten(point)]
    return front[:1] if len(objectives) == 1 else front


def opening(ledger: Ledger) -> str:
    rows = current(ledger.rows())
    planned = sum(row.state == "planned" for row in rows)
    rest = "" if planned == len(rows) else f", {planned} of them still to be made"
    return f"{ledger.folder}: {len(rows)} trial{'s' if len(rows) != 1 else ''}{rest}"


def begins(row: Row, ledger: Ledger) -> str:
    run = ledger.run_of(row)
    is_resumed = run is not None and (run / "checkpoints").is_dir()
    return f"trial {row.number}: {row.name}{' (resumed)' if is_resumed else ''}"


def ends(row: Row, rows: list[Row]) -> str:
    rows = current(rows)
    result = row.error or ", ".join(f"{k} {row.metrics[k]:.4f}" for k in ("val/loss",) if k in row.metrics)
    if row.state == "planned":
        return f"trial {row.number}: stopped, to be resumed"
    left = [r for r in rows if r.state in ("planned", "running")]
    time_left = f", {len(left)} left{_about(rows)}" if left else ""
    return f"trial {row.number}: {row.state} in {row.seconds:.0f} s: {result}{time_left}"


def _about(rows: list[Row]) -> str:
    """How long the rest will take, by how long the others took; nothing if that cannot be told."""
    took = [row.seconds for row in rows if row.state == "done"]
    left = [row for row in rows if row.state in ("planned", "running")]
    if not took or not left:
        return ""
    workers = max(len({row.worker for row in left if row.is_alive}), 1)
    seconds = sum(max(statistics.mean(took) - row.seconds, 0.0) for row in left) / workers
    return f", about {seconds / 60:.0f} min" if seconds >= 90 else f", about {seconds:.0f} s"


def whereabouts(ledger: Ledger) -> str:
    rows = current(ledger.rows())
    done = sum(row.state in ("done", "pruned") for row in rows)
    return f"{done} of {len(rows)} trials are done; resume with: {resuming(ledger, 'resume')}"


def resuming(ledger: Ledger, action: str) -> str:
    """The command that resumes a sweep, or retries what failed, with what only a command may name."""
    record = ledger.record
    storage = [named_storage(record.storage)] if record.storage else []
    return command("sweep", action, named("folder", str(ledger.folder)), *storage, config_dir=record.config_dir)


def as_data(ledger: Ledger) -> dict[str, Any]:
    """All that `status` knows, for JSON."""
    rows, objectives = ledger.rows(), ledger.record.settings["objectives"]
    ranked = best_points(rows, objectives, len(ledger.record.seeds))
    return {
        "folder": str(ledger.folder),
        "objectives": objectives,
        "trials": [{**vars(row), "step": step_of(ledger, row)} for row in rows],
        "best": [{"overrides": p.overrides, "means": p.means, "spreads": p.spreads} for p in ranked],
    }


def show(ledger: Ledger, *, best_only: bool = False) -> None:
    """Print the table of trials, how far the sweep is, and its best point."""
    console = SafeConsole(width=None if sys.stdout.isatty() else 140)
    rows, objectives, n_seeds = ledger.rows(), ledger.record.settings["objectives"], len(ledger.record.seeds)
    if not best_only:
        console.print(_table(ledger, current(rows), objectives))
        if n_seeds > 1:
            console.print(_point_table(points(rows, objectives, n_seeds), objectives))
        say(_progress(current(rows)))
    for point in best_points(rows, objectives, n_seeds):
        result = ", ".join(
            f"{name} {mean:.4f}" + (f" +- {spread:.4f} over {n_seeds} seeds" if spread is not None else "")
            for name, mean, spread in zip(objectives, point.means, point.spreads, strict=True)
        )
        say(f"best: {result}\n  {again(ledger, point)}")


def again(ledger: Ledger, point: Point) -> str:
    """The command that trains a point again."""
    words = trial_overrides(ledger.record, point.overrides, point.rows[0].seed)
    return command("train", *words, config_dir=ledger.record.config_dir)


def _table(ledger: Ledger, rows: list[Row], objectives: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("trial", "overrides", "seed", "state", "step", *objectives, "time", "what was wrong"):
        table.add_column(column, overflow="fold", justify="right" if column in ("trial", "step", "time") else "left")
    for row in rows:
        values = [f"{row.metrics[name]:.4f}" if name in row.metrics else "" for name in objectives]
        state = "running" if row.is_alive else "its worker died" if row.state == "running" else row.state
        step, time = step_of(ledger, row), f"{row.seconds:.0f} s" if row.seconds else ""
        name = " ".join(row.overrides)
        table.add_row(str(row.number), name, str(row.seed), state, str(step or ""), *values, time, row.error or "")
    return table


def _point_table(ranked: list[Point], objectives: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("point", "seeds", *(f"{name} {what}" for name in objectives for what in ("mean", "spread"))):
        table.add_column(column, overflow="fold")
    for point in ranked:
        done = sum(row.state == "done" for row in point.rows)
        numbers = zip(point.means, point.spreads, strict=True)
        cells = ["" if value is None else f"{value:.4f}" for pair in numbers for value in pair]
        table.add_row(" ".join(point.overrides), f"{done} of {point.n_seeds}", *cells)
    return table


def _progress(rows: list[Row]) -> str:
    counts = Counter(row.state for row in rows)
    told = ", ".join(f"{counts[state]} {state}" for state in (*STATES.values(), "refused") if counts[state])
    return f"{len(rows)} trial{'s' if len(rows) > 1 else ''}: {told}{_about(rows)}"


def step_of(ledger: Ledger, row: Row) -> int | None:
    """The last step that the run of a row has logged.

    Raises:
        ConfigError: what it has logged is not what firstlight writes.
    """
    if (run := ledger.run_of(row)) is None:
        return None
    try:
        logged = RunFolder(run).rows
        return int(logged[-1]["step"]) if logged else None
    except (OSError, ValueError, LookupError) as error:
        raise ConfigError(f"{run / METRICS}: not what firstlight writes ({one_line(error)})") from None
