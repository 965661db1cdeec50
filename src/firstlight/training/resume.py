"""A run that goes on: from which checkpoint, and whether it may."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, EarlyStopping

from firstlight.data.datamodule import TextDataModule
from firstlight.data.tokenizers.base import Tokenizer
from firstlight.errors import ConfigError, DamagedError
from firstlight.training.checkpoint_io import RECORD
from firstlight.training.trainer import Trainer
from firstlight.weights.checkpoint import load_checkpoint, load_plain
from firstlight.weights.find import checkpoints_of, find_checkpoint
from firstlight.weights.manifest import TRAINING_STATE, WEIGHTS, Manifest, check_training_state, read_manifest

STATE_KEYS = ("global_step", "epoch", "loops", "callbacks", "optimizer_states", "lr_schedulers", RECORD)


@dataclass(frozen=True)
class Resumed:
    """A run, and the checkpoint that it goes on from."""

    run: Path
    checkpoint: Path
    manifest: Manifest
    tokenizer: Tokenizer
    state: dict[str, Any]
    """Lightning's checkpoint without the weights, its tensors mapped from the file."""
    damaged: list[str]
    """What is wrong with newer checkpoints."""

    @property
    def step(self) -> int:
        """Optimizer steps that have been made."""
        return self.manifest.step


def find_resumed(run: Path) -> Resumed | None:
    """The newest checkpoint of `run` that is whole, every bit of it checked; None if it was ended before the first.

    Raises:
        ConfigError: none is whole, they are gone, or hold code (which is not run).
    """
    if not checkpoints_of(run) and not (run / WEIGHTS).exists():
        return None
    find_checkpoint(str(run), best=False, key="resume")
    damaged: list[str] = []
    for folder in reversed(checkpoints_of(run)):
        try:
            manifest = read_manifest(folder)
            check_training_state(folder, manifest)
            stored, state = load_checkpoint(folder), load_plain(folder / TRAINING_STATE)
            if missing := [key for key in STATE_KEYS if key not in state]:
                raise DamagedError(f"{folder / TRAINING_STATE}: it has no {missing[0]}")
        except DamagedError as error:
            damaged.append(str(error))
        else:
            return Resumed(run, folder, manifest, stored.build_tokenizer(), state, damaged)
    raise ConfigError(f"resume: of {len(damaged)} checkpoints in {run} none is whole: {damaged[0]}")


def check_resumable(resumed: Resumed, data: TextDataModule) -> None:
    """Refuse to go on with a run whose past would have been another one now.

    Raises:
        ConfigError: its order has no position to go on from, or its data has changed.
    """
    if not data.order.resumable:
        raise ConfigError(
            "resume: a run with order=book cannot be continued: its place is the state of torch's global generator"
        )
    now = data.fingerprint()
    for key, was in resumed.manifest.fingerprint.items():
        if now.get(key) != was:
            change = f"{key} was {str(was)[:12]}, is {str(now.get(key))[:12]}"
            raise ConfigError(f"resume: the data has changed since {resumed.checkpoint} was saved: {change}")


def why_ended(resumed: Resumed, planned: Trainer, callbacks: list[Callback]) -> str | None:
    """Why there is no step left to make, and what would change that; None if there is one."""
    if resumed.step >= planned.max_steps:
        return (
            f"the run in {resumed.run} is finished ({resumed.step} of {planned.max_steps} steps); "
            "to train longer, raise trainer.max_steps"
        )
    for stopping in (c for c in callbacks if isinstance(c, EarlyStopping)):
        state = resumed.state["callbacks"].get(stopping.state_key, {})
        if state.get("wait_count", 0) >= stopping.patience:
            return (
                f"the run in {resumed.run} was stopped early, at step {resumed.step}; raise "
                "callbacks.early_stopping.patience to go on, or take it away with '~callbacks.early_stopping'"
            )
    return None


def change_of_rate(resumed: Resumed, now: float) -> str | None:
    """What the schedule of today, by which the learning rate is `now`, changes; None if nothing."""
    was = resumed.state["lr_schedulers"][0]["_last_lr"][0]
    if math.isclose(was, now, rel_tol=1e-6):
        return None
    return f"the schedule is another one now: the learning rate goes from {was:.3g} to {now:.3g} at step {resumed.step}"
