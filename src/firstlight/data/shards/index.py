"""index.json: which shards there are, what made them, and a checksum of each.

It is written last: a folder that has one is complete.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from firstlight.data.sealed import read_sealed, sealed
from firstlight.data.shards.shard import SUFFIX
from firstlight.errors import shorten

FORMAT = 1
INDEX, UNFINISHED = "index.json", "unfinished.json"
"""The index, and what it is called until all shards are written."""
TOKENIZER = "tokenizer.json"
"""The state of the tokenizer, as a checkpoint has it."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ShardEntry(BaseModel):
    """A shard, and the documents that it was made from."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=rf"^[a-z]+_[0-9]{{6,}}\{SUFFIX}$")]
    tokens: NonNegativeInt
    documents: NonNegativeInt
    sha256: Digest
    starts_sha256: Digest
    """Of the file of the documents' starts."""
    text_sha256: Digest
    """Of the hashes of the documents, by which a source that has changed is noticed."""


class Vocabulary(BaseModel):
    """The tokenizer of the shards."""

    model_config = ConfigDict(extra="forbid")

    name: str
    n_ids: NonNegativeInt
    end_of_text: NonNegativeInt
    sha256: Digest
    """See `identity`."""
    file_sha256: Digest
    """Of the file with its state."""
    config: dict[str, Any]
    """The section `tokenizer` of the config that it was made with."""


class Index(BaseModel):
    """All of index.json, or of unfinished.json."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    dtype: Annotated[str, Field(pattern="^<u[24]$")]
    vocabulary: Vocabulary
    settings: dict[str, Any]
    """What decides the shards: the sections `data` and `tokenizer`, and how documents are cut."""
    versions: dict[str, str]
    """Of the software that made them."""
    documents: NonNegativeInt = 0
    """In the source, once it has been read to its end."""
    text_bytes: NonNegativeInt = 0
    """Of the documents, in UTF-8."""
    splits: dict[str, list[ShardEntry]]

    def to_json(self) -> str:
        """The content of the file; its last key is the checksum of the others."""
        return sealed(self.model_dump())


def read_index(file: Path) -> Index:
    """Read an index.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another version.
    """
    document = read_sealed(file)
    if document.get("format") != FORMAT:
        version = shorten(repr(document.get("format")))
        raise ValueError(f"path ({file}) has format {version}; this firstlight reads {FORMAT}")
    try:
        return Index.model_validate(document)
    except ValueError:
        raise ValueError(f"path ({file}) is damaged: not what firstlight writes") from None


def state_text(state: dict[str, Any]) -> str:
    """Return the content of the file that holds a tokenizer's `state_dict`."""
    return json.dumps(state) + "\n"


def identity(state: dict[str, Any]) -> str:
    """Hash all of a tokenizer's `state_dict` that decides the ids of a text."""
    parts = [state["pattern"], state["tokens"], state["end_of_text"]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
