"""Write and read checkpoint folders, which appear whole or not at all, every bit checked."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import distributed

from firstlight.checkpoints.checkpoint import Checkpoint, load_plain
from firstlight.checkpoints.manifest import (
    MANIFEST,
    SHARDS,
    TRAINING_STATE,
    WEIGHTS,
    Manifest,
    StoredFile,
    check_training_state,
    read_manifest,
)
from firstlight.checkpoints.model_file import FORMAT, read_model_file, save_model_file
from firstlight.checkpoints.shards import (
    FLAT,
    NAMES,
    check_shards,
    whole_state,
    write_shards,
)
from firstlight.errors import ConfigError, DamagedError, reason_of
from firstlight.files import open_new, remove, sync, sync_folder, temporary_of
from firstlight.processes import is_further

RECORD = "firstlight"
"""Key, in Lightning's checkpoint, of what `PretrainingModule` adds."""
OLD = "old"
"""Tag in the name of a checkpoint while it is removed."""
MODEL_PREFIX = "model."
"""Prefix of the model's names in the state dict of its LightningModule."""


@dataclass(frozen=True)
class Stored:
    """Everything in a checkpoint folder, every bit of it checked."""

    manifest: Manifest
    model: Checkpoint
    state: dict[str, Any]
    """Lightning's checkpoint without the weights; its tensors are mapped from the file."""


class CheckpointFolderIO(TorchCheckpointIO):
    """A checkpoint is a folder: weights, the optimizer's state apart from them, and a manifest.

    It is written beside its place, flushed to disk (fsync), and renamed: a run that is killed, or
    finds the disk full, leaves the earlier checkpoints as they were. Lightning's own class writes
    to $TMPDIR, copies, and never calls fsync.
    """

    def __init__(self) -> None:
        self.handed_over: Stored | None = None

    def hand_over(self, stored: Stored) -> None:
        """Let the next `load_checkpoint` of its folder return `stored` without reading it."""
        self.handed_over = stored

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write the folder `path`.

        Raises:
            OSError: it cannot be written; then nothing of it is left.
        """
        target = Path(path)
        temporary = temporary_of(target)
        clear_unfinished(target.parent)
        try:
            temporary.mkdir()
            _finish(dict(checkpoint), target, {})
        finally:
            clear_unfinished(target.parent)

    def save_sharded(self, checkpoint: dict[str, Any], target: Path) -> None:
        """Write the folder `target`, all processes together: each its part of the optimizer.

        Raises:
            OSError: it cannot be written; then nothing of it is left.
        """
        rank, temporary = distributed.get_rank(), temporary_of(target)
        [optimizer] = checkpoint["optimizer_states"]
        flat = optimizer.pop(FLAT)
        try:
            with _together():
                if rank == 0:
                    clear_unfinished(target.parent)
                    (temporary / SHARDS).mkdir(parents=True)
            written: dict[str, StoredFile] = {}
            with _together():
                written = write_shards(flat, temporary, rank)
            # Not within the block, where one that could not write would exchange its error instead.
            parts: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, written)
            with _together():
                if rank == 0:
                    shards = {name: file for part in parts for name, file in part.items()}
                    _finish(dict(checkpoint), target, shards)
        finally:
            if rank == 0:
                clear_unfinished(target.parent)

    def load_checkpoint(
        self,
        path: Any,
        map_location: Any = None,
        weights_only: bool | None = None,
        *,
        fill: bool = True,
    ) -> dict[str, Any]:
        """What `save_checkpoint` was given; unless `fill`, without tensors that are in shards.

        Raises:
            ConfigError: it is damaged, from another version, or holds code (which is not run).
        """
        folder = Path(path)
        # Kept no longer than this: weights would be in memory twice, here and in the model.
        stored, self.handed_over = self.handed_over, None
        if stored is None or stored.model.path != folder:
            stored = read_folder(folder)
        state_dict = {
            f"{MODEL_PREFIX}{name}": weight for name, weight in stored.model.state_dict.items()
        }
        [optimizer] = stored.state["optimizer_states"]
        if fill and NAMES in optimizer:
            optimizer = whole_state(optimizer, folder)
        return stored.state | {"state_dict": state_dict, "optimizer_states": [optimizer]}


def read_folder(folder: Path) -> Stored:
    """Read a checkpoint to resume from.

    Raises:
        DamagedError: it is damaged.
        ConfigError: it is from another version, or holds code (which is not run).
    """
    manifest = read_manifest(folder)
    # Before torch.load: bits are checked before anything is unpickled.
    check_training_state(folder, manifest)
    if not is_further():  # the first process has read every bit of them
        check_shards(folder, manifest)
    return Stored(manifest, read_model(folder, manifest), load_plain(folder / TRAINING_STATE))


def read_model(folder: Path, manifest: Manifest) -> Checkpoint:
    """Read the weights, the config and the tokenizer in a checkpoint folder.

    Raises:
        DamagedError: they are not what was saved.
    """
    try:
        stored = read_model_file(folder / WEIGHTS)
    except ConfigError as error:  # the manifest says that it was a model, whatever it is now
        raise DamagedError(str(error)) from None
    if stored.sha256 != manifest.files[WEIGHTS].sha256:
        raise DamagedError(f"{folder}: damaged: its {WEIGHTS} is that of another checkpoint")
    return Checkpoint(folder, stored.weights, stored.config, stored.tokenizer, manifest.step)


def clear_unfinished(folder: Path) -> None:
    """Remove from the folder of checkpoints what killed processes left of saving and removing."""
    for pattern in (".step_*.tmp", ".step_*.old"):  # earlier versions used .old
        for litter in folder.glob(pattern):
            remove(litter)


def drop_state(folder: Path) -> None:
    """Remove what only resuming needs from a checkpoint."""
    (folder / TRAINING_STATE).unlink(missing_ok=True)
    remove(folder / SHARDS)


def discard(folder: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that no rest looks like one."""
    removed = temporary_of(folder, OLD)
    remove(removed)
    folder.rename(removed)
    remove(removed)


