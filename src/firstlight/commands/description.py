"""Describe a checkpoint from its headers, without reading a tensor."""

import math
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from firstlight.checkpoints.checkpoint import load_plain, model_without_weights, read_tensors
from firstlight.checkpoints.find import best_of, checkpoints_of
from firstlight.checkpoints.limits import open_safetensors
from firstlight.checkpoints.manifest import (
    TRAINING_STATE,
    WEIGHTS,
    Manifest,
    check_training_state,
    is_checkpoint_folder,
    read_manifest,
)
from firstlight.checkpoints.model_file import RECORD, read_record
from firstlight.checkpoints.shards import check_shards
from firstlight.errors import ConfigError, one_line
from firstlight.optim.by_name import Patterns, frozen
from firstlight.sources import load_checkpoint


def describe_run(run: Path) -> list[dict[str, Any]]:
    """Describe the checkpoints of a run folder, the newest last.

    A row has step, tokens, metrics, bytes, and whether the checkpoint can be resumed and is the
    best. The row of a damaged one has only its path and the `problem`.
    """
    saved = checkpoints_of(run)
    best = best_of(saved) if saved else None
    rows: list[dict[str, Any]] = []
    for folder in saved:
        row: dict[str, Any] = {"checkpoint": str(folder)}
        rows.append(row)
        try:
            manifest = read_manifest(folder)
        except ConfigError as error:
            row["problem"] = str(error)
            continue
        row["step"] = manifest.step
        row["tokens"] = manifest.tokens
        row["metrics"] = manifest.metrics
        row["bytes"] = sum(file.stat().st_size for file in folder.iterdir())
        row["resumable"] = _is_resumable(folder, manifest)
        row["best"] = bool(manifest.metrics) and folder == best
    return rows


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """Describe a checkpoint, a `.safetensors` of ours or a file of the book.

    `tensors` are dtype and shape by name; `parameters` counts each tensor once.

    Raises:
        ConfigError: it is damaged, not a checkpoint, or holds code (which is not run).
    """
    told: dict[str, Any] = {"checkpoint": str(path)}
    if is_checkpoint_folder(path):
        manifest = read_manifest(path)
        told |= manifest.model_dump(include={"format", "step", "tokens", "metrics", "fingerprint"})
        told["resumable"] = _is_resumable(path, manifest)
        return told | _header(path / WEIGHTS)
    if path.is_dir():
        raise ConfigError(f"{path}: not a checkpoint of firstlight: another program wrote it")
    if path.suffix == ".safetensors":
        return told | _header(path)
    # A file of the book has no header that could be read alone.
    state = load_plain(path)
    tensors = {}
    for name, weight in read_tensors(path, state.get("model_state_dict", state)).items():
        tensors[name] = [str(weight.dtype).removeprefix("torch."), list(weight.shape)]
    return told | _counted(tensors)


def _is_resumable(folder: Path, manifest: Manifest) -> bool:
    """Whether the state of the training is complete; it may have been removed to save space."""
    file = folder / TRAINING_STATE
    return file.is_file() and file.stat().st_size == manifest.files[TRAINING_STATE].bytes


def check_checkpoint(path: Path) -> None:
    """Read every byte of a checkpoint and compare it with its checksums.

    Raises:
        ConfigError: something is not as it was written.
    """
    load_checkpoint(path)  # checks the weights and the manifest
    if (path / TRAINING_STATE).is_file():
        manifest = read_manifest(path)
        check_training_state(path, manifest)
        check_shards(path, manifest)


def _header(path: Path) -> dict[str, Any]:
    """Describe a safetensors file: its tensors and, if it is ours, its config and vocabulary."""
    tensors = {}
    with open_safetensors(path) as file:
        metadata = file.metadata() or {}
        for name in file.keys():  # noqa: SIM118 (it is not a mapping)
            part = file.get_slice(name)
            tensors[name] = [part.get_dtype(), part.get_shape()]
    if RECORD not in metadata:  # another program wrote it
        return _counted(tensors)
    record = read_record(path, metadata[RECORD])
    counted = _counted(tensors)
    # Only then: counting needs a model, whose classes may take seconds to import.
    if record.config.get("freeze") is not None:
        counted = {"trained": _n_trained(path, record.config, len(tensors)), **counted}
    vocabulary = None
    if record.tokenizer is not None:
        vocabulary = {"name": record.tokenizer.name, "ids": record.tokenizer.ids}
    return {"config": record.config, "vocabulary": vocabulary, **counted}


def _n_trained(path: Path, config: dict[str, Any], n_tensors: int) -> int:
    """How many parameters trained in a run with `freeze`, from a model without memory.

    Raises:
        ConfigError: the config is not one that firstlight writes.
    """
    try:
        patterns = TypeAdapter(Patterns).validate_python(config["freeze"], strict=True)
    except ValueError as error:
        raise ConfigError(f"{path}: freeze: {one_line(error)}") from None
    return frozen(partial(model_without_weights, path, config, n_tensors), patterns).n_trained


def _counted(tensors: dict[str, Any]) -> dict[str, Any]:
    parameters = sum(math.prod(shape) for _, shape in tensors.values())
    return {"parameters": parameters, "tensors": tensors}
