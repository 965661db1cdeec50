"""One `metrics.csv` in the run folder: a row a logged step, a column a metric."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

FIRST_COLUMNS = ("step", "tokens", "epoch", "train/loss", "val/loss")
FILE_NAME = "metrics.csv"


class CSVLogger(Logger):
    """Every row is written at once. Lightning's own deletes the file of a continued run, and splits a step's row.

    `purge_step`: rows from this step on are dropped first; a continued run writes them again.
    """

    def __init__(self, *, save_dir: str, purge_step: int | None = None) -> None:
        super().__init__()
        self.file = Path(save_dir) / FILE_NAME
        self.rows_kept = [] if purge_step is None else [r for r in read_rows(self.file) if int(r["step"]) < purge_step]
        self.columns: list[str] = []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": str(step), **{name: repr(value) for name, value in metrics.items()}}
        if new := [name for name in (*FIRST_COLUMNS, *row) if name not in self.columns]:
            kept = read_rows(self.file) if self.columns else self.rows_kept
            self.columns += list(dict.fromkeys([*new, *(name for old in kept for name in old)]))
            self.columns = list(dict.fromkeys(self.columns))
            self._rewrite([*kept, row])
        else:
            self._append(row)

    def _append(self, row: dict[str, str]) -> None:
        with self.file.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(row)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        temporary = self.file.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.file)  # a run that is killed here has the old rows or the new ones

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the config."""


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`, in order; none if there is no such file. A row that was cut short is left out."""
    if not file.is_file():
        return []
    whole = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [row for row in csv.DictReader(whole) if None not in row and None not in row.values()]
