"""What a run folder holds, for comparing it with others."""

import math
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from firstlight.checkpoints.find import run_named
from firstlight.checkpoints.manifest import WEIGHTS
from firstlight.data.files import leads_to
from firstlight.errors import ConfigError, did_you_mean, reason_of, shorten
from firstlight.metrics.base import Metric
from firstlight.metrics.measured import metric_of
from firstlight.metrics.splits import is_final
from firstlight.overrides import command, named
from firstlight.runs.run_folder import CONFIG, METRICS, SAMPLES, RunFolder
from firstlight.sweep.ledger import Ledger
from firstlight.sweep.record import SWEEP_FILE

HIGHER_IS_BETTER = ("tokens_per_second", "mfu")
"""Columns of the throughput, of which higher is better; they are not metrics."""
X_AXES = ("step", "tokens", "seconds")
"""`seconds` are those of training, without evaluations, as `tokens_per_second` tells them."""


@dataclass(frozen=True)
class CurvePoint:
    """A value of a column, and where in the run it was: by each of X_AXES that is known."""

    x: dict[str, float]
    value: float


@dataclass(frozen=True)
class Run:
    """A run: its composed config, what it logged, its samples (by step) and its environment.

    `overrides` are those that it was begun and resumed with.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    samples: dict[int, str]
    environment: dict[str, Any]
    overrides: list[str] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def written(self) -> float:
        """When it logged last, in seconds of the clock; 0 if it has logged nothing."""
        file = self.folder / METRICS
        return file.stat().st_mtime if file.is_file() else 0.0

    @property
    def is_finished(self) -> bool:
        """Whether its weights are there: writing them is the last thing that a run does."""
        return (self.folder / WEIGHTS).is_file()

    def metric(self, column: str) -> Metric | None:
        """The metric that its evaluations log as `column`; None if the column is not a metric.

        Raises:
            ConfigError: its config names something else as a metric.
        """
        return metric_of(column, self.config)

    def sign_of(self, column: str) -> int:
        """1 for a column of which lower is better, else -1."""
        metric = self.metric(column)
        if metric is not None:
            return -1 if metric.direction == "max" else 1
        return -1 if column in HIGHER_IS_BETTER else 1

    def curve(self, column: str) -> list[CurvePoint]:
        """The finite values of `column`, in order; none if it was not logged."""
        points = []
        for row in self.rows:
            value = row.get(column)
            # What is not finite has no place on an axis; `final` refuses a run that ends so.
            if value is not None and math.isfinite(value):
                x = {name: row[name] for name in X_AXES if row.get(name) is not None}
                points.append(CurvePoint(x, value))
        return points

    def final(self, column: str) -> CurvePoint:
        """The last value of `column`.

        Raises:
            ConfigError: the run has not logged it, or it is nan or inf.
        """
        logged = [row for row in self.rows if row.get(column) is not None]
        if is_final(column) and not self._is_tested:
            raise ConfigError(f"metric ({column}): {self.folder}{self._why_no_final()}")
        # A diverged run must not be judged by its last finite value.
        if logged and not math.isfinite(logged[-1][column]):
            step = int(logged[-1]["step"])
            raise ConfigError(
                f"runs ({self.folder}): its {column} is {logged[-1][column]} at step {step}; leave"
                " it out"
            )
        if logged and column not in X_AXES:
            return self.curve(column)[-1]
        first_row = next(iter(self.rows), {})
        known = [name for name in first_row if name not in X_AXES and self.curve(name)]
        if not known:
            raise ConfigError(f"runs ({self.folder}): this run has logged nothing yet ({METRICS})")
        meant = did_you_mean(column, known)
        raise ConfigError(
            f"metric ({column}): {self.folder} has not logged it{meant} (it has:"
            f" {', '.join(known)})"
        )

    @property
    def _is_tested(self) -> bool:
        """Whether it has come to its end, and has scored its test split there."""
        last = self.rows[-1] if self.rows else {}
        scored = [name for name, value in last.items() if is_final(name) and value is not None]
        return self.is_finished and bool(scored)

    def _why_no_final(self) -> str:
        """Why the run has no score of the test split."""
        if not self.is_finished:
            return " is unfinished, and its test split is scored at the end: resume it"
        ratio = (self.config.get("data") or {}).get("test_ratio")
        if ratio == 0:
            return (
                " has no test split (data.test_ratio is 0, as in all runs of earlier versions):"
                " compare it in val/..."
            )
        return " has not logged it: its text has no test split, or it was not scored"

    def best(self, column: str) -> CurvePoint:
        """The best value of `column`, which it has logged; of several the first."""
        sign = self.sign_of(column)
        return min(self.curve(column), key=lambda point: sign * point.value)


def find_runs(names: list[str], storage: str | None = None) -> list[Run]:
    """The runs that `names` mean, each once: folders of runs, of sweeps, or "last".

    `storage` is that of sweeps whose ledger is not in their folder.

    Raises:
        ConfigError: a run does not exist, or only one is named.
    """
    folders: dict[Path, None] = {}  # in order, each once
    for name in names:
        path = run_named(name)
        found = [path]
        if leads_to(path / SWEEP_FILE, Path.is_file):
            found = _trials(path, storage)
        for folder in found:
            # Resolved: the same run may be named by a link, or as part of its sweep.
            folders[folder.resolve()] = None
    short = _short_names(list(folders))
    # Read before they are counted: one folder that is not a run is told as such.
    runs = [_read(folder, short[folder]) for folder in folders]
    if len(runs) < 2:
        given = shorten(", ".join(names))
        raise ConfigError(
            f"runs ({given}): only one run, and comparing takes two; name another, or a sweep"
        )
    return runs


def _trials(sweep: Path, storage: str | None) -> list[Path]:
    with closing(Ledger.open(sweep, storage, read_only=True)) as ledger:
        # Not the pruned ones, which were stopped because they were worse.
        done = [ledger.run_of(row) for row in ledger.rows() if row.state == "done"]
    folders = [folder for folder in done if folder is not None]
    if not folders:
        status = command("sweep", "status", named("folder", str(sweep)))
        raise ConfigError(f"runs ({sweep}): no trial of this sweep is done yet ({status})")
    return folders


def _short_names(folders: list[Path]) -> dict[Path, str]:
    """The last parts of their paths, as many as tell them apart.

    A trial's last part is only its number: beside runs of other places it has the sweep's, too.
    """
    places = {folder.parent for folder in folders}
    sweeps = {place for place in places if leads_to(place / SWEEP_FILE, Path.is_file)}
    # One part more each time, until no two names are the same.
    n = 0
    names: dict[Path, str] = {}
    while len(set(names.values())) < len(folders):
        n += 1
        for folder in folders:
            n_parts = max(n, 2) if len(places) > 1 and folder.parent in sweeps else n
            names[folder] = "/".join(folder.parts[-n_parts:])
    return names


def _read(folder: Path, name: str) -> Run:
    run = RunFolder(folder, "runs")
    try:
        config = run.config
    except ConfigError as error:
        inside = sorted(folder.glob(f"*/{CONFIG}")) if leads_to(folder) else []
        if not inside:
            raise
        raise ConfigError(f"{error}; name the runs in it, e.g. {inside[0].parents[1]}") from None
    if not isinstance(config.get("seed"), int):
        raise ConfigError(
            f"runs ({shorten(str(folder))}): its {CONFIG} is not what firstlight writes"
        )
    with _naming(folder / METRICS):
        rows = [_numbers(row) for row in run.rows]
        _add_seconds(rows)
        evaluated = {int(row["step"]) for row in rows if row.get("val/loss") is not None}
    with _naming(folder / SAMPLES):
        samples = run.samples(evaluated)
    return Run(folder, name, config, rows, samples, run.environment, run.overrides)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Name the `file` whose content the block cannot read."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OSError) as error:
        message = (
            f"runs ({file}): not what firstlight writes ({reason_of(error)}); leave the run out"
        )
        raise ConfigError(message) from None


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    return {name: float(text) if text else None for name, text in row.items()}


def _add_seconds(rows: list[dict[str, Any]]) -> None:
    """Put the seconds of training into every row, as far as the throughput was logged up to it."""
    # The throughput is a mean since the row that logged it before: it tells how long the tokens in
    # between took. Rows without one are placed between those, in proportion to their tokens.
    tokens, seconds = [0.0], [0.0]
    for row in rows:
        if row.get("tokens_per_second") and row["tokens"] > tokens[-1]:
            seconds.append(seconds[-1] + (row["tokens"] - tokens[-1]) / row["tokens_per_second"])
            tokens.append(row["tokens"])
    has_throughput = len(tokens) > 1
    if not has_throughput or rows[0].get("tokens") != 0:  # or the log lacks its beginning
        return
    for row in rows:
        if row["tokens"] <= tokens[-1]:
            after = max(bisect_left(tokens, row["tokens"]), 1)
            before = after - 1
            took, n_tokens = seconds[after] - seconds[before], tokens[after] - tokens[before]
            row["seconds"] = seconds[before] + took * (row["tokens"] - tokens[before]) / n_tokens
