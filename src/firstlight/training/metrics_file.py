"""Reading `metrics.csv`, without waiting for Lightning."""

import csv
from pathlib import Path

FILE_NAME = "metrics.csv"


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`, in order; none if there is no such file. A row that was cut short is left out."""
    if not file.is_file():
        return []
    whole = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [row for row in csv.DictReader(whole) if None not in row and None not in row.values()]