@contextmanager
def _together() -> Iterator[None]:
    """After the block all processes know whether one of them could not write.

    Raises:
        OSError: one could not.
    """
    error: OSError | None = None
    try:
        yield
    except OSError as raised:
        error = raised
    problems: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(problems, None if error is None else reason_of(error))
    if error is not None:
        raise error
    for rank, problem in enumerate(problems):
        if problem is not None:
            raise OSError(f"rank {rank}: {problem}")


def _finish(checkpoint: dict[str, Any], target: Path, shards: dict[str, StoredFile]) -> None:
    """Write what is missing in the temporary folder of `target`, and give it its name."""
    temporary = temporary_of(target)
    _write(checkpoint, temporary, shards)
    # After a power cut a rename counts only if the files, the new folder and the folder above were
    # flushed, in this order.
    sync_folder(temporary)
    if target.exists():  # damaged: the run was resumed from an earlier one
        target.rename(temporary_of(target, OLD))
    temporary.rename(target)
    sync_folder(target.parent)


def _write(checkpoint: dict[str, Any], folder: Path, shards: dict[str, StoredFile]) -> None:
    record = dict(checkpoint[RECORD])
    config, tokenizer = record.pop("config"), record.pop("tokenizer")
    described = record.pop("manifest")
    # The weights go into a file of their own, which other programs can read; only resuming needs
    # the rest.
    weights = {
        name.removeprefix(MODEL_PREFIX): weight
        for name, weight in checkpoint.pop("state_dict").items()
    }
    sha256 = save_model_file(weights, folder / WEIGHTS, config=config, tokenizer=tokenizer)
    files = {WEIGHTS: StoredFile(bytes=(folder / WEIGHTS).stat().st_size, sha256=sha256)}
    with open_new(folder / TRAINING_STATE, "wb") as file:
        stream = _Hashing(file)
        try:
            torch.save({**checkpoint, RECORD: record}, cast(IO[bytes], stream))
        except RuntimeError as error:
            # torch raises this one in place of what ended the writing: a full disk, or Ctrl-C.
            raise stream.error or error from None
        sync(file)
        files[TRAINING_STATE] = StoredFile(bytes=file.tell(), sha256=stream.sha256.hexdigest())
    # The manifest is last, as it has the checksums of the other files.
    files |= shards
    manifest = Manifest(format=FORMAT, step=checkpoint["global_step"], files=files, **described)
    with open_new(folder / MANIFEST, "wb") as file:
        file.write(manifest.to_json())
        sync(file)


class _Hashing:
    """A file that hashes what is written to it, and keeps the error that ended the writing."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.error: BaseException | None = None

    # Hashed while it is written: reading the file again would take as long as writing it.
    def write(self, data: Any) -> int:
        try:
            written = self.file.write(data)
        except BaseException as error:
            self.error = error
            raise
        self.sha256.update(data)
        return written

    def flush(self) -> None:
        self.file.flush()
