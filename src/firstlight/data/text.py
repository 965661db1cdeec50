"""The user's text files: one, several, or a folder of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstlight.config import NonEmpty
from firstlight.data.checks import Budget
from firstlight.data.documents import Format, format_of, read_documents, suffixes_of
from firstlight.data.documents_in_files import DocumentsInFiles
from firstlight.data.files import Folder, expanded_path, leads_to, list_folder
from firstlight.errors import counted, shorten


class TextData(DocumentsInFiles):
    """Text files in UTF-8; a folder stands for its files that can be read.

    A plain text (.txt, .md, any other name) is a document. A line of JSON (.jsonl) or a row of
    Parquet (.parquet) is one, in the field or column `field`. With `format` other than "auto" every
    file is read as that, whatever its name; "text" is what earlier versions did. All may be
    compressed (.gz, .bz2, .xz, .zst), except Parquet, which is compressed by itself.

    Folders are read at any depth, sorted by name, without hidden files and folders, editors'
    backups and run folders. A path that is named explicitly is always read. In a plain text line
    ends become newlines, and a byte-order mark is dropped.
    """

    def __init__(
        self,
        *,
        path: NonEmpty | list[NonEmpty],
        format: Format = "text",
        **kwargs: Any,
    ) -> None:
        super().__init__(format=format, **kwargs)
        self.path = path
        self._source = ""

    def documents(self) -> list[str]:
        found = self._find()
        documents: list[str] = []
        notes = _Notes()
        budget = Budget()
        for file in found.files:
            first = len(documents)
            for text in read_documents(file, format=self.format, field=self.field):
                budget.spend(text, f"path ({self.path})")
                documents.append(text)
            notes.take(file, documents[first:], format_of(file, self.format))
        if not any(document.strip() for document in documents):
            raise ValueError(f"path ({self.path}) has no text in it")
        n_files = len(found.files)
        self._source = counted(n_files, "file")
        left_out = _left_out(found, self.format)
        if left_out:
            self._source += f"; left out: {left_out}"
        # Files with other suffixes are hardly ever forgotten text, so only `source` names them.
        self.left_out = _left_out(replace(found, others=0), self.format)
        self.notes += notes.lines(found)
        self.copies_are_noted = bool(notes.copies)
        if self.field != "text" and all(
            format_of(file, self.format) == "text" for file in found.files
        ):
            self.notes.append(
                f"field ({shorten(self.field)}) has no effect: every file is read as plain text,"
                " which has no fields (give data.format=jsonl if they are JSON lines)"
            )
        return documents

    def files(self) -> list[Path]:
        return self._find().files

    def _find(self) -> Folder:
        """The files to be read, in their order."""
        paths = [self.path] if isinstance(self.path, str) else self.path
        if not paths:
            raise ValueError("path is empty; give data.path=FILE, [FILE,FILE] or FOLDER")
        found = Folder()
        for name in paths:
            # In the order in which paths are given, and by name within each: the order decides the
            # splits.
            for path in expanded_path(name):
                part = _files(path, self.format)
                found.files += part.files
                found.hidden += part.hidden
                found.others += part.others
                found.runs += part.runs
                found.links += part.links
        return found

    def setting(self) -> str:
        return f"data.path ({shorten(str(self.path))})"

    def source(self) -> str:
        return self._source


def _files(path: Path, format: Format) -> Folder:
    if not leads_to(path, Path.is_dir):
        if leads_to(path) and not path.is_file():
            raise ValueError(
                f"path ({path}) is not a file: a device or a pipe cannot be read again to resume"
                " the run"
            )
        # A path that is named is read whatever its suffix; a missing one is reported when it is
        # opened.
        return Folder([path])
    try:
        found = list_folder(path, suffixes_of(format))
    except OSError as error:
        raise ValueError(f"path ({error.filename}) cannot be read: {error.strerror}") from None
    if not found.files:
        left_out = _left_out(found, format)
        advice = f" (left out: {left_out})" if left_out else ""
        raise ValueError(f"path ({path}) is a folder without {_wanted(format)} files{advice}")
    return found


def _wanted(format: Format) -> str:
    """The endings of files that are read, but for compressed ones, in words."""
    *others, last = [suffix for suffix in suffixes_of(format) if suffix.count(".") == 1]
    return f"{', '.join(others)} or {last}" if others else last


def _left_out(found: Folder, format: Format) -> str:
    """Count the files and folders that are not read, by reason, e.g. "3 hidden, 1 run folder"."""
    counts = {
        "hidden": found.hidden,
        f"not {_wanted(format)}": found.others,
        "run folder" if found.runs == 1 else "run folders": found.runs,
    }
    return ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)


class _Notes:
    """Warnings about empty files, files with the same text, and links."""

    def __init__(self) -> None:
        self.empty: list[Path] = []
        self.copies: list[str] = []
        self.first: dict[int, Path] = {}
        """By the hash of its text, the first file that has it."""

    def take(self, file: Path, documents: list[str], format: Format) -> None:
        """Look at the documents of the next file; those of a file of many are not compared."""
        if not any(document.strip() for document in documents):
            self.empty.append(file)
        elif format == "text":
            # A hash and not the text: texts are in memory once already. Files of many documents may
            # share some of them with good reason.
            first = self.first.setdefault(hash(documents[0]), file)
            if first is not file:
                self.copies.append(f"{file} has the same text as {first}")

    def lines(self, found: Folder) -> list[str]:
        """The warnings, a line each."""
        notes: list[str] = []
        if self.empty:
            has = "has" if len(self.empty) == 1 else "have"
            notes.append(f"{_some(self.empty)} {has} no text")
        if self.copies:
            notes.append(
                f"{_some(self.copies)}: training and validation may share it; leave one of them out"
            )
        if found.links:
            notes.append(
                f"{_some(found.links)}: a link to a folder, which is not followed; name that folder"
                " to read it"
            )
        return notes


def _some(items: Sequence[object]) -> str:
    """The first of the items, and how many more there are."""
    if len(items) == 1:
        return str(items[0])
    return f"{items[0]} (and {len(items) - 1:,} more)"
