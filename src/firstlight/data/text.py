"""Text files of the user's: one, several, or a folder of them."""

from pathlib import Path
from typing import Any

from firstlight.config import NonEmpty
from firstlight.data.datamodule import TextDataModule


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
        documents = [read_text(file) for path in paths for file in _files(Path(path).expanduser())]
        if not any(document.strip() for document in documents):
            raise ValueError(f"path ({self.path}) has no text in it")
        return documents


SUFFIXES = (".txt", ".md")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise ValueError(f"path ({path}) is a folder without {' or '.join(SUFFIXES)} files")
    return files


def read_text(file: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        ValueError: it is missing, unreadable, or not UTF-8 (with the offset of the first wrong byte).
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"path ({file}): there is no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"path ({file}) is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}; "
            f"convert it, e.g. iconv -f latin1 -t utf-8"
        ) from None
    except OSError as error:
        raise ValueError(f"path ({file}) cannot be read: {error.strerror}") from None
