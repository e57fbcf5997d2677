"""Whether a node's GPU can be used: its driver, its memory, and one convolution."""

from __future__ import annotations

import ctypes

from batch_nst.errors import DeviceError

_DRIVERS = {11: "450.80", 12: "525.60", 13: "580.65"}
"""The oldest driver of each major version of CUDA, on Linux: NVIDIA's release notes of the CUDA toolkit."""
_RIGHT = 1e-4
"""Relative error of a right convolution in fp32, at most."""


def look_at_gpu(side: int) -> str:
    """What the GPU of this process is and can do, in one line.

    Args:
        side: pixels of an image to optimise.

    Raises:
        DeviceError: says why it cannot be used.
    """
    import torch

    from batch_nst.engine.device import choose_device, convolution_error, least_bytes

    driver = driver_cuda()
    if fault := driver_fault(driver, torch.version.cuda):
        raise DeviceError(fault)
    device = choose_device("cuda")
    error = convolution_error(device)
    if error > _RIGHT:
        raise DeviceError(f"a convolution on the GPU is wrong by {error:.1%}; the GPU or its driver is ill")
    name, (free, total) = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)
    needed = least_bytes(side)
    if free < needed:
        raise DeviceError(
            f"{name}: {free / 1e9:.1f} GB of {total / 1e9:.1f} GB are free; an image of {side} px needs "
            f"{needed / 1e9:.1f} GB; does another program use this GPU?"
        )
    assert driver
    return (
        f"{name}, {free / 1e9:.1f} GB of {total / 1e9:.1f} GB free, driver for CUDA {driver[0]}.{driver[1]}, "
        f"torch for {torch.version.cuda}, a convolution is right"
    )


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that this machine's driver supports, such as (13, 0); None: it has no driver."""
    version = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)):
            return None
    except OSError:
        return None
    return version.value // 1000, version.value % 1000 // 10


def driver_fault(driver: tuple[int, int] | None, wanted: str | None) -> str:
    """Why torch cannot use the driver; "" if it can. Within a major version of CUDA each driver will do.

    Args:
        driver: what `driver_cuda` returns.
        wanted: the CUDA that torch is built for, such as `13.0`; None: it is built without.
    """
    if wanted is None:
        return "this torch is built without CUDA; install one that is built with it"
    major = int(wanted.partition(".")[0])
    needed = (
        f"torch is built for CUDA {wanted}, which needs driver {_DRIVERS.get(major, 'of its age')} or newer"
    )
    if driver is None:
        return f"no NVIDIA driver answers (libcuda.so.1); {needed}"
    if driver[0] < major:
        return f"the driver supports CUDA {driver[0]}.{driver[1]} at most; {needed}"
    return ""
