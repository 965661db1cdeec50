"""A file of tokens: llm.c's `.bin`, which many programs read, or nanoGPT's, which has no header.

llm.c's begins with 256 int32: a magic number, a version and the number of tokens, then zeros. The
tokens follow, as uint16 or uint32 in little-endian order. See dev/data/data_common.py in llm.c;
modded-nanogpt and NeMo Automodel read the same.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstlight.data.files import unreadable

HEADER_BYTES = 1024
KINDS = {"<u2": (20240520, 1), "<u4": (20240801, 7)}
"""By type of token: the magic number and the version of a header."""
BLOCK = 2**22
"""Tokens that are read at once when all of them are."""
SUFFIX, STARTS_SUFFIX = ".bin", ".idx"
"""Of a shard, and of the file beside it that holds where its documents start, as int64."""


@dataclass(frozen=True)
class Shard:
    """A file of tokens, which is as long as its header says."""

    file: Path
    dtype: str
    """"<u2" or "<u4", as numpy writes them."""
    offset: int
    """Bytes before the first token."""
    n_tokens: int

    def tokens(self, *, at_random: bool = False) -> np.ndarray:
        """Map the tokens (N,) into memory; nothing is read before it is used.

        With `at_random` the system does not read ahead: a window needs a page or two, and what
        stands beside it is not needed soon.

        Raises:
            ValueError: the file cannot be opened.
        """
        # mmap refuses an empty file, which a split without tokens is in nanoGPT's format.
        if self.n_tokens == 0:
            return np.empty(0, self.dtype)
        try:
            with self.file.open("rb") as stream:
                # The mapping outlives the file object: thousands of shards need no open file each.
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise unreadable(self.file, error) from None
        # Not every system has madvise.
        if at_random and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, self.dtype, self.n_tokens, self.offset)

    def head(self) -> bytes:
        """Return what is before the first token.

        Raises:
            ValueError: the file cannot be read.
        """
        try:
            with self.file.open("rb") as stream:
                return stream.read(self.offset)
        except OSError as error:
            raise unreadable(self.file, error) from None

    def blocks(self) -> Iterator[np.ndarray]:
        """Read all tokens in their order, `BLOCK` or fewer (n,) at a time.

        They are not mapped: pages that are mapped count as memory of this process.

        Raises:
            ValueError: the file cannot be read.
        """
        try:
            with self.file.open("rb") as stream:
                stream.seek(self.offset)
                while block := stream.read(BLOCK * np.dtype(self.dtype).itemsize):
                    yield np.frombuffer(block, self.dtype)
        except OSError as error:
            raise unreadable(self.file, error) from None

    @property
    def starts_file(self) -> Path:
        """Where the starts of its documents are, if they are stored."""
        return self.file.with_suffix(STARTS_SUFFIX)


def dtype_of(n_ids: int) -> str:
    """Return the type of the tokens of a vocabulary of `n_ids`."""
    return "<u2" if n_ids <= 2**16 else "<u4"


def header(dtype: str, n_tokens: int) -> bytes:
    """Return the first `HEADER_BYTES` of a shard."""
    numbers = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    numbers[:3] = *KINDS[dtype], n_tokens
    return numbers.tobytes()


def opened(file: Path) -> Shard:
    """Look at a file of tokens; without a header it is nanoGPT's.

    Raises:
        MissingFileError: there is no such file.
        ValueError: it cannot be read, or is shorter or longer than its header says.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(HEADER_BYTES)
    except OSError as error:
        raise unreadable(file, error) from None
    # Zeros are no magic number: a file too short for a header is nanoGPT's.
    numbers = np.frombuffer(head[:12], dtype="<i4") if len(head) >= 12 else np.zeros(3, "<i4")
    for dtype, (magic, version) in KINDS.items():
        if numbers[0] != magic:
            continue
        if numbers[1] != version:
            raise ValueError(
                f"path ({file}) has version {numbers[1]} of this format; {version} can be read"
            )
        n_tokens = int(numbers[2])
        wanted = HEADER_BYTES + n_tokens * np.dtype(dtype).itemsize
        # The header has signed numbers, and a damaged one may say anything.
        if size != wanted or n_tokens < 0:
            what = "is cut short" if size < wanted else "is too long"
            raise ValueError(
                f"path ({file}) {what}: it has {size:,} bytes, and {n_tokens:,} tokens take"
                f" {wanted:,}; copy it again"
            )
        return Shard(file, dtype, HEADER_BYTES, n_tokens)
    if size % 2:
        raise ValueError(
            f"path ({file}) is not a file of tokens: it has no header of llm.c's, and an odd number"
            " of bytes, where a token has two"
        )
    return Shard(file, "<u2", 0, size // 2)
