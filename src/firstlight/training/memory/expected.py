"""The memory that a run will take on its device, by part."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from firstlight.loss.base import Loss
from firstlight.memory_limits import device_memory, resident_bytes
from firstlight.model.base import LanguageModel
from firstlight.optim.base import OptimizerFactory
from firstlight.training.memory.micro_batches import parts_of_a_share
from firstlight.training.memory.step import step_memory
from firstlight.training.trainer import Trainer

GAPS = 13e3
"""What a CPU process grows by beyond the tensors of a pass: so many times the square root of their
bytes. It is gaps that malloc cannot fill, and buffers of oneDNN. The number is fitted to runs of
benchmarks/memory.py, and the root, too: what of a small pass is most of it, is little of a large
one (see docs/plan.md)."""
STARTED = 20 * 10**6
"""Bytes that a run allocates on the host beside tensors: the trainer, loggers, threads."""
CACHED = 0.1
"""The same share of torch's allocator on a GPU; assumed, not measured."""


@dataclass(frozen=True)
class Expected:
    """What one process of a run takes at its peak, in bytes."""

    of: str
    """Whose memory it is, in words."""
    available: int
    windows_at_once: int
    parts: dict[str, int]
    """`process` is what it has now: Python, the libraries and the text."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def expected_memory(
    make_model: Callable[[], LanguageModel],
    loss: Loss,
    make_optimizer: OptimizerFactory,
    trainer: Trainer,
    precision: str,
) -> Expected | None:
    """The memory of a run of `trainer`, from shapes; None if it cannot be told (see `step_memory`).

    With `micro_batch_size` "auto" it is that of a single window.
    """
    data = trainer.clock.data
    now = resident_bytes()
    n_parts, at_once = parts_of_a_share(trainer)
    # Gradients of an earlier batch are there as well as those of an earlier part.
    step = step_memory(
        make_model,
        loss,
        make_optimizer,
        precision=precision,
        context_length=data.context_length,
        n_windows=at_once,
        n_parts=n_parts * trainer.accumulate_grad_batches,
        activation_checkpointing=trainer.activation_checkpointing,
    )
    if step is None:
        return None
    where, available = device_memory(trainer.strategy.root_device.type)
    parts = step.parts
    if where == "the GPU":
        parts["allocator"] = int(CACHED * step.peak)
    else:
        parts = {
            "process": now,
            **parts,
            "allocator": STARTED + int(GAPS * math.sqrt(step.of_pass)),
        }
    return Expected(where, available, at_once, parts)
