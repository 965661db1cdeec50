"""Writing a file of tokens, which appears when it is whole."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from firstlight.data.shards.shard import HEADER_BYTES, header
from firstlight.files import open_new, sync, sync_folder, temporary_of


class ShardFile:
    """A shard that is written: tokens are added, then it is closed; until then it is hidden.

    Writers that may run at the same time each need a `tag`.

    Raises:
        OSError: it cannot be created.
    """

    def __init__(self, file: Path, dtype: str, *, tag: str = "") -> None:
        self.file, self.dtype = file, dtype
        self.n_tokens = 0
        self.temporary = temporary_of(file, tag)
        self.stream: IO[Any] = open_new(self.temporary, "wb")
        self.stream.write(bytes(HEADER_BYTES))

    def write(self, ids: np.ndarray) -> None:
        """Add tokens (n,) of its type.

        Raises:
            OSError: the disk is full, or fails.
        """
        self.stream.write(ids.data)
        self.n_tokens += len(ids)

    def close(self) -> str:
        """Write its header; return the SHA-256 of all its bytes.

        Raises:
            OSError: the disk is full, or fails.
        """
        self.stream.seek(0)
        self.stream.write(header(self.dtype, self.n_tokens))
        sync(self.stream)
        self.stream.close()
        with self.temporary.open("rb") as written:
            return hashlib.file_digest(written, "sha256").hexdigest()

    def put_in_place(self) -> None:
        """Give it its name.

        Raises:
            OSError: the disk fails.
        """
        self.temporary.replace(self.file)
        sync_folder(self.file.parent)

    def abandon(self) -> None:
        """Remove what was written."""
        with suppress(OSError):
            self.stream.close()
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)
