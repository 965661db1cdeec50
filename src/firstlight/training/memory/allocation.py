"""Freed memory that a process keeps: the next step needs as much again."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, where its allocator is glibc's; is it?

    glibc gives large blocks back to the kernel when they are freed. Of every gradient and weight
    cast each step then touches new pages, which the kernel has to find and to fill with zeros
    first; docs/performance.md says what that costs.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
