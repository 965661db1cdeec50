"""How long the steps of a run take, and where the time goes; measured from outside, by what Lightning tells."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.profilers import Profiler

from firstlight.training.callbacks.throughput import compute_dtype, training_flops_per_token
from firstlight.training.compilation import Compilation
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer

PARTS: tuple[str, ...] = ("data", "forward", "backward", "optimizer")
"""Of a step; the rest of it is Lightning's, and our own hooks'."""
ACTIONS = {
    "train_dataloader_next": "data",
    "batch_to_device": "data",
    "training_step": "forward",
    "backward": "backward",
    "optimizer_zero_grad": "optimizer",
}
"""What Lightning calls them when it tells its profiler. The update itself begins with clipping, see `Parts`."""


def synchronize(device: torch.device) -> None:
    """Wait for what `device` was told to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class Parts(Profiler):
    """Seconds of each part of a step. What a device was told to do is waited for, so the step as a whole is slower."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._since: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        name = action_name.rpartition(".")[2]
        if part := "optimizer" if name == "configure_gradient_clipping" else ACTIONS.get(name):
            synchronize(self.device)
            self._since[part] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        name = action_name.rpartition(".")[2]
        is_update = name == "optimizer_step" and action_name.startswith("[LightningModule]")
        part = "optimizer" if is_update else ACTIONS.get(name)
        if part in self._since:  # a batch that is only accumulated has no update
            synchronize(self.device)
            seconds = time.perf_counter() - self._since.pop(part)
            self.seconds[part] += seconds
            for outer in self._since:  # of all but the last part of a batch, backward is within forward
                self._since[outer] += seconds

    def take(self) -> dict[str, float]:
        """Seconds of each part since this was last called."""
        taken, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return taken


@dataclass
class Timing:
    """What a stopwatch has seen of a run. It refers to nothing of the run itself, which goes when it is over."""

    seconds: list[float] = field(default_factory=list)
    """Of each step."""
    parts: list[dict[str, float]] = field(default_factory=list)
    """The same, by part."""
    tokens_per_step: int = 0
    flops_per_token: float = 0.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    """What the run multiplied in."""
    precision: str = ""
    compile_seconds: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Of the median step."""
        return self.tokens_per_step / statistics.median(self.seconds)

    def breakdown(self) -> dict[str, float]:
        """Milliseconds of a step by part, `framework` being the rest, as a mean of the faster half of the steps:
        whatever else the machine did is in the other half."""
        order = sorted(range(len(self.seconds)), key=self.seconds.__getitem__)
        faster = order[: (len(order) + 1) // 2]
        parts = {part: 1e3 * statistics.fmean(self.parts[i][part] for i in faster) for part in PARTS}
        step = 1e3 * statistics.fmean(self.seconds[i] for i in faster)
        return parts | {"framework": step - sum(parts.values()), "step": step}


class Stopwatch(pl.Callback):
    """Times the steps after the first `warmup_steps`; with `parts` also the parts of each."""

    def __init__(self, warmup_steps: int, parts: Parts | None = None) -> None:
        self.warmup_steps, self.parts = warmup_steps, parts
        self.since = 0.0
        self.timing = Timing()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(trainer, Trainer) and isinstance(pl_module, PretrainingModule)
        data = pl_module.data
        compilations = [c for c in trainer.callbacks if isinstance(c, Compilation)]  # type: ignore[attr-defined]
        self.timing = Timing(
            tokens_per_step=data.batch_size * data.context_length * trainer.accumulate_grad_batches,
            flops_per_token=training_flops_per_token(pl_module.model),
            device=pl_module.device,
            dtype=compute_dtype(trainer),
            precision=str(trainer.precision),
            compile_seconds=compilations[0].seconds if compilations else None,
        )
        if self.parts is not None:
            self.parts.device = pl_module.device

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(trainer, Trainer)
        if not trainer.at_step_end or trainer.global_step < self.warmup_steps:
            return
        is_first, is_last = trainer.global_step == self.warmup_steps, trainer.global_step == trainer.max_steps
        if is_first or is_last or self.parts is not None:
            synchronize(self.timing.device)
        now = time.perf_counter()
        parts = self.parts.take() if self.parts is not None else {}
        if not is_first:
            self.timing.seconds.append(now - self.since)
            self.timing.parts.append(parts)
        self.since = now
