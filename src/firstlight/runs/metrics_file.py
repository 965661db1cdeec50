"""Reading `metrics.csv`, without waiting for Lightning."""

import csv
import io
from pathlib import Path

from firstlight.data.files import read_limited

FILE_NAME = "metrics.csv"
MAX_BYTES = 2**28
"""A row has some 150 bytes: more than a million steps."""


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`, in order; none if there is no such file. A row that was cut short is left out.

    Raises:
        ValueError: it is not what firstlight writes.
        OSError: it cannot be read, or is larger than any that firstlight writes.
    """
    if not file.is_file():
        return []
    content = read_limited(file, MAX_BYTES)
    whole = content[: content.rfind(b"\n") + 1].decode("utf-8")
    rows = csv.DictReader(io.StringIO(whole, newline=""))  # which knows a newline in a name from the end of a row
    try:
        return [row for row in rows if None not in row and None not in row.values()]
    except csv.Error as error:
        raise ValueError(str(error)) from None
