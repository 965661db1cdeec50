"""Text files as Python strings."""

import errno
import os
from pathlib import Path

MAX_BYTES = 2**26
"""Of a vocabulary or a config from elsewhere: it is read whole, and Python's objects take many times that."""


def user_path(name: str) -> Path:
    """The path `name`, with ~ for the home folder; ~somebody stays as it is if there is nobody of that name."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 (pathlib raises a RuntimeError)


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


def read_limited(file: Path, most: int = MAX_BYTES) -> bytes:
    """The content of a regular file of `most` bytes at most.

    Raises:
        OSError: it cannot be read, is larger, or is a device or a pipe, which might have no end.
    """
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    if file.stat().st_size > most:
        raise OSError(errno.EFBIG, f"{os.strerror(errno.EFBIG)}: over {most:,} bytes", str(file))
    return file.read_bytes()
