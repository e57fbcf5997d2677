"""Choice of device, of the type that convolutions compute in, and of the batch that fits into memory."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F

from batch_nst.errors import DeviceError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]

_WORTH_IT = 1.2
"""bf16 is chosen if it is faster than fp32 by this factor, so that noise does not decide between equals."""


def choose_device(device: Device = "auto") -> torch.device:
    """The device to compute on; `auto` is the GPU if torch sees one, else the CPU.

    On a GPU, fp32 is IEEE fp32 from then on. By default cuDNN computes convolutions of fp32 in TF32, with 10
    bits of mantissa: losses, and so filter and gate, would differ from those of a CPU.

    Raises:
        DeviceError: `cuda` is requested, but torch sees no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device: cuda was requested, but torch sees no GPU here; allowed: auto, cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        # The older of torch's two ways: after the newer one torch refuses to export a graph (2.14).
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(device)


def choose_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """The type for convolutions; on a CPU, `auto` measures once a process (about 0.1 s) which is faster."""
    if precision != "auto":
        return torch.float32 if precision == "fp32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return _faster_on_cpu()


@cache
def _faster_on_cpu() -> torch.dtype:
    faster = _convolution_seconds(torch.float32) / _convolution_seconds(torch.bfloat16)
    return torch.bfloat16 if faster > _WORTH_IT else torch.float32


def _convolution_seconds(dtype: torch.dtype) -> float:
    """The fastest of five runs of a layer like VGG-16's conv2_2 on the CPU, in seconds."""
    image = torch.ones(1, 128, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.ones(128, 128, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(6):  # the first one chooses kernels
        start = time.perf_counter()
        F.conv2d(image, kernel, padding=1)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def convolution_error(device: torch.device) -> float:
    """The greatest difference between a convolution in fp32 there and in fp64 on the CPU, as a fraction."""
    draw = torch.Generator().manual_seed(0)
    image, kernel = (torch.rand(shape, generator=draw) for shape in ((1, 64, 32, 32), (64, 64, 3, 3)))
    found = F.conv2d(image.to(device), kernel.to(device), padding=1).cpu()
    expected = F.conv2d(image.double(), kernel.double(), padding=1)
    return float(((found - expected) / expected).abs().max())


_BYTES_PER_PIXEL = 2500
"""Memory of an optimisation: activations, max-pooling indices, gradients and history, as measured."""
_SHARE = 0.5
"""Fraction of the free memory to use; the rest is for workspaces and other processes."""
_ENOUGH = {"cpu": 4 * 256**2, "cuda": 64 * 256**2}
"""Pixels of a batch that keep a device busy; larger batches are no faster."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # glibc, malloc.h


def choose_batch(side: int, device: torch.device) -> int:
    """Number of images of `side` x `side` pixels that keep the device busy and fit into its memory."""
    pixels = min(_ENOUGH[device.type], _SHARE * _free_bytes(device) / _BYTES_PER_PIXEL)
    return max(1, int(pixels / side**2))


def least_bytes(side: int) -> float:
    """Free memory in which one image of `side` x `side` pixels can be optimised."""
    return side**2 * _BYTES_PER_PIXEL / _SHARE


def run_in_batches(
    count: int, batch: int, run: Callable[[slice], None], on_halved: Callable[[int], None]
) -> int:
    """Process `count` images in batches; a batch that does not fit into memory is halved and repeated.

    Args:
        count: number of images.
        batch: images in the first batch.
        run: processes a slice of the images; it must leave nothing behind if it runs out of memory.
        on_halved: called with each new batch size.

    Returns:
        The batch size that fitted.

    Raises:
        torch.OutOfMemoryError: a single image does not fit.
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
        # Outside of `except`: the exception keeps the frames alive, and they keep the tensors.
        torch.cuda.empty_cache()
        batch //= 2
        on_halved(batch)
    return batch


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next tensor; does nothing without glibc.

    By default it returns every freed tensor above 32 MiB to the kernel, and the next tensor has to fault its
    pages in again. At 256 px that costs a fifth of an iteration.
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
