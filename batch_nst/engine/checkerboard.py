"""The checkerboard of a network that enlarges: what repeats every few pixels, whatever the photo is.

Odena, Dumoulin and Olah 2016, "Deconvolution and Checkerboard Artifacts" (distill.pub), show where it comes
from, and that enlargement before the convolution avoids the worst of it. It does not forbid the rest: what a
pixel becomes still depends on its place in the cell that it was enlarged with, and the perceptual loss has
nothing against a weave. An optimised image has no such cells, and no weave.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PERIOD = 4
"""Pixels: the network's smallest map is a quarter of the picture."""


def checkerboard(image: Tensor) -> Tensor:
    """How far the mean of all cells of 4 x 4 pixels is from even: the root of its mean square.

    In a photo nothing is tied to the grid, so that the mean of many cells is even but for chance: of 1,024
    cells (128 x 128 pixels) some half a grey level is left.

    Args:
        image: (B, 3, H, W), in grey levels, H and W from 4 on; rows and columns beyond the last whole cell
            are left out.

    Returns:
        (B,), in grey levels, at least 0; with a gradient of 0 where it is 0.
    """
    images, channels = image.shape[:2]
    height, width = (side // PERIOD for side in image.shape[2:])
    whole = image[:, :, : height * PERIOD, : width * PERIOD]
    cell = whole.reshape(images, channels, height, PERIOD, width, PERIOD).mean((2, 4))
    uneven = (cell - cell.mean((2, 3), keepdim=True)).flatten(1)
    size: Tensor = torch.linalg.vector_norm(uneven, dim=1) / math.sqrt(uneven.shape[1])
    return size
