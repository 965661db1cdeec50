"""A folder of shards: prepared ones, with an index, or those that another program wrote."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.conf_files import corpus_in
from firstlight.data.files import MissingFileError, leads_to, read_limited, unreadable, user_path
from firstlight.data.shards.facts import facts_of
from firstlight.data.shards.index import (
    INDEX,
    TOKENIZER,
    UNFINISHED,
    Index,
    read_index,
)
from firstlight.data.shards.shard import SUFFIX, Shard, opened
from firstlight.data.tokenizers.state import TokenizerState
from firstlight.errors import shorten
from firstlight.overrides import command, setting

SPLITS = ("train", "val", "test")
# A word of its own, beside which `_` and digits may stand: values.bin is not for validation.
_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(train|val|valid|validation|test)(?![a-z])")


@dataclass(frozen=True)
class Prepared:
    """The shards of a folder."""

    folder: Path
    splits: dict[str, list[Shard]]
    index: Index | None
    """None: another program wrote them, and nothing tells which tokenizer they are for."""

    def tokenizer_state(self) -> dict[str, Any] | None:
        """Return the state of the tokenizer, as a checkpoint has it; None if it is not known.

        Raises:
            ValueError: it is damaged, or not the one of the index.
        """
        if self.index is None:
            return None
        file = self.folder / TOKENIZER
        try:
            content = read_limited(file)
        except OSError as error:
            raise unreadable(file, error) from None
        if hashlib.sha256(content).hexdigest() != self.index.vocabulary.file_sha256:
            raise ValueError(f"path ({file}) does not have the checksum that {INDEX} has of it")
        try:
            stored = TokenizerState.model_validate_json(content, strict=True)
        except ValueError:
            raise ValueError(f"path ({file}) is damaged: not what firstlight writes") from None
        return stored.model_dump()

    def check(self) -> tuple[list[str], int]:
        """Return the hash of each shard, in order of the splits, and the largest id.

        All of a shard is read the first time.

        Raises:
            ValueError: a shard is not what the index says.
        """
        hashes: list[str] = []
        largest = 0
        for split, shards in self.splits.items():
            entries = self.index.splits[split] if self.index is not None else [None] * len(shards)
            for shard, entry in zip(shards, entries, strict=True):
                facts = facts_of(shard)
                if entry is not None and entry.sha256 != facts.sha256:
                    raise ValueError(
                        f"path ({shard.file}) does not have the checksum that {INDEX} has of it:"
                        " give the command firstlight prepare ... again, and it is made again"
                    )
                hashes.append(facts.sha256)
                largest = max(largest, facts.largest_id)
        return hashes, largest


def find_prepared(name: str) -> Prepared:
    """Find the shards in the folder `name`.

    Raises:
        MissingFileError: there is no such folder.
        ValueError: it holds no shards, not all of them, or others than its index says.
    """
    folder = user_path(name)
    if not leads_to(folder):
        corpus = corpus_in(name)
        if corpus is None:
            raise MissingFileError(name, what="folder")
        raise ValueError(
            f"path ({shorten(name)}): no such folder; make it first, once:"
            f" {command('prepare', setting('corpus', corpus))}"
        )
    if not folder.is_dir():
        raise ValueError(f"path ({shorten(name)}) is a file; give the folder of the shards")
    try:
        index = read_index(folder / INDEX)
    except FileNotFoundError:
        if (folder / UNFINISHED).exists():
            raise ValueError(
                f"path ({folder}) is not complete: firstlight prepare was interrupted; give its"
                " command again"
            ) from None
        return _foreign(folder)
    splits = {split: [] for split in SPLITS if split in index.splits}
    for split, shards in splits.items():
        for entry in index.splits[split]:
            shard = opened(folder / entry.name)
            if (shard.dtype, shard.n_tokens) != (index.dtype, entry.tokens):
                raise ValueError(
                    f"path ({shard.file}) has {shard.n_tokens:,} tokens of type {shard.dtype}, and"
                    f" {INDEX} says {entry.tokens:,} of type {index.dtype}: give the command"
                    " firstlight prepare ... again"
                )
            shards.append(shard)
    return Prepared(folder, splits, index)


def _foreign(folder: Path) -> Prepared:
    """Sort the shards of another program into splits, by their names."""
    splits: dict[str, list[Shard]] = {}
    # Sorted: their order decides the windows, and that of glob is the file system's.
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise ValueError(
            f"path ({folder}) has no {INDEX} and no {SUFFIX} files: firstlight prepare makes them"
        )
    for file in files:
        found = _SPLIT_IN_NAME.search(file.name.lower())
        if found is None:
            raise ValueError(
                f"path ({file}): its name does not say whether it is for training or validation"
                " (train or val in it)"
            )
        split = "val" if found[1].startswith("val") else found[1]
        splits.setdefault(split, []).append(opened(file))
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    kinds = {shard.dtype for shards in splits.values() for shard in shards}
    if len(kinds) > 1:
        raise ValueError(f"path ({folder}) has shards of 16 and of 32 bits; take one kind out")
    return Prepared(folder, ordered, None)
