"""One `metrics.csv` in the run folder: a row a logged step, a column a metric."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from firstlight.files import append, replacing
from firstlight.metrics.splits import is_final
from firstlight.runs.run_folder import METRICS, RunFolder
from firstlight.training.loggers.board import GIVEN_BY_FIT

FIRST_COLUMNS = ("step", "tokens", "epoch", "train/loss", "val/loss")


class CSVLogger(Logger):
    """Writes each row of `metrics.csv` at once.

    Lightning's own logger deletes the file of a resumed run, and splits the row of a step.

    `purge_step`: rows from this step on are dropped first; a resumed run writes them again.
    """

    not_in_config = GIVEN_BY_FIT

    def __init__(self, *, save_dir: str, purge_step: int | None = None) -> None:
        super().__init__()
        self.file = Path(save_dir) / METRICS
        self.purge_step = purge_step
        self.columns: list[str] = []
        self.last: dict[str, str] = {}
        """The row that was logged last."""
        self.unwritten: list[dict[str, str]] = []
        """Rows that a full disk refused: they are written with the next one."""

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        # repr: the very same float is read again.
        row = {name: repr(value) for name, value in metrics.items()} | {"step": str(step)}
        is_more = self.last.get("step") == str(step)  # of a step that has a row: that is completed
        if is_more:
            row = self.last | row
            del self.unwritten[-1:]
        self.last = row
        self.unwritten.append(row)
        if len(self.unwritten) == 1 and not is_more and set(row) <= set(self.columns):
            self._append(row)
            self.unwritten.clear()
        else:  # the first row, one with a new column, or one after a row that could not be written
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write what is not on disk yet: a checkpoint will count it."""
        if self.unwritten:
            kept, unwritten = self._rows_before(int(self.unwritten[0]["step"])), self.unwritten
            # Of a run that was killed at its end: its last step is scored again, and has a row.
            if kept and kept[-1]["step"] == unwritten[0]["step"]:
                unwritten = [kept.pop() | unwritten[0], *unwritten[1:]]
            self._rewrite([*kept, *unwritten])
            self.unwritten.clear()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _rows_before(self, step: int) -> list[dict[str, str]]:
        limit = step if self.columns else self.purge_step or 0
        rows = [row for row in RunFolder(self.file.parent).rows if int(row["step"]) < limit]
        if not self.columns:
            # A run that is resumed has not come to its end: it scores the test split again there.
            for row in rows:
                row.update(dict.fromkeys((name for name in row if is_final(name)), ""))
        return rows

    def _append(self, row: dict[str, str]) -> None:
        # Written in one call: a kill leaves all of the row, or a part that readers drop.
        line = io.StringIO(newline="")
        csv.DictWriter(line, self.columns, restval="").writerow(row)
        append(self.file, line.getvalue().encode())

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        columns = list(
            dict.fromkeys([*FIRST_COLUMNS, *self.columns, *(name for row in rows for name in row)])
        )
        with replacing(self.file) as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        self.columns = columns

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the run folder holds the config."""
