"""Training tokens per second, and the share of the device's arithmetic that they use."""

import time
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.fabric.utilities.throughput import get_available_flops, measure_flops
from lightning.pytorch.utilities.seed import isolate_rng
from torch.func import functional_call

from firstlight.config import FinitePositive
from firstlight.model.base import LanguageModel
from firstlight.training.callbacks.base import Watcher
from firstlight.training.module import PretrainingModule
from firstlight.training.trainer import Trainer

MISSING_NUMBER = (RuntimeError, TypeError)
"""What torch raises on the meta device where the value of a number is asked for.

TypeError comes from the conversion to numpy. NotImplementedError, from an operation whose shapes
depend on numbers, is a RuntimeError."""
CPU_MATRIX, GPU_MATRIX = 1024, 8192
"""Rows and columns of the matrices whose product is timed: large enough for a device to reach its
rate. An H100 multiplies 4,096 rows in 0.2 ms, of which the launch would be a tenth."""

_counted: WeakKeyDictionary[LanguageModel, tuple[int, float]] = WeakKeyDictionary()
"""Of models that were counted, how many parameters trained then, and the operations."""


class Throughput(Watcher):
    """Logs `tokens_per_second` and `mfu`, over the training time since the last logged step.

    Evaluations, with their samples and checkpoints, are not counted. Model FLOPs utilisation
    (Chowdhery et al. 2022, appendix B) is relative to `peak_flops` a second; null takes the maker's
    figure for known GPUs, and measures the rate of a matrix product in the training precision
    elsewhere.
    """

    def __init__(self, *, peak_flops: FinitePositive | None = None) -> None:
        self.peak_flops = peak_flops
        self.flops_per_token = 0.0
        self.since: float | None = None
        self.tokens = 0

    # Lightning's signature says pl.Trainer.
    def setup(self, trainer: Trainer, pl_module: PretrainingModule, stage: str) -> None:  # pyright: ignore
        """Count before the weights are sharded: a part of them does not make a pass."""
        if trainer.is_sharded:
            self.flops_per_token = training_flops_per_token(pl_module.model)

    def on_train_start(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        if not trainer.is_sharded:
            self.flops_per_token = training_flops_per_token(pl_module.model)
        if self.peak_flops is None:
            self.peak_flops = peak_flops(pl_module.device, compute_dtype(trainer))
        self.tokens = trainer.tokens_seen

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: PretrainingModule, batch: Any, batch_idx: int
    ) -> None:
        if self.since is None:  # the first batch, or the first after an evaluation
            self.since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: PretrainingModule) -> None:
        self.since = None  # the row of this step has been measured

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: PretrainingModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not trainer.is_log_step:
            return
        if trainer.strategy.root_device.type == "cuda":
            # A GPU works through a queue: without this the time would be that of filling it.
            torch.cuda.synchronize()
        assert self.since is not None and self.peak_flops is not None
        now = time.perf_counter()
        rate = (trainer.tokens_seen - self.tokens) / (now - self.since)
        self.since, self.tokens = now, trainer.tokens_seen
        mfu = rate * self.flops_per_token / (self.peak_flops * trainer.world_size)
        trainer.collect({"tokens_per_second": rate, "mfu": mfu})


def training_flops_per_token(model: LanguageModel) -> float:
    """Floating-point operations of a forward and a backward pass, by token.

    They are counted once, on the meta device, where nothing is computed, or on the model's own for
    one that looks at its numbers, as a mixture of experts does.
    """
    trained = model.n_trained
    counted = _counted.get(model)
    if counted is None or counted[0] != trained:  # frozen parts have no backward pass
        counted = _counted[model] = trained, _flops_per_token(model)
    return counted[1]


def _flops_per_token(model: LanguageModel) -> float:
    try:
        flops = _counted_flops(model, torch.device("meta"))
    except MISSING_NUMBER:
        flops = _counted_flops(model, model.device)
    return flops / model.context_length


def _counted_flops(model: LanguageModel, device: torch.device) -> float:
    """Floating-point operations of both passes over one sequence; `model` stays as it is."""
    tensors = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        copied = tensor.detach().to(device)
        if not tensor.requires_grad:  # a buffer, which a pass may change
            copied = copied.clone()
        tensors[name] = copied.requires_grad_(tensor.requires_grad)
    ids = torch.zeros(1, model.context_length, dtype=torch.long, device=device)
    # Nothing to look for nan in, nothing to compile, and nothing that is drawn counts.
    with (
        torch.autograd.set_detect_anomaly(False),
        torch.compiler.set_stance("force_eager"),
        isolate_rng(),
    ):
        return measure_flops(
            model, lambda: functional_call(model, tensors, (ids,)), lambda logits: logits.sum()
        )


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of products in `dtype`: the maker's figure if known, else measured."""
    if device.type == "cuda":
        known = get_available_flops(device, dtype)
        if known is not None:
            return float(known)
    return measured_flops(device, dtype)


def measured_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product in `dtype`, the best of eight."""
    n = CPU_MATRIX if device.type == "cpu" else GPU_MATRIX
    generator = torch.Generator().manual_seed(0)
    # A generator of its own: training's random numbers are not used up.
    a = torch.randn(n, n, generator=generator).to(device, dtype)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # reading one number waits for all
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def compute_dtype(trainer: Trainer) -> torch.dtype:
    """What `trainer` multiplies in."""
    precision = str(trainer.precision)
    if "16" in precision:
        return torch.bfloat16 if precision.startswith("bf16") else torch.half
    return torch.float64 if precision.startswith("64") else torch.float32
