"""How much fits into memory, and what the process does with memory that tensors free."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import torch

_BYTES_PER_PIXEL = 2500
"""Of an image: activations, places of maxima, gradients, history; `batch-nst benchmark` measures it."""
_SHARE = 0.5
"""Of the memory that is free now; the rest is for workspaces and for other processes."""
_ENOUGH = {"cpu": 4 * 256**2, "cuda": 64 * 256**2}
"""Pixels of a batch that keep a device busy; more of them gain nothing."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # glibc, malloc.h


def choose_batch(side: int, device: torch.device) -> int:
    """Images of `side` x `side` pixels to optimise together: they keep the device busy and fit its memory."""
    pixels = min(_ENOUGH[device.type], _SHARE * _free_bytes(device) / _BYTES_PER_PIXEL)
    return max(1, int(pixels / side**2))


def run_in_batches(
    count: int, batch: int, run: Callable[[slice], None], on_halved: Callable[[int], None]
) -> int:
    """Work through `count` images; a batch that memory does not hold is halved and run again.

    Args:
        count: images.
        batch: of them to begin with.
        run: does one slice; of a slice that it could not finish for lack of memory nothing may remain.
        on_halved: told the new size.

    Returns:
        The size that fitted.

    Raises:
        torch.OutOfMemoryError: not even one image fits.
    """
    first = 0
    while first < count:
        try:
            run(slice(first, min(first + batch, count)))
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        else:
            first += batch
            continue
        # Outside of `except`: the exception holds the frames, and these hold the tensors.
        torch.cuda.empty_cache()
        batch //= 2
        on_halved(batch)
    return batch


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed, for the next tensor; elsewhere nothing happens.

    It gives every tensor of more than 32 MiB back to the kernel when it is freed, and the next one then pays
    for its pages again: at 256 px a fifth of an iteration.
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


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
