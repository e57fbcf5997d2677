"""Where and in which floating-point type the convolutions run: measured, not assumed."""

from __future__ import annotations

import time
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
