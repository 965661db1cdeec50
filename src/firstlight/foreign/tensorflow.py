"""TensorFlow's checkpoints, read without TensorFlow.

`PREFIX.index` is a table in LevelDB's format (github.com/google/leveldb, doc/table_format.md) from
the names of tensors to where they are (tensorflow/core/protobuf/tensor_bundle.proto); the tensors
lie one after the other in `PREFIX.data-00000-of-00001`. Nothing that a file says about itself is
believed before it is checked.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from firstlight.data.files import read_limited
from firstlight.errors import ConfigError

MAGIC = 0xDB4775248B80FB57
FOOTER = 48
"""Bytes at the end of the index, which say where its blocks are."""
TRAILER = 5
"""Bytes after every block: its compression, and its checksum."""
MAX_NAME_BYTES = 16
"""Bytes of names per byte of the index. A name is stored without what it shares with the one before
it, so a small file could unfold into names without end."""
MAX_INDEX = 2**24
"""Bytes of an index. A tensor takes about 60: this is enough for a hundred thousand."""
MAX_RANK = 64  # numpy's
NUMPY_DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "|u1",
    5: "<i2",
    6: "|i1",
    9: "<i8",
    10: "|b1",
    19: "<f2",
}
"""numpy's dtypes by the numbers in tensorflow/core/framework/types.proto; others are not read."""


@dataclass(frozen=True)
class Entry:
    """Where a tensor is: `size` bytes from `offset` in data file `shard`.

    `dtype` is None if it cannot be read.
    """

    dtype: str | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int


class TensorBundle:
    """The tensors of a checkpoint whose files begin with `prefix`; opening reads the index.

    Raises:
        ConfigError: the index is damaged, or of a kind that is not supported.
        OSError: it cannot be read.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.index = prefix.with_name(f"{prefix.name}.index")
        content = read_limited(self.index, MAX_INDEX)
        try:
            table = _read_table(content)
            self.n_shards = _read_header(table.pop("", b""))
            self.entries = {
                name: _read_entry(name, message, self.n_shards) for name, message in table.items()
            }
        except ValueError as error:
            raise ConfigError(
                f"{self.index}: damaged, or not an index that can be read here ({error})"
            ) from None

    def data_file(self, shard: int) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05d}-of-{self.n_shards:05d}")

    def data_size(self, shard: int) -> int:
        """Bytes of a data file up to the end of its last tensor."""
        ends = [
            entry.offset + entry.size for entry in self.entries.values() if entry.shard == shard
        ]
        return max(ends, default=0)

    def read(self, name: str) -> np.ndarray:
        """Map a tensor from its file; what is written to it does not reach the file.

        Raises:
            ConfigError: its bytes are not those that were saved, or are not numbers.
            OSError: the data file cannot be read.
        """
        entry = self.entries[name]
        if entry.dtype is None:
            raise ConfigError(f"{self.index}: {name!r} is of a dtype that cannot be read here")
        file = self.data_file(entry.shard)
        size = file.stat().st_size
        if entry.offset + entry.size > size:
            raise ConfigError(
                f"{file}: cut short ({size:,} bytes; {name!r} ends at"
                f" {entry.offset + entry.size:,})"
            )
        content = np.empty(0, np.uint8)
        if entry.size:  # an empty range cannot be mapped
            content = np.memmap(file, mode="c", offset=entry.offset, shape=(entry.size,))
        if _masked_crc32c(content) != entry.crc32c:
            raise ConfigError(f"{file}: damaged (the checksum of {name!r} differs)")
        return content.view(entry.dtype).reshape(entry.shape)


class _Cursor:
    """Reads bytes from front to back, and none beyond their end."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.content)

    def take(self, length: int) -> bytes:
        if length > len(self.content) - self.at:
            raise ValueError("cut short")
        self.at += length
        return self.content[self.at - length : self.at]

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def varint(self) -> int:
        """Seven bits a byte, the lowest first; the top bit says that there are more."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number of more than 64 bits")


def _read_table(content: bytes) -> dict[str, bytes]:
    """Messages by tensor name; the one with an empty name describes the whole checkpoint."""
    if len(content) < FOOTER or int.from_bytes(content[-8:], "little") != MAGIC:
        raise ValueError("it does not end like one")
    footer = _Cursor(content[-FOOTER:])
    _, _ = footer.varint(), footer.varint()  # a block about the table, always empty
    index_start, index_size = footer.varint(), footer.varint()
    table: dict[str, bytes] = {}
    last, end, names = b"", 0, 0
    for _, value in _read_block(content, index_start, index_size):
        handle = _Cursor(value)
        start, size = handle.varint(), handle.varint()
        if start < end:  # otherwise one block could be read again and again
            raise ValueError("its blocks are not in order")
        end = start + size + TRAILER
        for name, message in _read_block(content, start, size):
            names += len(name)
            if table and name <= last:
                raise ValueError("its names are not in order")
            if names > MAX_NAME_BYTES * len(content):
                raise ValueError("its names are longer than it can hold")
            table[name.decode()] = message
            last = name
    return table


def _read_block(content: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block."""
    end = start + size
    if end + TRAILER > len(content) - FOOTER:
        raise ValueError("a block ends outside of it")
    # The checksum covers the byte that tells the compression.
    checksum = int.from_bytes(content[end + 1 : end + TRAILER], "little")
    if _masked_crc32c(content[start : end + 1]) != checksum:
        raise ValueError("the checksum of a block differs")
    if content[end]:
        raise ValueError(
            f"compressed by method {content[end]} (snappy is 1), which cannot be read here"
        )
    # A block ends with the places of its whole keys, for binary searches, and their number.
    n_places = int.from_bytes(content[end - 4 : end], "little")
    if 4 * n_places + 4 > size:
        raise ValueError("a block is cut short")
    block, key = _Cursor(content[start : end - 4 * n_places - 4]), b""
    while block:
        # A key is stored without the bytes that it shares with the key before it.
        n_shared, n_new, n_value = block.varint(), block.varint(), block.varint()
        if n_shared > len(key):
            raise ValueError("a name continues a shorter one")
        key = key[:n_shared] + block.take(n_new)
        yield key, block.take(n_value)


