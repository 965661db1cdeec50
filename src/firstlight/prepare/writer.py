"""The shards of one split, written one after another; a shard appears when it is whole."""

import hashlib
from pathlib import Path

import numpy as np

from firstlight.data.shards.index import ShardEntry
from firstlight.data.shards.shard import STARTS_SUFFIX, SUFFIX
from firstlight.data.shards.writing import ShardFile
from firstlight.files import replacing


class ShardWriter(ShardFile):
    """A shard of documents, with the starts of its documents beside it."""

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        super().__init__(folder / f"{name}{SUFFIX}", dtype)
        self.starts: list[int] = []
        self.text_hash = hashlib.sha256()

    def add(self, ids: np.ndarray, digest: bytes) -> None:
        """Add the tokens of a document, which its `end_of_text` begins."""
        self.starts.append(self.n_tokens)
        self.text_hash.update(digest)
        self.write(ids)

    def finish(self) -> ShardEntry:
        """Put the shard in its place, with the starts of its documents before it.

        Raises:
            OSError: the disk is full, or fails.
        """
        sha256 = self.close()
        starts = np.array(self.starts, dtype="<i8").tobytes()
        with replacing(self.file.with_suffix(STARTS_SUFFIX), "wb") as stream:
            stream.write(starts)
        self.put_in_place()
        return ShardEntry(
            name=self.file.name,
            tokens=self.n_tokens,
            documents=len(self.starts),
            sha256=sha256,
            starts_sha256=hashlib.sha256(starts).hexdigest(),
            text_sha256=self.text_hash.hexdigest(),
        )
