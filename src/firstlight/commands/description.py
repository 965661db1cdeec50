"""What a checkpoint holds, from its headers: no tensor is read."""

import math
from pathlib import Path
from typing import Any

from firstlight.checkpoints.checkpoint import load_plain, read_tensors
from firstlight.checkpoints.find import best_of, checkpoints_of
from firstlight.checkpoints.limits import open_safetensors
from firstlight.checkpoints.manifest import (
    TRAINING_STATE,
    WEIGHTS,
    check_training_state,
    is_checkpoint_folder,
    read_manifest,
)
from firstlight.checkpoints.model_file import RECORD, read_record
from firstlight.errors import ConfigError
from firstlight.sources import load_checkpoint


def describe_run(run: Path) -> list[dict[str, Any]]:
    """The checkpoints of a run folder, the newest last: step, tokens, metrics, bytes, what they are good for."""
    saved = checkpoints_of(run)
    best = best_of(saved) if saved else None
    rows: list[dict[str, Any]] = []
    for folder in saved:
        try:
            manifest = read_manifest(folder)
        except ConfigError as error:
            rows.append({"checkpoint": str(folder), "problem": str(error)})
            continue
        rows.append(
            {
                "checkpoint": str(folder),
                "step": manifest.step,
                "tokens": manifest.tokens,
                "metrics": manifest.metrics,
                "bytes": sum(file.stat().st_size for file in folder.iterdir()),
                "resumable": _size(folder / TRAINING_STATE) == manifest.files[TRAINING_STATE].bytes,
                "best": folder == best and bool(manifest.metrics),
            }
        )
    return rows


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint, a `.safetensors` of ours or a file of the book holds.

    `tensors` are dtype and shape by name; `parameters` counts each once.

    Raises:
        ConfigError: it is damaged, no checkpoint, or holds code (which is not run).
    """
    if is_checkpoint_folder(path):
        manifest = read_manifest(path)
        told = manifest.model_dump(include={"format", "step", "tokens", "metrics", "fingerprint"})
        resumable = _size(path / TRAINING_STATE) == manifest.files[TRAINING_STATE].bytes
        return {"checkpoint": str(path), **told, "resumable": resumable, **_header(path / WEIGHTS)}
    if path.is_dir():
        raise ConfigError(f"{path}: no checkpoint of firstlight; its files are another program's")
    if path.suffix == ".safetensors":
        return {"checkpoint": str(path), **_header(path)}
    state = load_plain(path)
    weights = read_tensors(path, state.get("model_state_dict", state))
    tensors = {name: [str(w.dtype).removeprefix("torch."), list(w.shape)] for name, w in weights.items()}
    return {"checkpoint": str(path), **_counted(tensors)}


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def check(path: Path) -> None:
    """Read every byte of a checkpoint, and compare it with its checksums.

    Raises:
        ConfigError: something is not what was written.
    """
    load_checkpoint(path)
    if (path / TRAINING_STATE).is_file():
        check_training_state(path, read_manifest(path))


def _header(path: Path) -> dict[str, Any]:
    with open_safetensors(path) as file:
        metadata = file.metadata() or {}
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        tensors = {name: [s.get_dtype(), s.get_shape()] for name, s in slices.items()}
    if RECORD not in metadata:
        return _counted(tensors)
    record = read_record(path, metadata[RECORD])
    vocabulary = None if record.tokenizer is None else {"name": record.tokenizer.name, "ids": record.tokenizer.ids}
    return {"config": record.config, "vocabulary": vocabulary, **_counted(tensors)}


def _counted(tensors: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": sum(math.prod(shape) for _, shape in tensors.values()), "tensors": tensors}
