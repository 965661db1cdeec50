"""Where the documents of a shard start, and which windows are within them."""

import hashlib
from functools import cached_property
from typing import Any

import numpy as np

from firstlight.data.files import unreadable
from firstlight.data.shards.shard import BLOCK, Shard

GROUP = 64
"""Documents of a group: how many windows come before it is kept in memory, an eighth of a byte for
each document."""


class DocumentStarts:
    """The documents of one shard: they are read from its file of starts, or from its tokens.

    `end_of_text` begins each document. A shard of another program may begin inside one.
    """

    def __init__(self, shard: Shard, end_of_text: int) -> None:
        self.shard, self.end_of_text = shard, end_of_text
        self.n_windows = 0

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each document starts (n,), in tokens of the shard.

        Raises:
            ValueError: the file of starts cannot be read, or does not fit the shard.
        """
        if self.shard.starts_file.is_file():
            return _stored(self.shard)
        return _found(self.shard, self.end_of_text)

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the file itself.
        return {key: value for key, value in vars(self).items() if key != "starts"}

    def again(self) -> "DocumentStarts":
        """Return the same documents, to be counted in other windows."""
        again = DocumentStarts(self.shard, self.end_of_text)
        again.starts = self.starts  # so that no shard is looked through twice
        return again

    def count(self, context_length: int, stride: int) -> None:
        """Count the windows of `context_length` tokens and a target, one every `stride` tokens."""
        self.context_length, self.stride = context_length, stride
        totals = [np.zeros(1, dtype=np.int64)]
        for first in range(0, len(self.starts), BLOCK):  # whole groups
            numbers = np.arange(first, min(first + BLOCK, len(self.starts)))
            counts = self._windows_in(self._lengths(numbers))
            totals.append(np.add.reduceat(counts, np.arange(0, len(counts), GROUP)))
        self.before = np.cumsum(np.concatenate(totals))
        """Windows before each group of documents, and in all of them."""
        self.n_windows = int(self.before[-1])

    def starts_of(self, numbers: np.ndarray) -> np.ndarray:
        """Return the places in the shard where windows (B,) start: (B,)."""
        groups = np.searchsorted(self.before, numbers, side="right") - 1
        documents = groups[:, None] * GROUP + np.arange(GROUP)  # (B, GROUP)
        known = np.minimum(documents, len(self.starts) - 1)
        counts = self._windows_in(self._lengths(known)) * (documents < len(self.starts))
        ends = np.cumsum(counts, axis=1)
        left = (numbers - self.before[groups])[:, None]  # (B, 1)
        place = (ends <= left).sum(axis=1)[:, None]  # (B, 1), the document of each window
        first = np.take_along_axis(ends - counts, place, axis=1)
        document = np.take_along_axis(known, place, axis=1)
        return (self.starts[document] + (left - first) * self.stride)[:, 0]

    def _lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Return the tokens of documents, and the one after it, if there is one."""
        following = np.minimum(numbers + 1, len(self.starts) - 1)
        ends = np.where(
            numbers + 1 < len(self.starts), self.starts[following] + 1, self.shard.n_tokens
        )
        return ends - self.starts[numbers]

    def _windows_in(self, lengths: np.ndarray) -> np.ndarray:
        return np.maximum((lengths - 1 - self.context_length) // self.stride + 1, 0)


def _stored(shard: Shard) -> np.ndarray:
    """Map the file of starts.

    Raises:
        ValueError: it cannot be read, or does not fit the shard.
    """
    file = shard.starts_file
    try:
        size = file.stat().st_size
        starts = np.asarray(np.memmap(file, "<i8", "r")) if size else np.empty(0, "<i8")
    except (OSError, ValueError) as error:
        raise ValueError(f"path ({file}) cannot be read: {error}") from None
    if len(starts) == 0 or starts[0] != 0 or starts[-1] >= shard.n_tokens:
        raise ValueError(
            f"path ({file}) does not fit {shard.file.name}: give the command firstlight prepare ..."
            " again"
        )
    return starts


def _found(shard: Shard, end_of_text: int) -> np.ndarray:
    """Look through a shard for the token that begins a document."""
    parts, first = [np.zeros(1, dtype=np.int64)], 0
    for tokens in shard.blocks():
        parts.append(np.flatnonzero(tokens == end_of_text) + first)
        first += len(tokens)
    starts = np.concatenate(parts)
    return starts[1:] if len(starts) > 1 and starts[1] == 0 else starts


def check_starts(shard: Shard, sha256: str) -> None:
    """Check the file of starts.

    Raises:
        ValueError: it is not the one of the index.
    """
    try:
        found = hashlib.sha256(shard.starts_file.read_bytes()).hexdigest()
    except OSError as error:
        raise unreadable(shard.starts_file, error) from None
    if found != sha256:
        raise ValueError(
            f"path ({shard.starts_file}) does not have the checksum of the index: give the command"
            " firstlight prepare ... again"
        )
