"""How a checkpoint gets to disk and back: a folder that appears whole or not at all, in which every bit is checked."""

import hashlib
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from firstlight.checkpoints.checkpoint import load_plain
from firstlight.checkpoints.manifest import (
    MANIFEST,
    TRAINING_STATE,
    WEIGHTS,
    Manifest,
    StoredFile,
    check_training_state,
    read_manifest,
)
from firstlight.checkpoints.model_file import FORMAT, read_model_file, save_model_file
from firstlight.files import open_new, remove, sync, sync_folder, temporary_of

RECORD = "firstlight"
"""Key of what `PretrainingModule` adds to Lightning's checkpoint."""
OLD = "old"
"""Tag of the name that a checkpoint has while it is removed."""
MODEL_PREFIX = "model."
"""Of the model's names in the state dict of the LightningModule around it."""


class CheckpointFolderIO(TorchCheckpointIO):
    """A checkpoint is a folder: weights, the optimizer's state apart from them, and a manifest.

    It is written beside its place, put on disk (fsync), and renamed: whoever is killed, or finds the disk full, leaves
    the earlier checkpoints as they were. Lightning's own stages in $TMPDIR, copies, and never calls fsync.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the folder `path`.

        Raises:
            OSError: it cannot be written; nothing of it is left then.
        """
        target = Path(path)
        temporary = temporary_of(target)
        clear_unfinished(target.parent)
        try:
            temporary.mkdir()
            _write(dict(checkpoint), temporary)
            sync_folder(temporary)
            if target.exists():  # damaged, and left behind when the run went on from an earlier one
                target.rename(temporary_of(target, OLD))
            temporary.rename(target)
            sync_folder(target.parent)
        finally:
            clear_unfinished(target.parent)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """What `save_checkpoint` was given.

        Raises:
            ConfigError: it is damaged, of another version, or holds code (which is not run).
        """
        folder = Path(path)
        check_training_state(folder, read_manifest(folder))
        weights = read_model_file(folder / WEIGHTS).weights
        state_dict = {f"{MODEL_PREFIX}{name}": weight for name, weight in weights.items()}
        return load_plain(folder / TRAINING_STATE) | {"state_dict": state_dict}


def clear_unfinished(folder: Path) -> None:
    """Remove what a save that was killed has left in the folder of checkpoints."""
    for litter in (*folder.glob(".step_*.tmp"), *folder.glob(".step_*.old")):  # .old is of earlier versions
        remove(litter)


def discard(folder: Path) -> None:
    """Remove a checkpoint: its name first, so that what a kill leaves of it is not taken for one."""
    removed = temporary_of(folder, OLD)
    remove(removed)
    folder.rename(removed)
    remove(removed)


def _write(checkpoint: dict[str, Any], folder: Path) -> None:
    record = dict(checkpoint[RECORD])
    config, tokenizer, described = record.pop("config"), record.pop("tokenizer"), record.pop("manifest")
    weights = {name.removeprefix(MODEL_PREFIX): weight for name, weight in checkpoint.pop("state_dict").items()}
    sha256 = save_model_file(weights, folder / WEIGHTS, config=config, tokenizer=tokenizer)
    files = {WEIGHTS: StoredFile(bytes=(folder / WEIGHTS).stat().st_size, sha256=sha256)}
    with open_new(folder / TRAINING_STATE, "wb") as file:
        stream = _Hashing(file)
        try:
            torch.save({**checkpoint, RECORD: record}, cast(IO[bytes], stream))
        except RuntimeError as error:  # what torch makes of a full disk, or of Ctrl-C
            raise stream.error or error from None
        sync(file)
        files[TRAINING_STATE] = StoredFile(bytes=file.tell(), sha256=stream.sha256.hexdigest())
    manifest = Manifest(format=FORMAT, step=checkpoint["global_step"], files=files, **described)
    with open_new(folder / MANIFEST, "wb") as file:
        file.write(manifest.to_json())
        sync(file)


class _Hashing:
    """A file that keeps the SHA-256 of what is written to it, and the error that ended the writing."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.error: BaseException | None = None

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
