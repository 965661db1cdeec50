"""What a run folder holds, for whoever compares it with others."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from firstlight.checkpoints.find import newest_run
from firstlight.checkpoints.manifest import WEIGHTS
from firstlight.data.files import user_path
from firstlight.errors import ConfigError, did_you_mean, one_line, shorten
from firstlight.metrics.base import Metric
from firstlight.metrics.measured import metric_of
from firstlight.overrides import command, named
from firstlight.runs.run_folder import CONFIG, METRICS, SAMPLES, RunFolder
from firstlight.sweep.ledger import Ledger
from firstlight.sweep.record import RECORD

HIGHER_IS_BETTER = ("tokens_per_second", "mfu")
"""Of what is logged beside the metrics of evaluations."""
X_AXES = ("step", "tokens", "seconds")
"""`seconds` are those of training, without evaluations, as `tokens_per_second` tells them."""


@dataclass(frozen=True)
class Point:
    """A value of a metric, and where in the run it was: by each of X_AXES that is known."""

    x: dict[str, float]
    value: float


@dataclass(frozen=True)
class Run:
    """A run: its composed config, what it logged, its samples (by step) and its environment."""

    folder: Path
    name: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    samples: dict[int, str]
    environment: dict[str, Any]

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def written(self) -> float:
        """When it logged last, in seconds of the clock; 0 of a run that has logged nothing."""
        file = self.folder / METRICS
        return file.stat().st_mtime if file.is_file() else 0.0

    @property
    def is_finished(self) -> bool:
        """Has it left its weights, which is the last thing that a run does?"""
        return (self.folder / WEIGHTS).is_file()

    def metric(self, column: str) -> Metric | None:
        """The metric of its evaluations that is logged as `column`; None of one that is none.

        Raises:
            ConfigError: its config names something else as a metric.
        """
        return metric_of(column, self.config)

    def sign_of(self, column: str) -> int:
        """1 of a column of which the lowest values are the better ones, else -1."""
        metric = self.metric(column)
        is_higher_better = column in HIGHER_IS_BETTER if metric is None else metric.direction == "max"
        return -1 if is_higher_better else 1

    def curve(self, metric: str) -> list[Point]:
        """The finite values of `metric`, in order; none if it was not logged."""
        points = []
        for row in self.rows:
            value = row.get(metric)
            if value is not None and math.isfinite(value):
                points.append(Point({name: row[name] for name in X_AXES if row.get(name) is not None}, value))
        return points

    def final(self, metric: str) -> Point:
        """The last value of `metric`.

        Raises:
            ConfigError: the run has not logged it, or it was no number any more.
        """
        logged = [row for row in self.rows if row.get(metric) is not None]
        if logged and not math.isfinite(logged[-1][metric]):
            step = int(logged[-1]["step"])
            raise ConfigError(
                f"runs ({self.folder}): its {metric} is {logged[-1][metric]} at step {step}; leave it out"
            )
        if metric not in X_AXES and (points := self.curve(metric)):
            return points[-1]
        known = [name for name in (self.rows[0] if self.rows else {}) if name not in X_AXES and self.curve(name)]
        if not known:
            raise ConfigError(f"runs ({self.folder}): this run has logged nothing yet ({METRICS})")
        meant = did_you_mean(metric, known)
        raise ConfigError(f"metric ({metric}): {self.folder} has not logged it{meant} (it has: {', '.join(known)})")

    def best(self, metric: str) -> Point:
        """The best value of `metric`, of several the first."""
        self.final(metric)
        sign = self.sign_of(metric)
        return min(self.curve(metric), key=lambda point: sign * point.value)


def find_runs(names: list[str], storage: str | None = None) -> list[Run]:
    """The runs that `names` mean, each once: folders of runs, of sweeps, or "last".

    `storage` is that of the ledgers of sweeps which do not have it in their folder.

    Raises:
        ConfigError: there is no such run, or but one in all.
    """
    folders: dict[Path, None] = {}
    for name in names:
        path = newest_run() if name == "last" else user_path(name)
        found = _trials(path, storage) if (path / RECORD).is_file() else [path]
        folders |= dict.fromkeys(folder.resolve() for folder in found)
    if len(folders) < 2:
        what = f"there is one run in {shorten(', '.join(names))}" if folders else "there is no run"
        raise ConfigError(f"runs: {what}, and it takes two to compare; name another, or a sweep")
    short = _short_names(list(folders))
    return [_read(folder, short[folder]) for folder in folders]


def _trials(sweep: Path, storage: str | None) -> list[Path]:
    ledger = Ledger.open(sweep, storage, read_only=True)
    try:
        runs = [ledger.run_of(row) for row in ledger.rows() if row.state == "done"]
    finally:
        ledger.close()
    done = [run for run in runs if run is not None]
    if not done:
        status = command("sweep", "status", named("folder", str(sweep)))
        raise ConfigError(f"runs ({sweep}): no trial of this sweep is done yet ({status})")
    return done


def _short_names(folders: list[Path]) -> dict[Path, str]:
    """The last parts of their paths, as many as tell them apart."""
    for n in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = {folder: "/".join(folder.parts[-n:]) for folder in folders}
        if len(set(names.values())) == len(folders):
            return names
    raise AssertionError(folders)


def _read(folder: Path, name: str) -> Run:
    run = RunFolder(folder, "runs")
    environment = run.environment
    try:
        config = run.config
    except ConfigError as error:
        inside = sorted(file.parents[1] for file in folder.glob(f"*/{CONFIG}"))
        hint = f"; name the runs in it, e.g. {inside[0]}" if inside else ""
        raise ConfigError(f"{error}{hint}") from None
    if not isinstance(config.get("seed"), int):
        raise ConfigError(f"runs ({shorten(str(folder))}): its {CONFIG} is not what firstlight writes")
    with _understood(folder / METRICS):
        rows = [_numbers(row) for row in run.rows]
        _add_seconds(rows)
        evaluated = {int(row["step"]) for row in rows if row.get("val/loss") is not None}
    with _understood(folder / SAMPLES):
        samples = run.samples(evaluated)
    return Run(folder, name, config, rows, samples, environment)


@contextmanager
def _understood(file: Path) -> Iterator[None]:
    """Name the `file` in whose content is what the block fails at."""
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise ConfigError(f"runs ({file}): not what firstlight writes ({reason}); leave the run out") from None


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    return {name: float(text) if text else None for name, text in row.items()}


def _add_seconds(rows: list[dict[str, Any]]) -> None:
    """Put the seconds of training into every row, as far as the throughput was logged up to it."""
    rated = [row for row in rows if row.get("tokens_per_second")]
    if not rated or rows[0].get("tokens") != 0:
        return
    knots = [(0.0, 0.0)]
    for row in rated:
        knots.append((row["tokens"], knots[-1][1] + (row["tokens"] - knots[-1][0]) / row["tokens_per_second"]))
    for row in rows:
        for (x0, y0), (x1, y1) in pairwise(knots):
            if x0 <= row["tokens"] <= x1:
                row["seconds"] = y0 + (y1 - y0) * (row["tokens"] - x0) / (x1 - x0) if x1 > x0 else y1
                break
