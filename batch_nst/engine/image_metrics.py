"""Image metrics: SSIM, the checkerboard artefact, and the distance in VGG features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_SIDE, _SIGMA = 11, 1.5
"""Side and standard deviation of the Gaussian window in pixels (Wang et al. 2004)."""
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of R, G and B; the paper defines SSIM for grey images."""


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity of luminance, over all windows that lie inside the image.

    It is computed in fp64, because variances are differences of large numbers. Large images are not
    downsampled first.

    Args:
        a: images (B, 3, H, W), RGB, 0..255, H and W at least 11.
        b: images of the same shape and range.

    Returns:
        (B,), fp64: 1 if equal, near 0 if unrelated, below 0 if light and dark are exchanged.

    Raises:
        ValueError: the shapes differ, or a side is below 11 pixels.
    """
    if a.shape != b.shape or a.dim() != 4 or a.shape[1] != 3 or min(a.shape[2:]) < _SIDE:
        raise ValueError(
            f"pictures: given shapes {tuple(a.shape)} and {tuple(b.shape)}; "
            f"allowed: one shape (B, 3, H, W), H and W {_SIDE} or more"
        )
    x, y = _luminance(a), _luminance(b)
    mean_x, mean_y = _windows(x), _windows(y)
    variances = _windows(x * x) - mean_x * mean_x + (_windows(y * y) - mean_y * mean_y)
    covariance = _windows(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    return (likeness * structure).flatten(1).mean(1)


def _luminance(image: Tensor) -> Tensor:
    """(B, 3, H, W) to (B, 1, H, W), fp64."""
    weights = torch.tensor(_LUMINANCE, dtype=torch.float64, device=image.device)
    return (image.double() * weights.view(3, 1, 1)).sum(1, keepdim=True)


def _windows(image: Tensor) -> Tensor:
    """Gaussian-weighted mean of every window: (B, 1, H, W) to (B, 1, H - 10, W - 10)."""
    offsets = torch.arange(_SIDE, dtype=image.dtype, device=image.device) - _SIDE // 2
    weights = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights = weights / weights.sum()
    rows = F.conv2d(image, weights.view(1, 1, 1, _SIDE))
    return F.conv2d(rows, weights.view(1, 1, _SIDE, 1))


PERIOD = 4
"""Period of the artefact in pixels: the network's smallest map has a quarter of the image's side."""


def checkerboard(image: Tensor) -> Tensor:
    """The checkerboard artefact: root mean square of the average 4 x 4 cell, after removing its mean.

    Nothing in a photo is aligned to the grid, so the average of many cells is nearly constant. With 1,024
    cells (128 x 128 pixels) about half a grey level remains by chance.

    Args:
        image: (B, 3, H, W), in grey levels, H and W at least 4; rows and columns beyond the last whole cell
            are ignored.

    Returns:
        (B,), in grey levels, at least 0; its gradient is 0 where it is 0.
    """
    images, channels = image.shape[:2]
    height, width = (side // PERIOD for side in image.shape[2:])
    whole = image[:, :, : height * PERIOD, : width * PERIOD]
    cell = whole.reshape(images, channels, height, PERIOD, width, PERIOD).mean((2, 4))
    uneven = (cell - cell.mean((2, 3), keepdim=True)).flatten(1)
    size: Tensor = torch.linalg.vector_norm(uneven, dim=1) / math.sqrt(uneven.shape[1])
    return size


def feature_distance(activations: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """Squared distance of activations relative to the squared norm of `wanted`, averaged over layers.

    Args:
        activations: by layer, (B, C, H, W).
        wanted: the target activations, by layer, of the same shapes.

    Returns:
        (B,), at least 0; 0 if equal.
    """
    distances = []
    for name, target in wanted.items():
        target = target.float()
        difference = (activations[name].float() - target).square().flatten(1).mean(1)
        distances.append(difference / target.square().flatten(1).mean(1).clamp_min(1e-12))
    return torch.stack(distances).mean(0)
