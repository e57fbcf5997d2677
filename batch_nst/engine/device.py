"""Where and in which floating-point type the convolutions run, and how much fits into memory."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F

from batch_nst.errors import DeviceError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]

_WORTH_IT = 1.2
"""bf16 must be this much faster than fp32, so that noise does not decide between two equals."""


def choose_device(device: Device = "auto") -> torch.device:
    """The GPU where there is one and none of them is ruled out, else the CPU.

    Raises:
        DeviceError: `cuda` is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device: cuda was asked for, but torch sees no GPU here; allowed: auto, cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def choose_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """The faster of fp32 and bf16 for a convolution of VGG-16 on this device; about 0.1 s."""
    if precision != "auto":
        return torch.float32 if precision == "fp32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    faster = _convolution_seconds(device, torch.float32) / _convolution_seconds(device, torch.bfloat16)
    return torch.bfloat16 if faster > _WORTH_IT else torch.float32


def _convolution_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """The least of five timings of a layer like conv2_2."""
    image = torch.ones(1, 128, 64, 64, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.ones(128, 128, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(6):  # the first one chooses kernels
        start = time.perf_counter()
        F.conv2d(image, kernel, padding=1)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


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
