"""What only reading all of a file tells: its hash, and its largest id; remembered for each file.

A file that has kept its size, time of change and number on the disk is taken to be as it was.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from firstlight.data.cache import cache_dir
from firstlight.data.files import read_limited
from firstlight.data.shards.shard import BLOCK, Shard
from firstlight.files import replacing, temporary_of

SETTLED = 2.0
"""Seconds. A file that changed later than this before it was read may change again unnoticed: the
clock of a file system is coarse."""


@dataclass(frozen=True)
class Facts:
    """What a file of tokens holds."""

    sha256: str
    """Of all its bytes."""
    largest_id: int


def facts_of(shard: Shard) -> Facts:
    """Read all of a shard, or remember what was found when it was last read.

    Raises:
        ValueError: it cannot be read.
    """
    state = _state(shard.file)
    name = hashlib.sha256(str(shard.file.absolute()).encode()).hexdigest()
    memory = cache_dir() / "shards" / f"{name}.json"
    # Whatever is wrong with what was remembered, the file itself can be read again.
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(read_limited(memory, 2**12))
        if known["state"] == state:
            return Facts(**known["facts"])
    facts = _read(shard)
    if _state(shard.file) == state and time.time() - state[1] / 1e9 > SETTLED:
        with suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            with replacing(memory, through=temporary_of(memory, str(os.getpid()))) as stream:
                json.dump({"state": state, "facts": asdict(facts)}, stream)
    return facts


def _state(file: Path) -> list[int]:
    """Size, time of the last change in nanoseconds, and number of a file."""
    try:
        found = file.stat()
    except OSError as error:
        raise ValueError(f"path ({file}) cannot be read: {error.strerror}") from None
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _read(shard: Shard) -> Facts:
    digest, largest = hashlib.sha256(), 0
    width = np.dtype(shard.dtype).itemsize
    try:
        with shard.file.open("rb") as stream:
            digest.update(stream.read(shard.offset))
            while block := stream.read(BLOCK * width):
                digest.update(block)
                largest = max(largest, int(np.frombuffer(block, shard.dtype).max()))
    except OSError as error:
        raise ValueError(f"path ({shard.file}) cannot be read: {error.strerror}") from None
    return Facts(digest.hexdigest(), largest)
