"""Parquet files, through the optional package pyarrow."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from firstlight.data.checks import check_size, no_such_field
from firstlight.data.files import MissingFileError
from firstlight.errors import one_line, shorten
from firstlight.packages import with_extra

ROWS = 1024
"""Rows that are read at once."""


def read_parquet(file: Path, column: str, most: int) -> Iterator[str]:
    """The texts in a column, row by row, without those that have no letters in them.

    Raises:
        MissingFileError: no such file.
        ValueError: it is damaged, has no such column of texts, or a part of the column expands to
            more than `most` bytes.
    """
    if not file.exists():
        raise MissingFileError(file)
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"path ({file}): Parquet needs the package pyarrow: {with_extra('parquet')}"
        ) from None
    row = 0
    try:
        for texts in _batches(file, column, most):
            for text in texts:
                row += 1
                if not isinstance(text, str):
                    raise ValueError(
                        f"path ({file}), row {row:,}: the column {shorten(repr(column))} is null,"
                        " not a text"
                    )
                if text.strip():
                    yield text
    except UnicodeDecodeError:
        raise ValueError(
            f"path ({file}), one of rows {row + 1:,} to {row + ROWS:,}: the column"
            f" {shorten(repr(column))} is not UTF-8"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"path ({file}) is damaged, or not Parquet: {shorten(one_line(error), 160)}"
        ) from None


def _batches(file: Path, column: str, most: int) -> Iterator[Iterable[Any]]:
    """The values of a column, up to `ROWS` at a time."""
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    with pq.ParquetFile(file) as opened:
        _check(file, column, opened, most)
    # Values that come again stay a number each: they could expand to far more than there is memory.
    with pq.ParquetFile(file, read_dictionary=[column]) as opened:
        for batch in opened.iter_batches(batch_size=ROWS, columns=[column]):
            yield _values(batch.column(0))


def _values(column: Any) -> Iterator[Any]:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    if not pa.types.is_dictionary(column.type):
        yield from column.to_pylist()
        return
    known = column.dictionary.to_pylist()
    for index in column.indices.to_pylist():
        yield None if index is None else known[index]


def _check(file: Path, column: str, opened: Any, most: int) -> None:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    names = opened.schema_arrow.names
    if column not in names:
        raise ValueError(f"path ({file}) {no_such_field('column', column, names)}")
    if names.count(column) > 1:
        raise ValueError(
            f"path ({file}) has {names.count(column)} columns {shorten(repr(column))}; rename all"
            " but one"
        )
    kind = opened.schema_arrow.field(column).type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if values not in (pa.string(), pa.large_string(), pa.string_view()):
        raise ValueError(
            f"path ({file}): the column {shorten(repr(column))} has values of type"
            f" {shorten(str(kind))}, not texts"
        )
    metadata = opened.metadata
    # Sizes from the metadata, before a page is expanded.
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            part = metadata.row_group(group).column(place)
            if part.path_in_schema == column:
                check_size(f"path ({file})", part.total_uncompressed_size, most)
