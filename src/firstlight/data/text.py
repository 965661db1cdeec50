"""The user's text files: one, several, or a folder of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstlight.config import NonEmpty
from firstlight.data.datamodule import TextDataModule
from firstlight.data.files import Folder, list_folder, read_text, user_path
from firstlight.errors import shorten


class TextData(TextDataModule):
    """UTF-8 text files, each a document; a folder stands for its `*.txt` and `*.md` files.

    Folders are read at any depth, sorted by name, without hidden files and folders, editors'
    backups and run folders. A path that is named explicitly is always read. Line ends become
    newlines, and a byte-order mark is dropped.
    """

    def __init__(self, *, path: NonEmpty | list[NonEmpty], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self._source = ""

    def documents(self) -> list[str]:
        paths = [self.path] if isinstance(self.path, str) else self.path
        if not paths:
            raise ValueError("path is empty; give data.path=FILE, [FILE,FILE] or FOLDER")
        found = Folder()
        for path in paths:
            part = _files(user_path(path))
            found.files += part.files
            found.hidden += part.hidden
            found.others += part.others
            found.runs += part.runs
            found.links += part.links
        documents = [read_text(file) for file in found.files]
        if not any(document.strip() for document in documents):
            raise ValueError(f"path ({self.path}) has no text in it")
        self._source = f"{len(documents):,} file{'s' if len(documents) > 1 else ''}"
        left_out = _left_out(found)
        if left_out:
            self._source += f"; left out: {left_out}"
        # Files with other suffixes are hardly ever forgotten text, so only `source` names them.
        self.left_out = _left_out(replace(found, others=0))
        self.notes += _notes(found, documents)
        return documents

    def setting(self) -> str:
        return f"data.path ({shorten(str(self.path))})"

    def source(self) -> str:
        return self._source


SUFFIXES = (".txt", ".md")


def _files(path: Path) -> Folder:
    if not path.is_dir():
        if path.exists() and not path.is_file():
            raise ValueError(
                f"path ({path}) is not a file: a device or a pipe cannot be read again to resume"
                " the run"
            )
        return Folder([path])
    try:
        found = list_folder(path, SUFFIXES)
    except OSError as error:
        raise ValueError(f"path ({error.filename}) cannot be read: {error.strerror}") from None
    if not found.files:
        left_out = _left_out(found)
        advice = f" (left out: {left_out})" if left_out else ""
        raise ValueError(f"path ({path}) is a folder without {' or '.join(SUFFIXES)} files{advice}")
    return found


def _left_out(found: Folder) -> str:
    """Count the files and folders that are not read, by reason, e.g. "3 hidden, 1 run folder"."""
    counts = {
        "hidden": found.hidden,
        f"not {' or '.join(SUFFIXES)}": found.others,
        "run folder" if found.runs == 1 else "run folders": found.runs,
    }
    return ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)


def _notes(found: Folder, documents: list[str]) -> list[str]:
    """Warn about empty files, files with the same text, and links."""
    notes: list[str] = []
    empty: list[Path] = []
    copies: list[str] = []
    first: dict[str, Path] = {}
    for file, document in zip(found.files, documents, strict=True):
        if not document.strip():
            empty.append(file)
        elif document in first:
            copies.append(f"{file} has the same text as {first[document]}")
        else:
            first[document] = file
    if empty:
        notes.append(f"{_some(empty)} {'has' if len(empty) == 1 else 'have'} no text")
    if copies:
        notes.append(
            f"{_some(copies)}: training and validation may share it; leave one of them out"
        )
    if found.links:
        notes.append(
            f"{_some(found.links)}: a link to a folder, which is not followed; give that folder"
            " itself to read it"
        )
    return notes


def _some(items: Sequence[object]) -> str:
    """Name the first of the items, and count the others."""
    if len(items) == 1:
        return str(items[0])
    return f"{items[0]} (and {len(items) - 1:,} more)"
