"""What the machine can do: matrix products and copies, alone."""

import platform
import time
from pathlib import Path
from typing import Any

import torch

from firstlight.bench.stopwatch import synchronize
from firstlight.training.callbacks.throughput import measured_flops

COPIED = 2**28
"""Bytes of a copy: more than any cache holds."""


def describe_machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The device and its rates; `dtype` is what the run at hand multiplies in."""
    rates = {kind: _rate(device, kind) for kind in dict.fromkeys((torch.float32, torch.bfloat16, dtype))}
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "flops_per_second": {str(kind).removeprefix("torch."): rate for kind, rate in rates.items()},
        "training_dtype": str(dtype).removeprefix("torch."),
        "copied_bytes_per_second": copy_rate(device),
    }


def _rate(device: torch.device, dtype: torch.dtype) -> float | None:
    try:
        return measured_flops(device, dtype)
    except (RuntimeError, TypeError):  # a device without this kind of number
        return None


def copy_rate(device: torch.device) -> float:
    """Bytes a second that are read and written, the best of eight copies."""
    source = torch.ones(COPIED // 4, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(8):
        synchronize(device)
        began = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * COPIED / best


def device_name(device: torch.device) -> str:
    """As its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return name if device.type == "cpu" else f"{device.type}, {name}"