def _read_header(message: bytes) -> int:
    """The number of data files."""
    # Fields of BundleHeaderProto: 1 num_shards, 2 endianness (0 is little).
    numbers, _ = _read_message(message)
    if numbers.get(2):
        raise ValueError("written on a big-endian machine")
    if not 1 <= numbers.get(1, 0) <= 99_999:
        raise ValueError(f"it has {numbers.get(1, 0)} data files")
    return numbers[1]


def _read_entry(name: str, message: bytes, n_shards: int) -> Entry:
    # Fields of BundleEntryProto: 1 dtype, 2 shape, 3 shard_id, 4 offset, 5 size, 6 crc32c, 7
    # slices.
    numbers, parts = _read_message(message)
    if 7 in parts:
        raise ValueError(f"{name!r} is saved in slices")
    _, shape_parts = _read_message(b"".join(parts.get(2, [])))
    # Field 2 of TensorShapeProto is a list of dimensions, whose field 1 is the size.
    shape = []
    for dim in shape_parts.get(2, [])[: MAX_RANK + 1]:
        dim_numbers, _ = _read_message(dim)
        shape.append(dim_numbers.get(1, 0))
    if len(shape) > MAX_RANK or math.prod(dim or 1 for dim in shape) >= 2**60:
        raise ValueError(f"{name!r} does not have the shape of a tensor")
    shard, offset, size, crc32c = (numbers.get(field, 0) for field in (3, 4, 5, 6))
    dtype = NUMPY_DTYPES.get(numbers.get(1, 0))
    if dtype and size != math.prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError(f"{name!r} does not have the size of its shape")
    if shard >= n_shards:
        raise ValueError(f"{name!r} is in data file {shard} of {n_shards}")
    return Entry(dtype, tuple(shape), shard, offset, size, crc32c)


def _read_message(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """The fields of a protocol buffer: the last number of each, and all of its byte strings."""
    numbers: dict[int, int] = {}
    parts: dict[int, list[bytes]] = {}
    cursor = _Cursor(message)
    while cursor:
        # Wire types: 0 a varint, 1 eight bytes, 2 bytes after their length, 5 four bytes.
        field, kind = divmod(cursor.varint(), 8)
        if kind == 0:
            numbers[field] = cursor.varint()
        elif kind == 2:
            parts.setdefault(field, []).append(cursor.take(cursor.varint()))
        elif kind == 1:
            numbers[field] = cursor.number(8)
        elif kind == 5:
            numbers[field] = cursor.number(4)
        else:
            raise ValueError("a field of an unknown kind")
    return numbers, parts


def _masked_crc32c(content: bytes | np.ndarray) -> int:
    """CRC-32C as LevelDB stores it: masked, as a CRC of data with its own CRC in it is weak."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
