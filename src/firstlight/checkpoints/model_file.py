"""model.safetensors: weights with their config and tokenizer, and a checksum of all."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from firstlight.checkpoints.limits import open_safetensors
from firstlight.data.tokenizers.state import TokenizerState
from firstlight.errors import ConfigError, DamagedError, shorten
from firstlight.files import give_usual_mode

FORMAT = 2
"""Version of the record in the metadata, and of a checkpoint folder."""
RECORD, DIGEST = "firstlight", "sha256"
"""Keys of the metadata: the config and the tokenizer as JSON; SHA-256 of that text and of all
tensors."""


@dataclass(frozen=True)
class ModelFile:
    """What a file holds."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    tokenizer: dict[str, Any] | None
    sha256: str


def save_model_file(
    weights: dict[str, Tensor], path: Path, *, config: dict[str, Any], tokenizer: Any
) -> str:
    """Write `weights` to `path`, safely on disk; return their digest.

    A tensor with several names is written once.

    Raises:
        OSError: it cannot be written.
    """
    # Tied weights are one tensor with two names, which safetensors refuses to write.
    once, written = {}, set()
    for name, weight in weights.items():
        place = weight.data_ptr(), weight.shape
        if place not in written or weight.numel() == 0:
            once[name] = weight.detach().contiguous().cpu()
            written.add(place)
    # As text: safetensors' metadata holds only strings.
    record = json.dumps({"format": FORMAT, "config": config, "tokenizer": tokenizer})
    sha256 = _digest(record, once)
    try:
        safetensors.torch.save_file(
            once, path, metadata={"format": "pt", RECORD: record, DIGEST: sha256}
        )
    except SafetensorError as error:  # raised for a full disk, too
        raise OSError(str(error).removeprefix("Error while serializing: I/O error: ")) from error
    give_usual_mode(path)  # safetensors lets only the user read it
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return sha256


def read_model_file(path: Path) -> ModelFile:
    """Read what `save_model_file` wrote; every bit of it is checked.

    Raises:
        DamagedError: it is not whole.
        ConfigError: firstlight did not write it, or another version did.
    """
    with open_safetensors(path) as file:
        metadata = file.metadata() or {}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if RECORD not in metadata:
        raise ConfigError(f"{path}: not weights that firstlight saved (its metadata has no config)")
    text = metadata[RECORD]
    sha256 = _digest(text, weights)
    if metadata.get(DIGEST, sha256) != sha256:
        raise DamagedError(
            f"{path}: damaged: its content does not have the checksum it was saved with"
        )
    record = read_record(path, text)
    if DIGEST not in metadata:
        raise DamagedError(f"{path}: damaged: it has no checksum")
    # The checksum does not cover the other keys, so none may be there.
    if metadata != {
        "format": "pt",
        RECORD: text,
        DIGEST: sha256,
    }:
        raise DamagedError(f"{path}: damaged: its metadata is not what firstlight writes")
    tokenizer = None if record.tokenizer is None else record.tokenizer.model_dump()
    return ModelFile(weights, record.config, tokenizer, sha256)


def read_model_config(path: Path) -> dict[str, Any]:
    """The config in what `save_model_file` wrote; neither weights nor checksum are read.

    Raises:
        DamagedError: it is not whole.
        ConfigError: firstlight did not write it, or another version did.
    """
    with open_safetensors(path) as file:
        metadata = file.metadata() or {}
    if RECORD not in metadata:
        raise ConfigError(f"{path}: not weights that firstlight saved (its metadata has no config)")
    return read_record(path, metadata[RECORD]).config


def _digest(record: str, weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(record.encode())
    # Sorted: safetensors writes tensors in an order of its own.
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Record(BaseModel):
    """What is stored beside the weights."""

    format: int
    config: dict[str, Any]
    tokenizer: TokenizerState | None


def read_record(path: Path, text: str) -> Record:
    """The record that is `text` in the metadata of the file `path`.

    Raises:
        ConfigError: firstlight did not write it, or another version did.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise DamagedError(f"{path}: damaged: its record is not JSON") from None
    version = record.get("format") if isinstance(record, dict) else None
    if version != FORMAT:
        raise ConfigError(
            f"{path}: written in format {shorten(repr(version))}; this firstlight reads {FORMAT}"
        )
    try:
        return Record.model_validate(record, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise ConfigError(
            f"{path}: damaged: its {key} is not what firstlight writes ({problem['msg']})"
        ) from None
