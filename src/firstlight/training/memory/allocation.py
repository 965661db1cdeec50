"""Freed memory that a process keeps: the next step needs as much again."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory; return whether it agreed.

    glibc gives large blocks back to the kernel when they are freed. Every gradient and every cast
    weight then touches new pages at each step, which the kernel must first find and fill with
    zeros; docs/performance.md says what that costs.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
