"""Writes TensorFlow's checkpoints as far as the tests need them; that they are real is what the
fixture is for.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np

DTYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "bool": 10, "float16": 19}


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def checksum(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def header(n_shards: int = 1, *, endianness: int = 0) -> bytes:
    return number(1, n_shards) + number(2, endianness) + part(3, number(1, 1))


def entry(dtype=1, shape=(2,), shard=0, offset=0, size=8, crc32c=None) -> bytes:
    """Of two zeros in float32, unless it is said otherwise."""
    dims = b"".join(part(2, number(1, dim)) for dim in shape)
    place = number(3, shard) + number(4, offset) + number(5, size)
    return (
        number(1, dtype)
        + part(2, dims)
        + place
        + varint(6 << 3 | 5)
        + (crc32c or checksum(bytes(8)))
    )


def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """Keys shortened by what they share with the one before; every third is whole."""
    content, restarts, last = b"", [], b""
    for position, (key, value) in enumerate(pairs):
        n_shared = 0
        if position % 3 == 0:
            restarts.append(len(content))
        else:
            while n_shared < min(len(key), len(last)) and key[n_shared] == last[n_shared]:
                n_shared += 1
        content += (
            varint(n_shared)
            + varint(len(key) - n_shared)
            + varint(len(value))
            + key[n_shared:]
            + value
        )
        last = key
    return content + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(
    pairs: list[tuple[bytes, bytes]],
    *,
    per_block: int = 10,
    compression: int = 0,
    damage: Callable[[bytes], bytes] = lambda content: content,
) -> bytes:
    """A LevelDB table; `damage` may change each block before its checksum is taken."""
    content = bytearray()

    def add(plain: bytes) -> bytes:
        written = damage(plain) + bytes([compression])
        handle = varint(len(content)) + varint(len(written) - 1)
        content.extend(written + checksum(written))
        return handle

    index = [
        (pairs[start : start + per_block][-1][0], add(block(pairs[start : start + per_block])))
        for start in range(0, len(pairs), per_block)
    ]
    footer = add(block([])) + add(block(index))
    return bytes(content) + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(
    prefix: Path, tensors: dict[str, np.ndarray], *, n_shards: int = 1, **settings
) -> None:
    """The two or more files of a checkpoint; tensors go to the data files in turn."""
    shards = [bytearray() for _ in range(n_shards)]
    pairs = [(b"", header(n_shards))]
    for position, (name, tensor) in enumerate(sorted(tensors.items())):
        shard, content = position % n_shards, tensor.tobytes()
        place = (shard, len(shards[shard]), len(content), checksum(content))
        pairs.append((name.encode(), entry(DTYPES[str(tensor.dtype)], tensor.shape, *place)))
        shards[shard] += content
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(pairs, **settings))
    for shard, content in enumerate(shards):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{n_shards:05d}").write_bytes(content)
