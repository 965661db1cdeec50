"""What a run tells of a step that is not finite, or lies far above those before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from firstlight.data.loader import Batch
from firstlight.runs.run_folder import SPIKES
from firstlight.training.evaluation import evaluating
from firstlight.training.memory.micro_batches import cut
from firstlight.training.nonfinite.description import describe, largest, worst_windows
from firstlight.training.nonfinite.late_check import StepRecord
from firstlight.training.spikes.recent import Judged
from firstlight.training.spikes.record import Spike, of_all_processes, windows_of, write_spike

if TYPE_CHECKING:
    from firstlight.training.module import PretrainingModule


class BadSteps:
    """Tells of the bad steps of `module`: what the `Guard` is given to call."""

    def __init__(self, module: PretrainingModule) -> None:
        self.module = module

    def record_spike(self, record: StepRecord, numbers: dict[str, Judged]) -> None:
        """Keep a step that lies far above those before it; all processes call this."""
        module, trainer = self.module, self.module.trainer
        first = (record.step - 1) * module.accumulated
        batches = first, first + module.accumulated - 1
        spike = Spike(record.step, batches, numbers, module.guard.on_spike == "skip")
        # Where all processes compute together, a pass of one alone would wait for the others.
        losses = None if trainer.is_sharded else self._losses_now
        with evaluating(module):
            parts = [
                part for batch in record.batches for part in cut(batch, trainer.micro_batch_size)
            ]
            windows = windows_of(parts, losses, module.data.tokenizer)
        windows = of_all_processes(windows, trainer.world_size)
        if trainer.is_global_zero:
            trainer.failures.attempt(SPIKES, write_spike, trainer.folder, spike, windows)

    def describe(self, record: StepRecord, skipped: int) -> str:
        """Say what was wrong with a step that ends the run, after so many `skipped` ones."""
        module = self.module
        module.eval()  # without dropout; this is the end of the run
        names = {p: name for name, p in module.model.named_parameters()}
        windows: list[str] = []
        # Where all processes compute together, none can look at its own windows alone.
        if not module.trainer.is_sharded:
            windows = worst_windows(
                [part for batch in record.batches for part in module.parts(batch)],
                self._losses_now,
                module.data.tokenizer,
            )
        norms = zip((names[p] for p in record.parameters), record.norms.tolist(), strict=True)
        return describe(
            step=record.step,
            losses=record.losses.tolist(),
            grad_norm=float(record.grad_norm),
            gradient=largest(dict(norms)),
            windows=windows,
            skipped=skipped,
        )

    def _losses_now(self, batch: Batch) -> Tensor:
        """The losses (B * T,) of a batch by the model as it is now, without a gradient."""
        with torch.no_grad(), self.module.trainer.precision_plugin.forward_context():
            return self.module.token_losses(batch)
