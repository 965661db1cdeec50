"""model.safetensors: a model's weights with its config and tokenizer beside them, and how to tell that it is whole."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from firstlight.checkpoints.limits import open_safetensors
from firstlight.errors import ConfigError, DamagedError, one_line, shorten
from firstlight.files import can_be_mapped, give_usual_mode

FORMAT = 2
"""Of the record in the metadata, and of a checkpoint folder."""
RECORD, DIGEST = "firstlight", "sha256"
"""Keys of the metadata: the config and the tokenizer as JSON; SHA-256 of that text and of all tensors."""


@dataclass(frozen=True)
class ModelFile:
    """What a file holds."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    tokenizer: dict[str, Any] | None
    sha256: str


def save_model_file(weights: dict[str, Tensor], path: Path, *, config: dict[str, Any], tokenizer: Any) -> str:
    """Write `weights`, each tensor once however many names it has; return their digest. `path` is on disk then.

    Raises:
        OSError: it cannot be written.
    """
    named = {(w.data_ptr(), w.shape): name for name, w in reversed(weights.items())}
    once = {name: weights[name].detach().contiguous().cpu() for name in weights if name in named.values()}
    record = json.dumps({"format": FORMAT, "config": config, "tokenizer": tokenizer})
    sha256 = _digest(record, once)
    try:
        safetensors.torch.save_file(once, path, metadata={"format": "pt", RECORD: record, DIGEST: sha256})
    except SafetensorError as error:  # its only word for a full disk
        raise OSError(str(error).removeprefix("Error while serializing: I/O error: ")) from error
    give_usual_mode(path)  # safetensors lets nobody else read it
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return sha256


def read_model_file(path: Path) -> ModelFile:
    """Read what `save_model_file` wrote; every bit of it is checked.

    Raises:
        DamagedError: it is not whole.
        ConfigError: it is no file of ours, or of another version.
    """
    try:
        with open_safetensors(path) as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        if not can_be_mapped(path):
            raise ConfigError(f"{path}: its file system cannot map it into memory; copy it to another one") from None
        raise DamagedError(f"{path}: damaged, or not a safetensors file ({one_line(error)})") from None
    if RECORD not in metadata:
        raise ConfigError(f"{path}: no weights that firstlight saved (its metadata has no config)")
    sha256 = _digest(metadata[RECORD], weights)
    if metadata.get(DIGEST, sha256) != sha256:
        raise DamagedError(f"{path}: damaged: its content does not have the checksum it was saved with")
    record = read_record(path, metadata[RECORD])
    if DIGEST not in metadata:
        raise DamagedError(f"{path}: damaged: it has no checksum")
    if metadata != {"format": "pt", RECORD: metadata[RECORD], DIGEST: sha256}:  # what the checksum does not cover
        raise DamagedError(f"{path}: damaged: its metadata is not what firstlight writes")
    tokenizer = None if record.tokenizer is None else record.tokenizer.model_dump()
    return ModelFile(weights, record.config, tokenizer, sha256)


def _digest(record: str, weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _TokenizerState(BaseModel):
    """See `Tokenizer.state_dict`."""

    name: str
    pattern: str
    tokens: list[Annotated[str, Field(pattern="^([0-9a-f]{2})+$")]]
    end_of_text: NonNegativeInt
    vocab_size: PositiveInt

    @property
    def ids(self) -> int:
        """How many ids it uses, the special one included."""
        return len(self.tokens) + 1


class Record(BaseModel):
    """What is kept beside the weights."""

    format: int
    config: dict[str, Any]
    tokenizer: _TokenizerState | None


def read_record(path: Path, text: str) -> Record:
    """The record that the metadata of the file `path` holds as `text`.

    Raises:
        ConfigError: it is not what firstlight writes, or of another version.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise DamagedError(f"{path}: damaged: its record is no JSON") from None
    version = record.get("format") if isinstance(record, dict) else None
    if version != FORMAT:
        raise ConfigError(f"{path}: written in format {shorten(repr(version))}; this firstlight reads {FORMAT}")
    try:
        return Record.model_validate(record, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{path}: damaged: its {key} is not what firstlight writes ({problem['msg']})") from None
