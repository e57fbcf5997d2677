"""Seconds per image of the optimisation and of the fast model: Table 1 of Johnson et al. on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from batch_nst.data.images.codec import Pixels
from batch_nst.data.models.evaluation import SizeTimes, SpeedTable
from batch_nst.engine.timing import iteration_seconds, machine_of, seconds
from batch_nst.pipelines.inference import FastModel
from batch_nst.pipelines.objective import Objectives, to_pixels, to_tensor

COUNTS = (100, 300, 500)
"""Numbers of iterations of the table's columns."""
_WARM_UP, _TIMED, _PASSES = 2, 5, 3


def measure_speed(
    objectives: Objectives, fast: FastModel, picture: Pixels, sizes: Sequence[int]
) -> SpeedTable:
    """Time the optimisation and the fast model by size, one image at a time.

    The time of many iterations is extrapolated from the median of a few, since all iterations cost the same.
    The content of the picture does not matter: one photo is resized to each size.

    Args:
        objectives: device and precision of the optimisation.
        fast: the fast model, on the same device.
        picture: uint8 (H, W, 3).
        sizes: sides in pixels.
    """
    machine = machine_of(objectives.device, 0)
    del machine["size"]
    return SpeedTable(
        machine=machine,
        precision=objectives.engine,
        timed_iterations=_TIMED,
        iterations=[*COUNTS],
        sizes=[_times(objectives, fast, picture, size) for size in sizes],
    )


def _times(objectives: Objectives, fast: FastModel, picture: Pixels, size: int) -> SizeTimes:
    photo = F.interpolate(to_tensor(picture[None], objectives.device), (size, size), mode="bilinear")
    image = to_pixels(photo)[0]

    def paint() -> None:
        fast(image)

    try:
        iteration = iteration_seconds(objectives.fast, photo, _WARM_UP, _TIMED)
        paint()
        model = statistics.median(seconds(paint) for _ in range(_PASSES))
    except torch.OutOfMemoryError:
        return SizeTimes(size)
    many = {str(count): count * iteration for count in COUNTS}
    return SizeTimes(
        size=size,
        iteration=iteration,
        model=model,
        optimisation=many,
        speedup={count: whole / model for count, whole in many.items()},
    )
