"""One split while it is prepared: what an earlier command has finished stays, the rest is made."""

import hashlib
from pathlib import Path

import numpy as np

from firstlight.data.shards.index import ShardEntry
from firstlight.errors import ConfigError
from firstlight.prepare.documents import Document
from firstlight.prepare.writer import ShardWriter


class ChangedError(ConfigError):
    """The source, or what makes tokens of it, is not what it was when the work began."""


class SplitInProgress:
    """The shards of a split, of which an earlier command may have made some.

    A shard ends with the document that fills it, so that its documents follow from the source
    alone. `known` are the shards of the index, and `damaged` the numbers of those whose files are
    not as they were written: these are made again. Of the others the documents are only compared
    with what they were. With `is_all` the source had no further documents.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        dtype: str,
        shard_tokens: int,
        known: list[ShardEntry],
        damaged: set[int],
        *,
        is_all: bool,
    ) -> None:
        self.folder, self.name, self.dtype, self.shard_tokens = folder, name, dtype, shard_tokens
        self.known, self.damaged = list(known), damaged
        # A shard that is not full is the last one: nothing followed it.
        self.is_all = is_all or (bool(known) and known[-1].tokens < shard_tokens)
        self.entries = list(known)
        self.number, self.n_read = 0, 0
        """Of the shard that is read, and of its documents those that have been read."""
        self.text_hash = hashlib.sha256()
        self.writer: ShardWriter | None = None

    def needs(self, document: Document) -> bool:
        """Read the next document; return whether its tokens are needed.

        Raises:
            ChangedError: it is not the one that was there before.
        """
        if self.number >= len(self.known):
            if self.is_all:
                raise self._changed("has more documents than before")
            return True
        entry = self.known[self.number]
        is_needed = self.number in self.damaged
        self.n_read += 1
        self.text_hash.update(document.digest)
        if self.n_read == entry.documents:
            if self.text_hash.hexdigest() != entry.text_sha256:
                raise self._changed(f"has other documents than {entry.name} was made from")
            self.number, self.n_read, self.text_hash = self.number + 1, 0, hashlib.sha256()
        return is_needed

    def write(self, ids: np.ndarray, digest: bytes) -> bool:
        """Write the tokens of the next document that is needed; return whether a shard is done.

        Raises:
            OSError: the disk is full, or fails.
            ChangedError: a shard that is made again is not what it was.
        """
        if self.writer is None:
            # The source is read in order, so the first damaged shard is the one that is made now.
            number = min(self.damaged, default=len(self.entries))
            self.writer = ShardWriter(self.folder, f"{self.name}_{number:06d}", self.dtype)
        self.writer.add(ids, digest)
        if self.damaged:
            is_done = len(self.writer.starts) == self.known[min(self.damaged)].documents
        else:
            is_done = self.writer.n_tokens >= self.shard_tokens
        if is_done:
            self._close()
        return is_done

    def finish(self) -> None:
        """The source has no more documents: close the last shard.

        Raises:
            OSError: the disk is full, or fails.
            ChangedError: documents are missing that were there before.
        """
        if self.number < len(self.known):
            raise self._changed("has fewer documents than before")
        if self.writer is not None:
            self._close()

    def abandon(self) -> None:
        """Remove the shard that is not whole."""
        if self.writer is not None:
            self.writer.abandon()

    def _close(self) -> None:
        assert self.writer is not None
        entry = self.writer.finish()
        self.writer = None
        if not self.damaged:
            self.entries.append(entry)
            return
        number = min(self.damaged)
        self.damaged.remove(number)
        if entry != self.known[number]:
            raise ChangedError(
                f"out ({self.folder}): {entry.name}, made again, is not what it was: another"
                " version of the tokenizer makes other tokens; give another out=..."
            )

    def _changed(self, what: str) -> ChangedError:
        return ChangedError(
            f"out ({self.folder}): the source has changed since it was prepared: the {self.name}"
            f" split {what}; give another out=..., or remove this folder"
        )
