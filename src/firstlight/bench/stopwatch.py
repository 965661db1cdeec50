"""How long the steps of a run take and where the time goes, measured by Lightning's hooks."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch.profilers import Profiler

from firstlight.training.callbacks.base import Callback
from firstlight.training.callbacks.throughput import compute_dtype, training_flops_per_token
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer

PARTS: tuple[str, ...] = ("data", "forward", "backward", "optimizer")
"""Parts of a step; the rest is Lightning's own work, and our hooks."""
ACTIONS = {
    "train_dataloader_next": "data",
    "batch_to_device": "data",
    "training_step": "forward",
    "backward": "backward",
    "optimizer_zero_grad": "optimizer",
}
"""The part of a step that each of Lightning's profiled actions belongs to."""
FIRST = {**ACTIONS, "configure_gradient_clipping": "optimizer"}
LAST = {**ACTIONS, "optimizer_step": "optimizer"}
"""The update lasts from the start of clipping to the end of `optimizer_step`, which itself starts
earlier, as it calls forward and backward."""


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class Parts(Profiler):
    """Seconds of each part of a step; synchronizing for it makes the whole step slower."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._since: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        # Lightning's names have the class in front: [LightningModule]PretrainingModule.backward.
        part = FIRST.get(action_name.rpartition(".")[2])
        if part is not None:
            synchronize(self.device)
            self._since[part] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        part = LAST.get(action_name.rpartition(".")[2])
        if part not in self._since:  # a batch whose gradients are only accumulated has no update
            return
        synchronize(self.device)
        seconds = time.perf_counter() - self._since.pop(part)
        self.seconds[part] += seconds
        # While gradients are accumulated, backward runs inside forward: its time is not counted
        # twice.
        for outer in self._since:
            self._since[outer] += seconds

    def take(self) -> dict[str, float]:
        """Seconds of each part since the last call."""
        taken, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return taken


@dataclass
class Timing:
    """What a stopwatch has measured, without a reference to the run, so that it can be freed."""

    seconds: list[float] = field(default_factory=list)
    """Seconds of each step."""
    parts: list[dict[str, float]] = field(default_factory=list)
    """Seconds of each step, by part."""
    tokens_per_step: int = 0
    flops_per_token: float = 0.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    """What the run multiplied in."""
    precision: str = ""
    compile_seconds: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Training tokens per second, of the median step."""
        # The median: one step that the machine interrupts must not decide.
        return self.tokens_per_step / statistics.median(self.seconds)

    def breakdown(self) -> dict[str, float]:
        """Mean milliseconds of a step and of its parts; `framework` is the rest.

        Over the faster half of the steps: in the slower half the machine did something else, too.
        """
        # The numbers of the steps, the fastest first.
        order = sorted(range(len(self.seconds)), key=self.seconds.__getitem__)
        faster = order[: (len(order) + 1) // 2]
        step = 1e3 * statistics.fmean(self.seconds[i] for i in faster)
        told = {}
        for part in PARTS:
            told[part] = 1e3 * statistics.fmean(self.parts[i][part] for i in faster)
        told["framework"] = step - sum(told.values())
        told["step"] = step
        return told


class Stopwatch(Callback):
    """Times the steps after the first `warmup_steps`; with `parts` also the parts of each."""

    def __init__(self, warmup_steps: int, parts: Parts | None = None) -> None:
        self.warmup_steps, self.parts = warmup_steps, parts
        self.since = 0.0
        self.timing = Timing()

    def on_train_start(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        data = pl_module.data
        self.timing = Timing(
            tokens_per_step=data.batch_size * data.context_length * trainer.accumulate_grad_batches,
            flops_per_token=training_flops_per_token(pl_module.model),
            device=pl_module.device,
            dtype=compute_dtype(trainer),
            precision=str(trainer.precision),
            compile_seconds=pl_module.compile_seconds,
        )
        if self.parts is not None:
            self.parts.device = pl_module.device

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: PretrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not trainer.at_step_end or trainer.global_step < self.warmup_steps:
            return
        # A GPU is still busy when a step ends: wait for it where the clock starts and stops.
        is_first = trainer.global_step == self.warmup_steps
        is_last = trainer.global_step == trainer.max_steps
        if is_first or is_last or self.parts is not None:
            synchronize(self.timing.device)
        # The step before the first one is the last of the warm-up: its end starts the clock.
        now = time.perf_counter()
        if not is_first:
            self.timing.seconds.append(now - self.since)
        if self.parts is not None:
            parts = self.parts.take()  # after the warm-up too, so that its parts are not counted
            if not is_first:
                self.timing.parts.append(parts)
        self.since = now
