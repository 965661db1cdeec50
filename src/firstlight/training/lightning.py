"""Every place of Lightning's that is not public and that a run needs all the same, each with its
reason.

tests/training/test_lightning.py names the one that a new version of Lightning has moved.
"""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl


def leave_signals_alone(trainer: pl.Trainer) -> None:
    """Keep Lightning from handling SIGTERM: it would end the process with exit code 0, and nothing
    saved.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None


def evaluate_when(trainer: pl.Trainer, is_due: Callable[[], bool]) -> None:
    """Evaluate after each batch for which `is_due()`.

    Lightning counts validation in batches while checkpoints and logs count steps (its issues 12205,
    17207), has none after the last step, and no first step of its own.
    """
    trainer.fit_loop.epoch_loop._should_check_val_fx = lambda _: is_due()  # type: ignore[method-assign]


def at_step_end(trainer: pl.Trainer) -> bool:
    """Did the batch that just ended complete an optimizer step? No public name tells where
    accumulation is.
    """
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def run_evaluation(trainer: pl.Trainer) -> None:
    """Run the validation loop of a fit that has not made a step yet: Lightning has no public way to
    begin with it.
    """
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def end_before_training(trainer: pl.Trainer, step: int) -> None:
    """Let a fit that is resumed after `step` make no step more, whatever its length."""
    trainer.fit_loop.epoch_loop.max_steps = step


def forget_end(checkpoint: dict[str, Any]) -> None:
    """Let a fit resume from the checkpoint of its last step: Lightning stores that the loop has
    seen its last batch.
    """
    checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False


def scaler_of(trainer: pl.Trainer) -> Any:
    """The GradScaler of 16-bit mixed precision; None without it. Only that plugin has one, and no
    interface says so.
    """
    return getattr(trainer.precision_plugin, "scaler", None)
