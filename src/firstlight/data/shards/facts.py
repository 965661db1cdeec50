"""What only reading all of a shard tells: its hash, and its largest id."""

import hashlib
from dataclasses import asdict, dataclass

from firstlight.data.remembered import remember, remembered
from firstlight.data.shards.shard import Shard

KIND = "shards"
"""The folder of the cache in which the facts of shards are remembered."""


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
    keys = set(Facts.__dataclass_fields__)
    return Facts(**remembered(shard.file, KIND, lambda: asdict(_read(shard)), keys))


def remember_facts(shard: Shard, facts: Facts) -> None:
    """Remember the facts of a shard that this process has just written.

    Raises:
        ValueError: its file cannot be looked at.
    """
    remember(shard.file, KIND, asdict(facts))


def _read(shard: Shard) -> Facts:
    digest, largest = hashlib.sha256(), 0
    digest.update(shard.head())
    for tokens in shard.blocks():
        digest.update(tokens.data)
        largest = max(largest, int(tokens.max()))
    return Facts(digest.hexdigest(), largest)
