"""The user's text files: one, several, or a folder of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from firstlight.config import NonEmpty
from firstlight.data.documents import Format, format_of, suffixes_of
from firstlight.data.documents_in_files import DocumentsInFiles, some
from firstlight.data.files import Folder, expanded_path, leads_to, list_folder, unreadable
from firstlight.data.findings import Findings
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
        self._found = Folder()

    def files(self) -> list[Path]:
        return self._find().files

    def notes_of(self, findings: Findings) -> list[str]:
        notes: list[str] = []
        if self._found.links:
            notes.append(
                f"{some(self._found.links)}: a link to a folder, which is not followed; name that"
                " folder to read it"
            )
        is_plain = all(format_of(file, self.format) == "text" for file in self._found.files)
        if self.field != "text" and is_plain:
            notes.append(
                f"field ({shorten(self.field)}) has no effect: every file is read as plain text,"
                " which has no fields (give data.format=jsonl if they are JSON lines)"
            )
        return [*super().notes_of(findings), *notes]

    def _find(self) -> Folder:
        """Find the files to be read, in their order."""
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
        self._found = found
        # Files with other suffixes are hardly ever forgotten text, so only `source` names them.
        self.left_out = _left_out(replace(found, others=0), self.format)
        return found

    def place(self) -> str:
        return f"path ({self.path})"

    def setting(self) -> str:
        return f"data.path ({shorten(str(self.path))})"

    def source(self) -> str:
        if not self._found.files:
            return ""
        left_out = _left_out(self._found, self.format)
        n_files = counted(len(self._found.files), "file")
        return f"{n_files}; left out: {left_out}" if left_out else n_files


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
        raise unreadable(error.filename, error) from None
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
