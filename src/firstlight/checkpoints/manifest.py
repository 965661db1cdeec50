"""checkpoint.json: what a checkpoint folder holds, with checksums, without its tensors."""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, field_validator

from firstlight.checkpoints.model_file import FORMAT
from firstlight.data.files import read_limited
from firstlight.errors import ConfigError, DamagedError, shorten

MANIFEST, WEIGHTS, TRAINING_STATE = "checkpoint.json", "model.safetensors", "training_state.pt"

SHARDS = "optimizer"
"""Folder of a checkpoint of a sharded run: the optimizer's state, a file from each process."""
MAX_BYTES = 2**20
"""Of a manifest; it has about 1 kB."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class StoredFile(BaseModel):
    """A file of a checkpoint.

    `sha256` is that of its bytes; for the weights, the checksum in their metadata.
    """

    bytes: NonNegativeInt
    sha256: Digest


class Manifest(BaseModel):
    """`metrics` are of this step, none if the model was not evaluated then.

    The best checkpoint has the lowest `monitor`, or with the `direction` "max" the highest. A file
    without a direction, as those of earlier versions are, means "min".
    """

    model_config = ConfigDict(extra="forbid")

    format: int
    step: NonNegativeInt
    tokens: NonNegativeInt
    monitor: str
    direction: Literal["min", "max"] = "min"
    metrics: dict[str, float]
    fingerprint: dict[str, int | str]
    files: dict[str, StoredFile]

    @field_validator("files")
    @classmethod
    def _are_of_a_checkpoint(cls, files: dict[str, StoredFile]) -> dict[str, StoredFile]:
        others = [name for name in files if not is_shard(name)]
        if WEIGHTS not in others or not set(others) <= {WEIGHTS, TRAINING_STATE}:
            raise ValueError("not the files of a checkpoint")
        return files

    def to_json(self) -> bytes:
        """The content of the file; its last key is the checksum of the others."""
        # Without a direction where it is "min", so that earlier versions can read the file.
        content = self.model_dump(exclude=None if self.direction == "max" else {"direction"})
        return json.dumps({**content, "sha256": _digest(content)}, indent=2).encode() + b"\n"


def is_shard(name: str) -> bool:
    """Whether a file of a checkpoint is a part of the optimizer's state."""
    return (
        re.fullmatch(rf"{SHARDS}/shard-\d{{5}}-model-\d{{5}}-of-\d{{5}}\.safetensors", name)
        is not None
    )


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def is_checkpoint_folder(folder: Path) -> bool:
    """Is it a checkpoint of firstlight, whole or not?"""
    return (folder / MANIFEST).is_file() or re.fullmatch(r"step_\d{8,}", folder.name) is not None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder.

    Raises:
        DamagedError: it is missing or not whole.
        ConfigError: another version wrote it.
    """
    not_ours = DamagedError(f"{folder}: damaged ({MANIFEST} is not what firstlight writes)")
    try:
        content = read_limited(folder / MANIFEST, MAX_BYTES)
        document: Any = json.loads(content)
        # The checksum first: of a file whose bits have changed, no other message would be true.
        if not isinstance(document, dict) or document.pop("sha256", None) != _digest(document):
            raise DamagedError(f"{folder}: damaged ({MANIFEST} does not have its checksum)")
        if document.get("format") != FORMAT:
            version = shorten(repr(document.get("format")))
            raise ConfigError(
                f"{folder}: written in format {version}; this firstlight reads {FORMAT}"
            )
        manifest = Manifest.model_validate(document)
    except ConfigError:
        raise
    except OSError as error:
        raise DamagedError(
            f"{folder}: damaged, or not a checkpoint ({MANIFEST}: {error.strerror})"
        ) from None
    except (
        ValueError,
        RecursionError,
    ):
        # Of JSON, or of its values: pydantic's ValidationError is a ValueError.
        raise not_ours from None
    if manifest.to_json() != content:  # the same values in other bytes
        raise not_ours
    return manifest


def check_training_state(folder: Path, manifest: Manifest) -> None:
    """Check that the optimizer's part of the checkpoint is bit for bit what was written.

    Raises:
        DamagedError: it is missing or changed.
    """
    file, stored = folder / TRAINING_STATE, manifest.files.get(TRAINING_STATE)
    if stored is None:
        raise DamagedError(f"{folder}: damaged ({MANIFEST} does not mention {TRAINING_STATE})")
    check_file(file, stored)


def check_file(file: Path, stored: StoredFile) -> None:
    """Check that a file of a checkpoint is bit for bit what was written.

    Raises:
        DamagedError: it is missing or changed.
    """
    try:
        with file.open("rb") as stream:
            size, sha256 = file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DamagedError(f"{file}: cannot be read ({error.strerror})") from None
    # The size first: it tells how much is missing, which a hash does not.
    if size != stored.bytes:
        raise DamagedError(f"{file}: damaged ({size:,} of {stored.bytes:,} bytes)")
    if sha256 != stored.sha256:
        raise DamagedError(f"{file}: damaged: it does not have the checksum it was saved with")
