"""What a callback of ours may do beside what Lightning's do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl

if TYPE_CHECKING:
    from firstlight.training.plan import Plan
    from firstlight.training.trainer import Trainer


class Callback(pl.Callback):
    """Lightning's Callback with further hooks, all of them optional.

    Any callback of Lightning's own works, too.

    The error of a callback ends the run, but not before the step is finished and saved (but see
    `Watcher`).
    """

    # a run of firstlight has a Trainer and a PretrainingModule: hooks may say so in their
    # signatures
    if TYPE_CHECKING:

        def on_train_start(self, trainer: Any, pl_module: Any) -> None: ...
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None: ...
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None: ...
        def on_before_optimizer_step(
            self, trainer: Any, pl_module: Any, optimizer: Any
        ) -> None: ...
        def on_validation_start(self, trainer: Any, pl_module: Any) -> None: ...
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None: ...
        def on_train_end(self, trainer: Any, pl_module: Any) -> None: ...
        def on_save_checkpoint(
            self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]
        ) -> None: ...
        def on_load_checkpoint(
            self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]
        ) -> None: ...
        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None: ...

    monitor: str | None = None
    """The metric that this callback watches, by its name in the logs; an unknown one is refused."""

    def follow(self, direction: Literal["min", "max"]) -> None:
        """Called before training with the direction in which `monitor` gets better."""

    def check(self, plan: Plan) -> None:
        """Refuse a run that this callback cannot serve, before anything is written.

        Raises:
            ValueError: what is wrong, and the way out; the callback's key is put before it.
        """

    def bytes_on_disk(self, plan: Plan, *, at_least: bool = False) -> int:
        """Bytes of files that this callback will keep in the run folder.

        With `at_least`, those that it keeps with the setting `keep_less`.
        """
        return 0

    keep_less: str = ""
    """The setting (KEY=VALUE) by which it keeps no more than `bytes_on_disk(plan, at_least=True)`;
    required of a callback where that is less."""
    saves_step: bool = False
    """Whether `on_step_complete` saves the step. Its error then ends the run at once: no later save
    could be waited for."""

    def on_step_complete(self, trainer: Trainer) -> None:
        """Called when nothing of a step is left to do, evaluation and logs included."""

    def why_ended(self, state: dict[str, Any]) -> str | None:
        """Why a run ended before its last step, and how to resume it anyway.

        `state` is the state of this callback in the checkpoint that is resumed. None if
        this callback did not end the run.
        """
        return None

    def why_stopped(self) -> str | None:
        """Why this callback has just ended the run before its last step; None if it has not."""
        return None


class Watcher(Callback):
    """A callback that only looks and reports.

    Whatever its hooks raise is reported, and training continues.
    """
