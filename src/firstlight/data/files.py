"""Text files as Python strings."""

from pathlib import Path


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
