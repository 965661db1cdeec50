"""The state of an optimizer, of which each process writes and reads its own part.

torch's distributed checkpoints with safetensors as their files: nothing is pickled, and any number
of processes reads what any other number has written.
"""

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from firstlight.checkpoints.manifest import SHARDS, Manifest, StoredFile, check_file, is_shard
from firstlight.errors import DamagedError, one_line, reason_of
from firstlight.files import give_usual_mode, sync_folder

NAMES, FLAT = "names", "flat"
"""Keys of an optimizer's state that is in shards: the names of its parameters, in their order; and,
until it is saved, its tensors by `NAME.KIND`."""


def write_shards(flat: dict[str, Tensor], folder: Path, rank: int) -> dict[str, StoredFile]:
    """Write the tensors of all processes below `folder`, together; return this process's files.

    Raises:
        OSError: one of them cannot be written.
    """
    place = folder / SHARDS
    writer = HuggingFaceStorageWriter(str(place), save_distributed=True)
    try:
        save(flat, storage_writer=writer)
    except CheckpointException as error:
        raise OSError(_reason(error)) from error
    written: dict[str, StoredFile] = {}
    for file in place.glob(f"shard-{rank + 1:05}-*.safetensors"):
        give_usual_mode(file)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        written[f"{SHARDS}/{file.name}"] = StoredFile(bytes=file.stat().st_size, sha256=sha256)
    sync_folder(place)
    return written


def _reason(error: CheckpointException) -> str:
    """Which process has failed first, and why; the message of torch's is the traceback of each."""
    rank = min(error.failures)
    cause, _ = error.failures[rank]
    return f"rank {rank}: {reason_of(cause) if isinstance(cause, Exception) else one_line(cause)}"


def check_shards(folder: Path, manifest: Manifest) -> None:
    """Check that all shards are bit for bit what was written, and that there are no others.

    Raises:
        DamagedError: they are not.
    """
    expected = {name: stored for name, stored in manifest.files.items() if is_shard(name)}
    found = {f"{SHARDS}/{file.name}" for file in (folder / SHARDS).glob("*")}
    if found != set(expected):
        name = min(found ^ set(expected))
        raise DamagedError(f"{folder}: damaged: {name} is missing, or is none of its files")
    for name, stored in expected.items():
        check_file(folder / name, stored)


def read_shards(flat: dict[str, Tensor], folder: Path, *, alone: bool = False) -> None:
    """Read into the tensors `flat`, in place: all processes together, or `alone` this one.

    Raises:
        DamagedError: they are those of other parameters.
    """
    reader = HuggingFaceStorageReader(str(folder / SHARDS))
    try:
        with warnings.catch_warnings(action="ignore"):  # that this is one process, if it is
            load(flat, storage_reader=reader, no_dist=alone)
    except CheckpointException as error:
        raise DamagedError(
            f"{folder}: its optimizer's state is another one's ({_reason(error)})"
        ) from error


def whole_state(stored: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state of an optimizer as torch's `state_dict` has it, from that which is in shards."""
    flat: dict[str, Tensor] = {}
    reader = HuggingFaceStorageReader(str(folder / SHARDS))
    for key, told in reader.read_metadata().state_dict_metadata.items():
        flat[key] = torch.empty(told.size, dtype=told.properties.dtype)  # type: ignore[union-attr]
    read_shards(flat, folder, alone=True)
    index_of = {name: index for index, name in enumerate(stored[NAMES])}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        name, _, kind = key.rpartition(".")
        state.setdefault(index_of[name], {})[kind] = tensor
    return {"state": state, "param_groups": stored["param_groups"]}
