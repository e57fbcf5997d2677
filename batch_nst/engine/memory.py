"""What the process does with memory that tensors free."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # glibc, malloc.h


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed, for the next tensor; elsewhere nothing happens.

    It gives every tensor of more than 32 MiB back to the kernel when it is freed, and the next one then pays
    for its pages again: at 256 px that was a third of an iteration.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    for option, value in (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, 2**31 - 1),
        (_M_TOP_PAD, 64 << 20),
    ):
        libc.mallopt(option, value)
