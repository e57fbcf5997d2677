"""How much memory a batch needs at most, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batch_nst.data.style import StylePicture
from batch_nst.engine.gatys import optimise
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.recipe import Loss, Vgg


def peak_bytes(batch: int, side: int, device: str) -> dict[str, Any]:
    """Peaks while `batch` images of `side` pixels are optimised.

    Returns:
        `before` and `process`, of the process with the network loaded and at the end, and `device`, what
        torch held on a GPU, in bytes; None where the system does not tell. `out_of_memory` if it did not fit.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_try, batch, side, device).result()


def _try(batch: int, side: int, device: str) -> dict[str, Any]:
    grey = np.full((batch, side, side, 3), 128, np.uint8)
    style = StylePicture.of_pixels(np.full((64, 64, 3), 128, np.uint8))
    objectives = Objectives.on(style, Loss(), Vgg(), device, "auto", os.cpu_count() or 1)
    content, objective = to_tensor(grey, objectives.device), objectives.fast
    before = _process_bytes()
    try:
        optimise(objective, content, 3)
    except torch.OutOfMemoryError:
        return {"before": before, "process": None, "device": None, "out_of_memory": True}
    on_gpu = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {"before": before, "process": _process_bytes(), "device": on_gpu, "out_of_memory": False}


def _process_bytes() -> int | None:
    """Most that this process ever held. `getrusage` would count its parent's peak as well."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
