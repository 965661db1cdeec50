"""Text files of the user's: one, several, or a folder of them."""

from pathlib import Path
from typing import Any

from firstlight.config import NonEmpty
from firstlight.data.datamodule import TextDataModule
from firstlight.data.files import read_text, user_path


class TextData(TextDataModule):
    """UTF-8 text files, each a document; of a folder every `*.txt` and `*.md` below it, in the order of their names.

    Line ends are read as newlines and a byte-order mark is dropped.
    """

    def __init__(self, *, path: NonEmpty | list[NonEmpty], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def documents(self) -> list[str]:
        paths = [self.path] if isinstance(self.path, str) else self.path
        if not paths:
            raise ValueError("path is empty; give data.path=FILE, [FILE,FILE] or FOLDER")
        documents = [read_text(file) for path in paths for file in _files(user_path(path))]
        if not any(document.strip() for document in documents):
            raise ValueError(f"path ({self.path}) has no text in it")
        return documents


SUFFIXES = (".txt", ".md")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.exists() and not path.is_file():
            raise ValueError(f"path ({path}) is no file: a device or a pipe cannot be read again to continue the run")
        return [path]
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise ValueError(f"path ({path}) is a folder without {' or '.join(SUFFIXES)} files")
    return files
