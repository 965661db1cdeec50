"""The shards of one split, written one after another; a shard appears when it is whole."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from firstlight.data.shards.index import ShardEntry
from firstlight.data.shards.shard import HEADER_BYTES, STARTS_SUFFIX, SUFFIX, header
from firstlight.files import open_new, replacing, sync, sync_folder, temporary_of


class ShardWriter:
    """One shard: documents are added, then it is closed; until then its file has another name."""

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        self.folder, self.name, self.dtype = folder, name, dtype
        self.n_tokens = 0
        self.starts: list[int] = []
        self.text_hash = hashlib.sha256()
        self.temporary = temporary_of(folder / f"{name}{SUFFIX}")
        self.stream: IO[Any] = open_new(self.temporary, "wb")
        self.stream.write(bytes(HEADER_BYTES))

    def add(self, ids: np.ndarray, digest: bytes) -> None:
        """Add the tokens of a document, which its `end_of_text` begins."""
        self.starts.append(self.n_tokens)
        self.stream.write(ids.data)
        self.text_hash.update(digest)
        self.n_tokens += len(ids)

    def close(self) -> ShardEntry:
        """Put the shard in its place, with the starts of its documents before it.

        Raises:
            OSError: the disk is full, or fails.
        """
        self.stream.seek(0)
        self.stream.write(header(self.dtype, self.n_tokens))
        sync(self.stream)
        self.stream.close()
        with self.temporary.open("rb") as written:
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        starts = np.array(self.starts, dtype="<i8").tobytes()
        with replacing(self.folder / f"{self.name}{STARTS_SUFFIX}", "wb") as stream:
            stream.write(starts)
        self.temporary.replace(self.folder / f"{self.name}{SUFFIX}")
        sync_folder(self.folder)
        return ShardEntry(
            name=f"{self.name}{SUFFIX}",
            tokens=self.n_tokens,
            documents=len(self.starts),
            sha256=sha256,
            starts_sha256=hashlib.sha256(starts).hexdigest(),
            text_sha256=self.text_hash.hexdigest(),
        )

    def abandon(self) -> None:
        """Remove what was written."""
        with suppress(OSError):
            self.stream.close()
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)
