"""Checkpoints of our own format with whatever content, and checksums that are right: what a forger
would send.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from firstlight.checkpoints.find import checkpoints_of
from firstlight.checkpoints.manifest import MANIFEST, TRAINING_STATE, WEIGHTS, read_manifest
from firstlight.checkpoints.model_file import DIGEST, FORMAT, RECORD, _digest


def hostile_run(trained: Path, folder: Path, content: bytes, name: str = TRAINING_STATE) -> Path:
    """A copy of the run `trained`, good but for a file of each of its checkpoints."""
    shutil.copytree(trained, folder)
    for checkpoint in checkpoints_of(folder):
        (checkpoint / name).write_bytes(content)
        reseal(checkpoint, name, hashlib.sha256(content).hexdigest())
    return folder


def forged_record(weights: dict[str, torch.Tensor], text: str) -> bytes:
    """A file of weights with `text` as the record beside them."""
    return safetensors.torch.save(
        weights, {"format": "pt", RECORD: text, DIGEST: _digest(text, weights)}
    )


def forged_config(config: dict[str, Any], weights: dict[str, torch.Tensor] | None = None) -> bytes:
    """A file of weights that come with `config`, without a tokenizer."""
    text = json.dumps({"format": FORMAT, "config": config, "tokenizer": None})
    return forged_record(weights or {"tok_emb.weight": torch.ones(3, 2)}, text)


def hostile_weights(trained: Path, folder: Path, text: str) -> Path:
    """A copy of the run `trained`, good but for the record beside its weights."""
    weights = safetensors.torch.load_file(checkpoints_of(trained)[-1] / WEIGHTS)
    run = hostile_run(trained, folder, forged_record(weights, text), name=WEIGHTS)
    for checkpoint in checkpoints_of(run):
        reseal(checkpoint, WEIGHTS, _digest(text, weights))
    return run


def reseal(checkpoint: Path, name: str, digest: str) -> None:
    """Write into the manifest what the file `name` is now."""
    manifest = read_manifest(checkpoint)
    stored = manifest.files[name].model_copy(
        update={"bytes": (checkpoint / name).stat().st_size, "sha256": digest}
    )
    changed = manifest.model_copy(update={"files": manifest.files | {name: stored}})
    (checkpoint / MANIFEST).write_bytes(changed.to_json())


def resealed_manifest(document: dict[str, Any]) -> bytes:
    """A manifest with these values, and their checksum."""
    content = {key: value for key, value in document.items() if key != "sha256"}
    sha256 = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": sha256}, indent=2).encode() + b"\n"
