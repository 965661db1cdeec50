"""Places of Lightning and torch that are not public and that a run needs, each with its reason.

tests/training/test_lightning.py uses each, and names the one that a new version has moved. Places
of other libraries are in private.py.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torch.optim import Optimizer

# The trainer and its loops


def leave_signals_alone(trainer: pl.Trainer) -> None:
    """Keep Lightning from handling SIGTERM: it would exit with code 0 and save nothing."""
    trainer._signal_connector.register_signal_handlers = lambda: None


def evaluate_when(trainer: pl.Trainer, is_due: Callable[[], bool]) -> None:
    """Evaluate after each batch for which `is_due()` is true.

    Lightning counts validation in batches while checkpoints and logs count steps (its issues 12205
    and 17207), does not validate after the last step, and has no first step of its own.
    """
    trainer.fit_loop.epoch_loop._should_check_val_fx = lambda _: is_due()  # type: ignore[method-assign]


def at_step_end(trainer: pl.Trainer) -> bool:
    """Whether the batch that just ended completed a step: no public name tells of accumulation."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def run_evaluation(trainer: pl.Trainer) -> None:
    """Run the validation loop of a fit before its first step: Lightning has no option for it."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def end_before_training(trainer: pl.Trainer, step: int) -> None:
    """Let a fit that is resumed after `step` make no further step, whatever its length."""
    trainer.fit_loop.epoch_loop.max_steps = step


def after_loop(trainer: pl.Trainer, do: Callable[[], None]) -> None:
    """Call `do` when a fit has no step left, while the model is still on its device.

    Lightning calls `on_train_end` only of a fit that has made a step, and `on_fit_end` when the
    strategy has let go of the model.
    """
    run = trainer.fit_loop.run

    def run_and_do() -> None:
        run()
        do()

    trainer.fit_loop.run = run_and_do  # type: ignore[method-assign]


def forget_end(checkpoint: dict[str, Any]) -> None:
    """Let a fit that is resumed from its last step count its batches on.

    Lightning stores that the loop has seen its last batch, and would begin again with batch 0.
    """
    checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False


def scaler_of(trainer: pl.Trainer) -> Any:
    """The GradScaler of 16-bit mixed precision, or None: no interface of the plugins has it."""
    return getattr(trainer.precision_plugin, "scaler", None)


# Its loggers


def writer_of(logger: TensorBoardLogger | WandbLogger) -> Any:
    """The writer (or wandb's run) of `logger`, None without one; `experiment` would make one."""
    return logger._experiment


def begin_again(logger: TensorBoardLogger | WandbLogger) -> None:
    """Let `logger` make a new writer when it next needs one."""
    logger._experiment = None


def purge_nothing(logger: TensorBoardLogger) -> None:
    """Let the next writer of `logger` hide nothing: Lightning gives each the same `purge_step`."""
    logger._kwargs["purge_step"] = None


def leave_out_anonymous(logger: WandbLogger) -> None:
    """Keep Lightning from giving wandb the argument `anonymous`, of which wandb warns."""
    logger._wandb_init.pop("anonymous")


# torch


def norms_of(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The 2-norm of each tensor (N,), taken in `dtype`, by a few kernels for all of them.

    `torch.nn.utils.get_total_norm` does the same inside, and returns only the norm of them all.
    """
    return torch.stack(torch._foreach_norm(tensors, dtype=dtype))  # type: ignore[attr-defined]


def handles_scaling(optimizer: Optimizer) -> bool:
    """Whether `optimizer` unscales gradients and skips steps itself, as torch's fused ones do.

    It then makes no step while its attribute `found_inf` is a tensor of 1, which torch's GradScaler
    sets; the host never has to know.
    """
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def storage_id(tensor: Tensor) -> int:
    """A number that tensors with the same memory have in common, as long as one of them lives."""
    return tensor.untyped_storage()._cdata


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within the block new tensors have a shape, a dtype and a device, but no memory.

    Unlike those on the meta device they are on the CPU for whoever asks, so that a model takes the
    ways that it takes there, and autocast casts them.
    """
    # Imported late: it takes a second, and only a plan needs it.
    from torch._subclasses.fake_tensor import FakeTensorMode

    # What a model has computed before, such as a buffer with a mask, keeps its values.
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
