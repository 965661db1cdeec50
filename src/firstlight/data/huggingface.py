"""A dataset in Hugging Face's format: of the hub, or a folder. The package `datasets` reads it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from firstlight.config import NonEmpty, Steps
from firstlight.data.checks import Budget, no_such_field
from firstlight.data.datamodule import TextDataModule
from firstlight.data.files import MissingFileError, leads_to, user_path
from firstlight.errors import one_line, shorten
from firstlight.packages import with_extra

BUILDERS = ("json", "parquet", "csv", "arrow", "text")
"""What may read the files of a dataset. Others of the package load pickles, which can run code."""
ROWS = 1000
"""Rows that are read at once."""


class DatasetError(ValueError):
    """The dataset is not what the settings say."""


class HuggingFaceData(TextDataModule):
    """The texts in one column of one split of a dataset, each row a document.

    `dataset` is a folder, as `save_to_disk` writes it or with files of JSON lines, Parquet, CSV or
    text in it, or a name on the hub: OWNER/NAME, or OWNER/NAME@REVISION. With `max_documents` only
    as much of the hub's is downloaded as is read; without, all of the split is, once, into the
    cache of `datasets`.
    """

    def __init__(
        self,
        *,
        dataset: NonEmpty,
        subset: NonEmpty | None = None,
        split: NonEmpty = "train",
        field: NonEmpty = "text",
        max_documents: Steps | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.subset = subset
        self.split = split
        self.field = field
        self.max_documents = max_documents
        self.n_empty = 0

    def documents(self) -> list[str]:
        documents: list[str] = []
        # Rows come from anywhere, and their number is known only at the end.
        budget = Budget()
        for text in self.iter_documents():
            budget.spend(text, f"dataset ({self.dataset})")
            documents.append(text)
        if not documents:
            raise ValueError(f"dataset ({self.dataset}) has no text in {self.field!r}")
        return documents

    def iter_documents(self) -> Iterator[str]:
        self.n_empty = 0
        for number, text in enumerate(islice(self._texts(), self.max_documents)):
            if not isinstance(text, str):
                raise ValueError(
                    f"dataset ({self.dataset}), row {number:,}: {self.field!r} is"
                    f" {shorten(repr(text), 40)}, not a text"
                )
            if text.strip():
                yield text
            else:
                self.n_empty += 1

    def _texts(self) -> Iterator[Any]:
        """The values of the column, row by row."""
        try:
            with _quiet():
                rows = self._opened()
                self._check_column(rows.column_names, rows.features)
                if rows.column_names is not None:
                    # Before reading: other columns, such as pictures, would be decoded in vain.
                    rows = rows.select_columns([self.field])
                for batch in rows.iter(batch_size=ROWS):
                    if self.field not in batch:  # what streams may not know its columns before
                        self._check_column(list(batch), None)
                    yield from batch[self.field]
        except (MissingFileError, DatasetError):
            raise
        except Exception as error:  # whatever the package raises on what it cannot read or reach
            raise ValueError(f"dataset ({self.dataset}): {_reason(error)}") from error

    def _opened(self) -> Any:
        """A `Dataset` or `IterableDataset` of the split.

        Raises:
            ValueError: the dataset or split does not exist.
        """
        import datasets  # pyright: ignore[reportMissingImports]

        folder = user_path(self.dataset)
        if leads_to(folder, Path.is_file) or (not leads_to(folder) and self._is_path(folder)):
            raise MissingFileError(self.dataset, what="folder", key="dataset")
        try:
            if folder.is_dir():
                return self._of_folder(datasets, folder)
            return self._of_hub(datasets)
        except Exception as error:  # as in `_texts`; a ValueError names a split or a subset
            raise DatasetError(f"dataset ({self.dataset}): {_reason(error)}") from error

    def _is_path(self, folder: Path) -> bool:
        """Whether the name cannot be one of the hub."""
        return folder.is_absolute() or self.dataset.startswith((".", "~"))

    def _of_folder(self, datasets: Any, folder: Path) -> Any:
        is_saved = (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()
        if not is_saved:
            return self._builder(datasets, str(folder), None).as_streaming_dataset(self.split)
        saved = datasets.load_from_disk(str(folder))
        if not isinstance(saved, dict):
            if self.split not in ("train", str(saved.split)):
                raise ValueError(f"it holds one split, {saved.split}, not {self.split!r}")
            return saved
        if self.split not in saved:
            raise ValueError(f"it has no split {self.split!r}, only {', '.join(saved)}")
        return saved[self.split]

    def _of_hub(self, datasets: Any) -> Any:
        name, _, revision = self.dataset.partition("@")
        builder = self._builder(datasets, name, revision or None)
        # A stream downloads what is read; a whole split is better kept on disk, memory-mapped.
        if self.max_documents is not None:
            return builder.as_streaming_dataset(self.split)
        builder.download_and_prepare()
        return builder.as_dataset(self.split)

    def _builder(self, datasets: Any, path: str, revision: str | None) -> Any:
        """What reads the files, which have been looked at but not downloaded."""
        builder = datasets.load_dataset_builder(path, name=self.subset, revision=revision)
        kind = type(builder).__module__.rpartition(".")[2]
        if kind not in BUILDERS:
            raise ValueError(f"its files are {kind}; {', '.join(BUILDERS)} can be read")
        return builder

    def _check_column(self, names: list[str] | None, features: Any) -> None:
        if names is not None and self.field not in names:
            problem = no_such_field("column", self.field, names)
            raise DatasetError(f"dataset ({self.dataset}) {problem}")
        kind = None if features is None else getattr(features[self.field], "dtype", "a structure")
        if kind not in (None, "string", "large_string"):
            raise DatasetError(
                f"dataset ({self.dataset}): the column {self.field!r} has values of type {kind},"
                " not texts"
            )

    def setting(self) -> str:
        return f"data.dataset ({shorten(self.dataset)})"

    def source(self) -> str:
        parts = [f"{shorten(self.dataset)}, split {self.split}"]
        if self.subset is not None:
            parts.append(f"subset {self.subset}")
        if self.max_documents is not None:
            parts.append(f"the first {self.max_documents:,} documents")
        if self.n_empty:
            parts.append(f"{self.n_empty:,} without text left out")
        return ", ".join(parts)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block `datasets` logs nothing: what it would log, it raises as well.

    Raises:
        DatasetError: the package is missing.
    """
    try:
        from datasets import logging as of_datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DatasetError(
            f"data=huggingface needs the package datasets: {with_extra('datasets')}"
        ) from None
    before = of_datasets.get_verbosity()
    of_datasets.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        of_datasets.set_verbosity(before)


def _reason(error: Exception) -> str:
    """What went wrong, in one line."""
    import datasets.exceptions  # pyright: ignore[reportMissingImports]

    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return (
            "no such folder, and no such dataset on the hub, or the hub cannot be reached"
            " (or it is private or gated: ask for access, then `hf auth login`)"
        )
    return shorten(one_line(error), 200)
