"""Checkpoints: when one is saved, and which ones are kept."""

import math
from pathlib import Path

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from pydantic import NonNegativeInt, PositiveInt

from firstlight.checkpoints.find import checkpoint_name, checkpoints_of, read_scores
from firstlight.checkpoints.folder_io import discard, drop_state
from firstlight.checkpoints.manifest import read_manifest
from firstlight.config import FinitePositive, NonEmpty, Steps
from firstlight.errors import ConfigError
from firstlight.training.callbacks.base import Callback
from firstlight.training.plan import Plan
from firstlight.training.trainer import Trainer


class Checkpoint(Callback, LightningCheckpoint):
    """Saves a checkpoint after evaluations and every `every_n_steps`, and removes old ones.

    Kept are the newest `keep_last`, and without the optimizer's state, which only resuming needs,
    the `keep_best` with the best `monitor` and the first one after every `keep_every_n_tokens`.
    Nothing is removed before a newer one is safely on disk. While all together take more than
    `max_gigabytes`, the oldest of `keep_every_n_tokens` go, then the worst of `keep_best`; the best
    one and the newest stay.
    """

    keep_less = "keep_last=1"
    saves_step = True

    def __init__(
        self,
        *,
        monitor: NonEmpty = "val/loss",
        every_n_steps: Steps | None = None,
        keep_last: PositiveInt = 2,
        keep_best: NonNegativeInt = 1,
        keep_every_n_tokens: PositiveInt | None = None,
        max_gigabytes: FinitePositive | None = None,
    ) -> None:
        self.monitor, self.every_n_steps = monitor, every_n_steps
        self.keep_last, self.keep_best, self.keep_every_n_tokens = (
            keep_last,
            keep_best,
            keep_every_n_tokens,
        )
        self.max_gigabytes = max_gigabytes

    def bytes_on_disk(self, plan: Plan, *, at_least: bool = False) -> int:
        """Bytes of the checkpoints that always stay, in float32.

        The newest have the weights and the optimizer's state, the best one only the
        weights.
        """
        sizes = plan.sizes
        n_newest = 1 if at_least else self.keep_last
        return 4 * (
            (sizes.n_parameters + sizes.n_optimizer) * n_newest
            + sizes.n_parameters * min(self.keep_best, 1)
        )

    def check(self, plan: Plan) -> None:
        """Refuse a budget that is too small from the beginning."""
        least = self.bytes_on_disk(plan) / 1e9
        if self.max_gigabytes is not None and self.max_gigabytes < least:
            raise ValueError(
                f"max_gigabytes ({self.max_gigabytes}) must be at least {least:.2g}, the size of"
                f" the newest {self.keep_last} (keep_last) and the best; null is without a limit"
            )

    def on_step_complete(self, trainer: Trainer) -> None:
        """Save if it is time to."""
        step = trainer.global_step
        if trainer.is_eval_step or (
            self.every_n_steps is not None and step % self.every_n_steps == 0
        ):
            trainer.save_step()
            self._clean(trainer)

    # Lightning's class says pl.Trainer.
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # pyright: ignore
        """Remove what a run that was killed after its last save has kept."""
        self._clean(trainer)

    def _clean(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:  # what cannot be removed now is tried again after the next save
            trainer.failures.attempt(
                "removing checkpoints", self.remove_others, trainer.folder, trainer.global_step
            )

    def remove_others(self, run: Path, step: int) -> None:
        """Remove what the rules do not keep, now that the checkpoint of `step` is on disk."""
        saved = checkpoints_of(run)
        # Newer ones are damaged: the run was resumed from an earlier one.
        while saved and saved[-1].name > checkpoint_name(step):
            discard(saved.pop())
        newest = saved[-self.keep_last :]
        scores = read_scores(saved)
        evaluated = [folder for folder in saved if math.isfinite(scores[folder])]
        # The sort is stable: of equal scores the first checkpoint is kept.
        best = sorted(evaluated, key=lambda folder: scores[folder])[: self.keep_best]
        spaced = self._spaced(saved)
        for folder in saved:
            if folder not in (*newest, *best, *spaced):
                discard(folder)
            elif folder not in newest:
                drop_state(folder)
        left = [
            f
            for f in dict.fromkeys((*spaced, *reversed(best[1:])))
            if f not in (*newest, *best[:1])
        ]
        while left and self.max_gigabytes is not None and _size(run) > self.max_gigabytes * 1e9:
            discard(left.pop(0))

    def _spaced(self, saved: list[Path]) -> list[Path]:
        """The first checkpoint at or after each multiple of `keep_every_n_tokens`."""
        first: dict[int, Path] = {}
        for folder in saved if self.keep_every_n_tokens is not None else []:
            try:
                multiple = read_manifest(folder).tokens // (self.keep_every_n_tokens or 1)
            except ConfigError:  # damaged: nothing to keep
                continue
            if multiple > 0:
                first.setdefault(multiple, folder)
        return list(first.values())


def _size(run: Path) -> int:
    return sum(file.stat().st_size for folder in checkpoints_of(run) for file in folder.iterdir())
