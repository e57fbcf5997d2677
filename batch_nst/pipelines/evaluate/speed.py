"""Johnson's Table 1 on the machine at hand: seconds an image, of the optimisation and of the fast model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from batch_nst.data.images.codec import Pixels
from batch_nst.engine.model_io import stylize_image
from batch_nst.engine.timing import iteration_seconds, machine_of, seconds
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.pipelines.objective import Objectives, to_pixels, to_tensor

COUNTS = (100, 300, 500)
"""Iterations of the table's columns."""
_WARM_UP, _TIMED, _PASSES = 2, 5, 3


def measure_speed(
    objectives: Objectives, net: TransformerNet, picture: Pixels, sizes: Sequence[int]
) -> dict[str, Any]:
    """How long both ways take by size, one image at a time.

    An iteration is the median of a few, and the seconds of many are as many times that: extrapolated, since
    every iteration costs the same. What a picture shows does not matter: it is one photo, enlarged.

    Args:
        objectives: where the optimisation runs, and in which precision.
        net: the fast model, on the same device.
        picture: uint8 (H, W, 3).
        sizes: sides in pixels.

    Returns:
        `machine`, `precision`, how many were `timed_iterations`, which numbers of `iterations` are told of;
        and `sizes`, for each its `size`, seconds of an `iteration` and of the `model`, and by number of
        iterations (text, as in JSON) seconds of the `optimisation` and its ratio to the model's, `speedup`.
        Of what memory does not hold there is the size alone.
    """
    machine = machine_of(objectives.device, 0)
    del machine["size"]
    return {
        "machine": machine,
        "precision": objectives.engine,
        "timed_iterations": _TIMED,
        "iterations": [*COUNTS],
        "sizes": [_row(objectives, net, picture, size) for size in sizes],
    }


def _row(objectives: Objectives, net: TransformerNet, picture: Pixels, size: int) -> dict[str, Any]:
    photo = F.interpolate(to_tensor(picture[None], objectives.device), (size, size), mode="bilinear")
    image = torch.from_numpy(to_pixels(photo)[0])

    def paint() -> None:
        stylize_image(net, image, objectives.device)

    try:
        iteration = iteration_seconds(objectives.fast, photo, _WARM_UP, _TIMED)
        paint()
        model = statistics.median(seconds(paint) for _ in range(_PASSES))
    except torch.OutOfMemoryError:
        return {"size": size}
    many = {str(count): count * iteration for count in COUNTS}
    return {
        "size": size,
        "iteration": iteration,
        "model": model,
        "optimisation": many,
        "speedup": {count: whole / model for count, whole in many.items()},
    }
