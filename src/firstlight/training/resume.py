"""From which checkpoint a run is resumed, and whether it may be."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from firstlight.checkpoints.checkpoint import Checkpoint
from firstlight.checkpoints.find import CHECKPOINTS, checkpoints_of
from firstlight.checkpoints.folder_io import RECORD, Stored, read_folder
from firstlight.checkpoints.manifest import TRAINING_STATE, Manifest
from firstlight.data.token_data import TokenDataModule
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import ConfigError, DamagedError
from firstlight.runs.run_folder import METRICS, MODEL
from firstlight.training.same_text import check_same
from firstlight.training.trainer import Trainer

STATE_KEYS = {
    "global_step": int,
    "epoch": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    RECORD: dict,
}


@dataclass(frozen=True)
class Resumed:
    """A run, and the checkpoint that it is resumed from."""

    run: Path
    checkpoint: Path
    manifest: Manifest
    tokenizer: Tokenizer
    state: dict[str, Any]
    """Lightning's checkpoint without the weights, its tensors mapped from the file."""
    damaged: list[str]
    """What is wrong with newer checkpoints."""
    weights: Checkpoint | None
    """None once they are handed over: they need not be in memory twice."""

    @property
    def rate(self) -> float:
        """The learning rate of the step that comes next."""
        return float(self.state["lr_schedulers"][0]["_last_lr"][0])

    @property
    def step(self) -> int:
        """Optimizer steps that have been made."""
        return self.manifest.step

    def handed_to(self, trainer: Trainer) -> Self:
        """Let `trainer` resume from what was read here; return this without the weights."""
        if self.weights is not None:
            # Read once: to check every bit of it takes as long as to load it.
            trainer.resume_from(Stored(self.manifest, self.weights, self.state))
        return replace(self, weights=None)


def find_resumed(run: Path) -> Resumed | None:
    """The newest whole checkpoint of `run`, every bit checked; None if none was saved.

    Raises:
        ConfigError: none is whole, they are gone, or hold code (which is not run).
    """
    saved = checkpoints_of(run)
    if not saved:
        # A run that has written a model or rows has had checkpoints, unless it was killed before
        # the first.
        if (run / MODEL).exists() or (
            (run / METRICS).exists() and not (run / CHECKPOINTS).is_dir()
        ):
            raise ConfigError(f"resume ({run}): its checkpoints are gone ({CHECKPOINTS}/step_*)")
        return None
    # From the newest on: a checkpoint that a dying disk has damaged costs the steps since the one
    # before it, not the run.
    damaged: list[str] = []
    for folder in reversed(saved):
        try:
            return _read(run, folder, damaged)
        except DamagedError as error:
            damaged.append(str(error))
    raise ConfigError(f"resume: of {len(damaged)} checkpoints in {run} none is whole: {damaged[0]}")


def _read(run: Path, folder: Path, damaged: list[str]) -> Resumed:
    stored = read_folder(folder)
    # Lightning would fail somewhere inside, with a KeyError.
    _check_state(folder / TRAINING_STATE, stored.state)
    resumed = Resumed(
        run,
        folder,
        stored.manifest,
        stored.model.build_tokenizer(),
        stored.state,
        damaged,
        stored.model,
    )
    try:
        _ = resumed.rate
    except (LookupError, TypeError, ValueError):
        raise DamagedError(
            f"{folder / TRAINING_STATE}: damaged: its schedule has no rate"
        ) from None
    return resumed


def _check_state(file: Path, state: dict[str, Any]) -> None:
    for key, kind in STATE_KEYS.items():
        value = state.get(key)
        is_one = isinstance(value, kind) and not isinstance(value, bool)
        if isinstance(value, list):  # of the one optimizer, and of its schedule
            is_one = is_one and len(value) == 1 and isinstance(value[0], dict)
        if not is_one:
            raise DamagedError(f"{file}: damaged: its {key} is not what firstlight writes")


def check_resumable(resumed: Resumed, data: TokenDataModule) -> None:
    """Refuse to resume a run whose past would be different now.

    Raises:
        ConfigError: its order has no position to resume from, or its data has changed.
    """
    if not data.order.resumable:
        raise ConfigError(
            "resume: a run with order=book cannot be resumed: its place is the state of torch's"
            " global generator"
        )
    # First, since it has the better advice: where a text may have moved to.
    check_same(data, resumed.manifest.fingerprint, resumed.checkpoint)
    now = data.fingerprint()
    for key, was in resumed.manifest.fingerprint.items():
        if now.get(key) != was:
            raise ConfigError(
                f"resume: the data has changed since {resumed.checkpoint} was saved: {key} was"
                f" {str(was)[:12]}, is {str(now.get(key))[:12]}"
            )


def change_of_rate(resumed: Resumed, now: float) -> str | None:
    """What the schedule of today, by which the learning rate is `now`, changes; None if nothing."""
    was = resumed.rate
    if math.isclose(was, now, rel_tol=1e-6):
        return None
    return (
        f"the learning-rate schedule has changed: the rate goes from {was:.3g} to {now:.3g} at step"
        f" {resumed.step}"
    )
