"""The tokens of large texts, kept in the cache folder: a second start reads no text.

A folder belongs to a text, as the content of its files, what they are read as and how they are
split. In it is a folder for each vocabulary, with the tokens as `data=shards` has them and, written
last, `kept.json`.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import filelock
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from firstlight import __version__
from firstlight.data.files import unreadable
from firstlight.data.findings import Findings
from firstlight.data.reading import ChangedError
from firstlight.data.remembered import remembered, state_of
from firstlight.data.sealed import read_sealed, sealed
from firstlight.data.shards.facts import Facts, facts_of, remember_facts
from firstlight.data.shards.index import Digest, identity
from firstlight.data.shards.shard import SUFFIX, Shard, dtype_of, opened
from firstlight.data.shards.writing import ShardFile
from firstlight.data.tokenizers.base import StoredTokenizer, Tokenizer
from firstlight.data.tokenizers.state import TokenizerState
from firstlight.errors import shorten
from firstlight.files import can_be_mapped, locked, remove, replace_text, replacing, temporary_of
from firstlight.output import note

FORMAT = 1
KEPT = "kept.json"
LOCK = ".lock"
SHARD_TOKENS = 10**9
"""Most tokens in a file: its header counts them in 32 bits."""


class KeptShard(BaseModel):
    """A file of tokens."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=rf"^[a-z]+_[0-9]{{6}}\{SUFFIX}$")]
    tokens: NonNegativeInt
    sha256: Digest
    """Of all its bytes."""


