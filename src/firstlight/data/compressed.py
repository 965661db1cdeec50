"""Files, compressed or not, as streams of bytes."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

from firstlight.data.files import unreadable
from firstlight.errors import one_line, shorten
from firstlight.packages import with_extra

Magics = tuple[bytes, ...]
CHUNK = 2**20
"""Bytes that are read at once."""
HEAD = 8
"""Bytes that show what a file is, and that a message shows."""
ZSTD_INPUT = 2**10
"""Compressed bytes that zstd is given at once: they expand to 32 MB at most."""
ZSTD_WINDOW = 2**31
"""The largest window of a frame, that of `zstd --long=31`; the decompressor itself allows 2^27."""


def compression_of(file: Path) -> str | None:
    """The suffix that says how `file` is compressed; None if it is not."""
    suffix = file.suffix.lower()
    return suffix if suffix in COMPRESSIONS else None


def without_compression(name: str) -> str:
    """A file's name without the suffix of its compression."""
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return name


@contextmanager
def open_bytes(file: Path) -> Iterator[IO[bytes]]:
    """Open `file` for reading its bytes, expanded if its suffix says that it is compressed.

    Raises:
        ValueError: it is missing, cannot be read, is not compressed as its suffix says, or is
            damaged, which may only be found while it is read; also if a package is missing.
    """
    # By its name, not its content: a text may begin with the bytes of a format.
    suffix = compression_of(file)
    try:
        with file.open("rb") as raw:
            if suffix is None:
                yield raw
                return
            _check_magic(file, raw, suffix)
            opened, _ = COMPRESSIONS[suffix]
            with opened(raw) as expanded:
                yield io.BufferedReader(_Told(file, expanded), CHUNK)
    except ImportError:
        raise ValueError(
            f"path ({file}): zstd needs the package zstandard: {with_extra('zstd')}"
        ) from None
    except OSError as error:
        raise unreadable(file, error) from None


def _check_magic(file: Path, raw: IO[bytes], suffix: str) -> None:
    _, magics = COMPRESSIONS[suffix]
    # The libraries' own errors would say only that the data is not valid.
    head = raw.read(HEAD)
    raw.seek(0)
    if not head:
        raise ValueError(f"path ({file}) is empty: a {suffix} file of nothing has some bytes")
    if not head.startswith(magics):
        raise ValueError(
            f"path ({file}) is not compressed as {suffix} says: it begins with"
            f" {shorten(repr(head))}; rename it to what it is"
        )


class _Told(io.RawIOBase):
    """What a decompressor reads, with its errors as ValueErrors that name the file."""

    def __init__(self, file: Path, expanded: IO[bytes]) -> None:
        self.file, self.expanded = file, expanded

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self.expanded.read(len(buffer))
        except EOFError:
            raise ValueError(
                f"path ({self.file}) is cut short: its compressed data has no end; copy it again"
            ) from None
        except (zlib.error, lzma.LZMAError, MemoryError, OSError) as error:
            if getattr(error, "errno", None):  # the disk, not the data
                raise
            raise ValueError(f"path ({self.file}) is damaged: {one_line(error)}") from None
        buffer[: len(data)] = data
        return len(data)


class _Zstd(io.RawIOBase):
    """The frames of a zstd file. zstandard's own readers take a file that is cut short for whole.

    Raises:
        EOFError: the last frame has no end.
        OSError: it is damaged.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard  # pyright: ignore[reportMissingImports]

        self.raw = raw
        self.error = zstandard.ZstdError
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self.new_frame = decompressor.decompressobj
        self.frame = self.new_frame()
        self.is_begun = False
        self.given = b""
        self.expanded = memoryview(b"")

    # The one method that `_Told` needs.
    def read(self, size: int = -1) -> bytes:
        while not self.expanded and self._expand_more():
            pass
        part = bytes(self.expanded[:size])
        self.expanded = self.expanded[size:]
        return part

    def _expand_more(self) -> bool:
        """Expand a little more; False at the end of the file."""
        # Parallel compressors write many frames, and files may be joined with cat.
        if self.frame.eof:
            self.given, self.frame, self.is_begun = self.frame.unused_data, self.new_frame(), False
        data = self.given or self.raw.read(ZSTD_INPUT)
        self.given = b""
        if not data:
            if self.is_begun:
                raise EOFError
            return False
        self.is_begun = True
        try:
            self.expanded = memoryview(self.frame.decompress(data))
        except self.error as error:
            raise OSError(str(error)) from None
        return True


ZSTD_MAGIC = (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16)))
"""A frame, or one that holds no text, as parallel compressors write first."""
COMPRESSIONS: dict[str, tuple[Callable[[IO[bytes]], AbstractContextManager[Any]], Magics]] = {
    ".gz": (lambda raw: gzip.GzipFile(fileobj=raw), (b"\x1f\x8b",)),
    ".bz2": (bz2.BZ2File, (b"BZh",)),
    ".xz": (lzma.LZMAFile, (b"\xfd7zXZ\0",)),
    ".zst": (_Zstd, ZSTD_MAGIC),
}
"""By suffix: how a file is expanded, and how it begins."""
