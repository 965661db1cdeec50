"""Text files of the user's: one, several, or a folder of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.config import NonEmpty
from firstlight.data.datamodule import TextDataModule
from firstlight.data.files import Folder, list_folder, read_text, user_path
from firstlight.errors import shorten


class TextData(TextDataModule):
    """UTF-8 text files, each a document; of a folder every `*.txt` and `*.md` below it, in the order of their names.

    Hidden files and folders in it, editors' backups, and run folders are left out; what is named itself is always read.
    Line ends are read as newlines and a byte-order mark is dropped.
    """

    def __init__(self, *, path: NonEmpty | list[NonEmpty], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self._source = ""

    def documents(self) -> list[str]:
        paths = [self.path] if isinstance(self.path, str) else self.path
        if not paths:
            raise ValueError("path is empty; give data.path=FILE, [FILE,FILE] or FOLDER")
        parts = [_files(user_path(path)) for path in paths]
        files = [file for part in parts for file in part.files]
        documents = [read_text(file) for file in files]
        if not any(document.strip() for document in documents):
            raise ValueError(f"path ({self.path}) has no text in it")
        told = _left_out(parts)
        self._source = f"{len(files):,} file{'s' if len(files) > 1 else ''}{told and f'; left out: {told}'}"
        self.left_out = _left_out(parts, other_kinds=False)
        self.notes += _notes(files, documents, [link for part in parts for link in part.links])
        return documents

    def setting(self) -> str:
        return f"data.path ({shorten(str(self.path))})"

    def source(self) -> str:
        return self._source


SUFFIXES = (".txt", ".md")


def _files(path: Path) -> Folder:
    if not path.is_dir():
        if path.exists() and not path.is_file():
            raise ValueError(f"path ({path}) is no file: a device or a pipe cannot be read again to continue the run")
        return Folder([path])
    try:
        found = list_folder(path, SUFFIXES)
    except OSError as error:
        raise ValueError(f"path ({error.filename}) cannot be read: {error.strerror}") from None
    if not found.files:
        told = _left_out([found])
        raise ValueError(
            f"path ({path}) is a folder without {' or '.join(SUFFIXES)} files{told and f' (left out: {told})'}"
        )
    return found


def _left_out(parts: list[Folder], *, other_kinds: bool = True) -> str:
    """How many files and folders are not read, and why; "" if all are."""
    n_runs = sum(len(part.runs) for part in parts)
    counts = {
        "hidden": sum(part.hidden for part in parts),
        f"not {' or '.join(SUFFIXES)}": sum(part.others for part in parts) if other_kinds else 0,
        "run folder" if n_runs == 1 else "run folders": n_runs,
    }
    return ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)


def _notes(files: list[Path], documents: list[str], links: list[Path]) -> Iterator[str]:
    """What is odd about the files."""
    if empty := [file for file, document in zip(files, documents, strict=True) if not document.strip()]:
        yield f"{_some(empty)} {'has' if len(empty) == 1 else 'have'} no text"
    first: dict[str, Path] = {}
    twice: list[tuple[Path, Path]] = []
    for file, document in zip(files, documents, strict=True):
        if document.strip() and (twin := first.setdefault(document, file)) is not file:
            twice.append((twin, file))
    if twice:
        others = f" (and {len(twice) - 1:,} more)" if len(twice) > 1 else ""
        yield (
            f"{twice[0][1]} has the same text as {twice[0][0]}{others}: training and validation may share it; "
            "leave one of them out"
        )
    if links:
        yield f"{_some(links)}: a link to a folder, which is not followed; name that folder to read it"


def _some(files: list[Path]) -> str:
    """The first of the files, and how many more there are."""
    return str(files[0]) + (f" (and {len(files) - 1:,} more)" if len(files) > 1 else "")