class Kept(BaseModel):
    """All of kept.json."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    splits: dict[str, list[KeptShard]]
    sha256_of_ids: Digest
    """See `TextDataModule.sha256`."""
    findings: Findings


KeptText = tuple[Kept, dict[str, list[Shard]]]
"""What kept.json says, and the files of each split."""


@dataclass(frozen=True)
class LargeText:
    """Files whose tokens are worth keeping, and how they are read."""

    files: list[Path]
    read_as: list[Any]
    """All that decides which text the files are, besides their content."""
    folder: Path
    """Where tokens are kept."""


class KeptTokens:
    """What the cache folder has of one text, split in one way.

    Raises:
        ValueError: a file of the text cannot be read.
    """

    def __init__(self, text: LargeText, cut: list[Any]) -> None:
        self.text = text
        self.states = [state_of(file) for file in text.files]
        hashes = [_sha256(file) for file in text.files]
        # Another version may read or encode in another way.
        versions = [__version__, version("tiktoken")]
        parts = [FORMAT, versions, hashes, text.read_as, cut]
        self.folder = text.folder / _hashed(parts)

    # Looking

    def vocabulary(self, recipe: Any) -> StoredTokenizer | None:
        """Return the tokenizer that was learned from this text by `recipe`, if it is known."""
        try:
            stored = read_sealed(self._vocabulary_file(recipe))
            state = TokenizerState.model_validate(stored["state"], strict=True)
            tokenizer = StoredTokenizer(state.model_dump())
            tokenizer.note = stored["note"]
        except (OSError, ValueError, KeyError):  # it can be learned again
            return None
        return tokenizer

    def find(self, tokenizer: Tokenizer) -> KeptText | None:
        """Return the tokens of this text and their files by split; None if there are none.

        Raises:
            OSError: the file system cannot map files into memory.
        """
        folder = self._folder_of(tokenizer)
        if not (folder / KEPT).exists():
            return None
        try:
            kept = Kept.model_validate(read_sealed(folder / KEPT))
            return kept, {
                name: [_checked(folder, shard, tokenizer) for shard in shards]
                for name, shards in kept.splits.items()
            }
        except ValueError as error:
            note(f"tokens in the cache are damaged ({shorten(str(error), 120)}): made again")
            return None

    # Keeping

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process make the tokens of this text within the block.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                # Without waiting at first, so that the user is told what is waited for.
                held.enter_context(locked(self.folder / LOCK))
            except filelock.Timeout:
                note("another process is encoding this text: waiting for it")
                held.enter_context(locked(self.folder / LOCK, timeout=-1))
            yield

    def keep_vocabulary(self, recipe: Any, tokenizer: Tokenizer) -> None:
        """Keep what was learned from this text.

        Raises:
            OSError: it cannot be written.
        """
        content = {"state": tokenizer.state_dict(), "note": tokenizer.note}
        replace_text(self._vocabulary_file(recipe), sealed(content))

    @contextmanager
    def writing(self, tokenizer: Tokenizer, splits: Sequence[str]) -> Iterator["TokenWriter"]:
        """Write tokens within the block; what was written is removed if it fails.

        Raises:
            OSError: the disk is full, or fails.
        """
        folder = self._folder_of(tokenizer)
        # What is there was left by a process that was killed, or is damaged.
        remove(folder)
        folder.mkdir()
        writer = TokenWriter(folder, dtype_of(tokenizer.encoding.n_vocab), splits)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def check_unchanged(self) -> None:
        """Refuse a text that has changed since this object was made.

        Raises:
            ChangedError: it has.
        """
        for file, state in zip(self.text.files, self.states, strict=True):
            if state_of(file) != state:
                raise ChangedError(f"path ({file})")

    def _folder_of(self, tokenizer: Tokenizer) -> Path:
        return self.folder / identity(tokenizer.state_dict())

    def _vocabulary_file(self, recipe: Any) -> Path:
        return self.folder / f"vocabulary_{_hashed(recipe)}.json"


class TokenWriter:
    """Writes the tokens of each split, in their order."""

    def __init__(self, folder: Path, dtype: str, splits: Sequence[str]) -> None:
        self.folder, self.dtype = folder, dtype
        self.splits: dict[str, list[KeptShard]] = {name: [] for name in splits}
        self.name, self.largest_id = "", 0
        self.open: ShardFile | None = None

    def write(self, name: str, ids: np.ndarray) -> None:
        """Add ids (n,) of a split.

        Raises:
            OSError: the disk is full, or fails.
        """
        if name != self.name or (self.open is not None and self.open.n_tokens >= SHARD_TOKENS):
            self.close()
        if self.open is None:
            number = len(self.splits[name])
            file = self.folder / f"{name}_{number:06d}{SUFFIX}"
            self.open = ShardFile(file, self.dtype, tag=str(os.getpid()))
            self.name, self.largest_id = name, 0
        self.open.write(ids.astype(self.dtype))
        self.largest_id = max(self.largest_id, int(ids.max(initial=0)))

    def close(self) -> None:
        """Put the file that is written in its place.

        Raises:
            OSError: the disk is full, or fails.
        """
        if self.open is None:
            return
        sha256 = self.open.close()
        self.open.put_in_place()
        file, n_tokens, self.open = self.open.file, self.open.n_tokens, None
        self.splits[self.name].append(KeptShard(name=file.name, tokens=n_tokens, sha256=sha256))
        remember_facts(opened(file), Facts(sha256, self.largest_id))

    def finish(self, findings: Findings) -> None:
        """Complete the folder.

        Raises:
            OSError: the disk is full, or fails.
        """
        self.close()
        # Read back: the ids were not written in the order of the names, in which they are hashed.
        digest = hashlib.sha256()
        for name in sorted(self.splits):
            shards = [opened(self.folder / shard.name) for shard in self.splits[name]]
            update_with_ids(digest, name, (ids for shard in shards for ids in shard.blocks()))
        kept = Kept(splits=self.splits, sha256_of_ids=digest.hexdigest(), findings=findings)
        file = self.folder / KEPT
        with replacing(file, through=temporary_of(file, str(os.getpid()))) as stream:
            stream.write(sealed(kept.model_dump()))

    def abandon(self) -> None:
        """Remove the file that is not whole."""
        if self.open is not None:
            self.open.abandon()


def _checked(folder: Path, kept: KeptShard, tokenizer: Tokenizer) -> Shard:
    """Open a file of tokens; all of it is read if it is not the one that was written here.

    Raises:
        ValueError: it is not what kept.json says.
        OSError: the file system cannot map files into memory.
    """
    shard = opened(folder / kept.name)
    facts = facts_of(shard)
    if (shard.n_tokens, facts.sha256) != (kept.tokens, kept.sha256):
        raise ValueError(f"path ({shard.file}) does not have its checksum")
    if facts.largest_id >= tokenizer.encoding.n_vocab:
        raise ValueError(f"path ({shard.file}) has ids that the vocabulary does not have")
    if not can_be_mapped(shard.file):
        raise OSError(errno.ENODEV, "this file system cannot map files into memory")
    return shard


def update_with_ids(digest: Any, name: str, ids: Iterable[np.ndarray]) -> None:
    """Add the ids of a split to the hash of a text's tokens, whatever type they are stored as."""
    digest.update(name.encode())
    for part in ids:
        digest.update(part.astype("<i4", copy=False).data)


def _sha256(file: Path) -> str:
    """Hash the bytes of a file, or remember their hash.

    Raises:
        ValueError: it cannot be read.
    """

    def find() -> dict[str, Any]:
        try:
            with file.open("rb") as stream:
                return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
        except OSError as error:
            raise unreadable(file, error) from None

    return remembered(file, "files", find, {"sha256"})["sha256"]


def _hashed(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
