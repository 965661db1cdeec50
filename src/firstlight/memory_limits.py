"""How much memory a run may use: that of the computer, of its container, of the GPU.

The kernel ends a process that goes beyond its container's limit without a word, however much the
computer has left.
"""

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path("/")
"""Where /proc and /sys are; tests have others."""
V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2_FILES = ("memory.max", "memory.current", "inactive_file")
"""Of a control group: its limit, what is used of it, and the part of that which the kernel gives up
when asked to."""


@dataclass(frozen=True)
class Memory:
    """A limit in bytes, and how much of it is free now. `of` says whose memory it is, in words."""

    of: str
    limit: int
    free: int


def device_memory(accelerator: str) -> tuple[str, int]:
    """The device a run with this `trainer.accelerator` is on, in words, and its bytes."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        count = range(torch.cuda.device_count())
        return "the GPU", min(torch.cuda.get_device_properties(i).total_memory for i in count)
    memory = host_memory()
    return memory.of, memory.limit


def host_memory() -> Memory:
    """The memory of this process: what is available within the smallest limit of its groups."""
    # Not psutil, which knows nothing of control groups.
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    groups = control_groups()
    limit = min((limit for limit, _ in groups), default=physical)
    free = min(
        _available() or physical, physical, *(max(limit - used, 0) for limit, used in groups)
    )
    return Memory(
        "this container" if limit < physical else "this computer", min(limit, physical), free
    )


def control_groups() -> list[tuple[int, int]]:
    """Limit and used bytes of each control group of this process, of Linux' versions 1 and 2."""
    try:
        lines = (ROOT / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    groups = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount, files = ROOT / "sys/fs/cgroup", V2_FILES
        elif "memory" in controllers.split(","):
            mount, files = ROOT / "sys/fs/cgroup/memory", V1_FILES
        else:
            continue
        # In a container the path may be the host's, of which only the mount exists.
        own = mount / path.strip("/")
        groups += [
            _read_group(folder, *files)
            for folder in (own, *own.parents)
            if folder.is_relative_to(mount)
        ]
    return [group for group in groups if group is not None]


def _read_group(
    folder: Path, limit_file: str, used_file: str, reclaimable: str
) -> tuple[int, int] | None:
    try:
        limit = (folder / limit_file).read_text().strip()
        used = int((folder / used_file).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # the root has no limit, and another folder may not be there
        return None
    return None if limit == "max" else (int(limit), max(used - int(stat.get(reclaimable, 0)), 0))


def _available() -> int | None:
    """What Linux says it could give without swapping."""
    try:
        lines = (ROOT / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines)}
    return 1024 * int(sizes["MemAvailable"]) if "MemAvailable" in sizes else None


def free_memory(device: torch.device) -> int:
    """Bytes that this process could still take on `device`: of a GPU, or of the computer."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_memory().free


def resident_bytes() -> int:
    """What this process has in memory now; where that is not told, the most it ever had."""
    try:
        pages = int((ROOT / "proc/self/statm").read_text().split()[1])
    except OSError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else 1024 * largest
    return pages * os.sysconf("SC_PAGE_SIZE")
