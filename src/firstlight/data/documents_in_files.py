"""A text whose documents are in files that are read one after another."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from firstlight.config import NonEmpty
from firstlight.data.cache import cache_dir as cache_folder
from firstlight.data.checks import Budget
from firstlight.data.compressed import compression_of
from firstlight.data.datamodule import TextDataModule
from firstlight.data.documents import Format, format_of, read_documents, stream_text
from firstlight.data.files import user_path
from firstlight.data.findings import Findings
from firstlight.data.kept import LargeText
from firstlight.data.reading import Encoded
from firstlight.data.statistics import Survey

SMALL = 2**24
"""Bytes. The tokens of a shorter text are not kept: GPT-2's tokenizer takes 2 s for it."""
EXPANDS = 8
"""How much larger compressed text may be once it is expanded."""


class DocumentsInFiles(TextDataModule):
    """The documents of `files`: each is read by its name, or as `format`.

    A line of JSON, or a row of Parquet, is a document, in the field or column `field`.

    The tokens of a text of `SMALL` bytes or more are kept in `cache_dir` (None: in the cache
    folder), and mapped into memory from there.
    """

    def __init__(
        self,
        *,
        format: Format,
        field: NonEmpty = "text",
        cache_dir: NonEmpty | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.format: Format = format
        self.field = field
        self.cache_dir = cache_dir
        self._listed: list[Path] = []
        """What `files` has returned."""
        self._first_documents: list[int] = []
        """Of each file, the number of its first document."""

    @abstractmethod
    def files(self) -> list[Path]:
        """Return the files in the order in which they are read.

        Raises:
            ValueError: they are not available.
        """

    @abstractmethod
    def place(self) -> str:
        """Name the setting that says where the files are, with its value, without its section."""

    def documents(self) -> list[str]:
        documents: list[str] = []
        budget = Budget()
        for text in self.iter_documents():
            budget.spend(text, self.place())
            documents.append(text)
        if not any(document.strip() for document in documents):
            raise self._without_text()
        return documents

    def iter_documents(self) -> Iterator[str]:
        for blocks in self._texts(whole=True):
            yield from blocks

    def iter_texts(self) -> Iterator[Iterable[str]]:
        return self._texts(whole=False)

    def _texts(self, *, whole: bool) -> Iterator[Iterable[str]]:
        """Yield the documents in blocks; with `whole` each is a single one."""
        firsts: list[int] = []
        number = 0
        for file in self.listed():
            firsts.append(number)
            if not whole and format_of(file, self.format) == "text":
                yield stream_text(file)
                number += 1
                continue
            for text in read_documents(file, format=self.format, field=self.field):
                yield [text]
                number += 1
        # At the end: a text that was not read to its end has no complete list.
        self._first_documents = firsts

    def listed(self) -> list[Path]:
        """Return the files, asked for once: whatever reads the text reads the same ones.

        Raises:
            ValueError: they are not available.
        """
        if not self._listed:
            self._listed = self.files()
        return self._listed

    def large_text(self) -> LargeText | None:
        files = self.listed()
        if sum(map(_expanded_size, files)) < SMALL:
            return None
        kinds = [[format_of(file, self.format), compression_of(file)] for file in files]
        folder = user_path(self.cache_dir) if self.cache_dir else cache_folder() / "texts"
        return LargeText(files, [kinds, self.field], folder)

    def findings_of(self, survey: Survey, encoded: Encoded) -> Findings:
        if not survey.has_text:
            raise self._without_text()
        empty: list[int] = []
        copies: list[tuple[int, int]] = []
        first_with: dict[int, int] = {}
        ends = [*self._first_documents[1:], len(survey.lengths)]
        for number, (first, end) in enumerate(zip(self._first_documents, ends, strict=True)):
            if all(document in survey.blank for document in range(first, end)):
                empty.append(number)
            # Files of many documents are not compared: they may share some with good reason.
            elif format_of(self._listed[number], self.format) == "text":
                earlier = first_with.setdefault(survey.hashes[first], number)
                if earlier != number:
                    copies.append((number, earlier))
        found = super().findings_of(survey, encoded)
        return found.model_copy(update={"empty": empty, "copies": copies})

    def notes_of(self, findings: Findings) -> list[str]:
        files, notes = self._listed, []
        if findings.empty:
            has = "has" if len(findings.empty) == 1 else "have"
            notes.append(f"{some([files[number] for number in findings.empty])} {has} no text")
        if findings.copies:
            copies = [
                f"{files[copy]} has the same text as {files[first]}"
                for copy, first in findings.copies
            ]
            notes.append(
                f"{some(copies)}: training and validation may share it; leave one of them out"
            )
        return [*notes, *super().notes_of(findings)]

    def _without_text(self) -> ValueError:
        return ValueError(f"{self.place()} has no text in it")


def some(items: Sequence[object]) -> str:
    """Name the first of the items, and how many more there are."""
    if len(items) == 1:
        return str(items[0])
    return f"{items[0]} (and {len(items) - 1:,} more)"


def _expanded_size(file: Path) -> int:
    """Estimate the bytes of text in a file; 0 if it cannot be looked at."""
    is_compressed = compression_of(file) is not None or format_of(file) == "parquet"
    with suppress(OSError):
        return file.stat().st_size * (EXPANDS if is_compressed else 1)
    return 0
