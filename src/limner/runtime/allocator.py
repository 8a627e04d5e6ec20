"""The C library's memory allocator, tuned for tensors on a CPU."""

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # their numbers in glibc's malloc.h
_TOP_PAD_BYTES = 2**28


def release_memory() -> None:
    """Return freed memory to the kernel, after an operation that needed much of it for a short
    time."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@cache
def keep_freed_memory() -> None:
    """Reuse freed memory instead of returning it to the kernel after each operation.

    glibc returns large blocks immediately, and the kernel then fills every page of the next one
    with zeros; on small networks that takes about a tenth of a training step
    (benchmarks/allocator.py). This works only on Linux with glibc; elsewhere nothing is done. The
    process then keeps its peak of memory until it ends.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, _TOP_PAD_BYTES)
