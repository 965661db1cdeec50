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
    """The device and its rates; `dtype` is what the user's config multiplies in."""
    # float32 and bfloat16 on every machine, so that machines can be compared.
    rates: dict[str, float | None] = {}
    for kind in (torch.float32, torch.bfloat16, dtype):
        name = _name(kind)
        if name not in rates:
            rates[name] = _rate(device, kind)
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "flops_per_second": rates,
        "training_dtype": _name(dtype),
        "copied_bytes_per_second": copy_rate(device),
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _rate(device: torch.device, dtype: torch.dtype) -> float | None:
    try:
        return measured_flops(device, dtype)
    except (RuntimeError, TypeError):  # the device does not have this dtype
        return None


def copy_rate(device: torch.device) -> float:
    """Bytes per second that are read and written, the best of eight copies."""
    # The best one: whatever else the machine does only makes a copy slower.
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(8):
        synchronize(device)
        began = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * COPIED / best  # each byte is read and written


def device_name(device: torch.device) -> str:
    """The name that its maker gives the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return _cpu_name()
    return f"{device.type}, {_cpu_name()}"


def _cpu_name() -> str:
    # platform.processor() is empty, or only "x86_64", on most Linux distributions.
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
