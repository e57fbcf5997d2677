"""Normalisation of an image's whole covariance over channels, where instance normalisation sets its diagonal.

A style loss compares Gram matrices, which hold all pairs of channels. Instance normalisation gives each
channel the same variance in all photos. How channels go together still differs from photo to photo, and so
do the Gram matrices of the pictures. Whitening takes most of the difference away. It is Huang et al. 2019,
"Iterative Normalization" (arXiv 1904.03441), of each image alone.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

STEPS: Final = 5
EPSILON: Final = 1e-5
"""Least part of all variance that a direction counts as having, so that none is enlarged without bound."""


class Whitening(nn.Module):
    """Mean 0 and covariance near 1 over positions of each image, then a gain and a shift for each channel."""

    def __init__(self, channels: int) -> None:
        """Start with gains of 1 and shifts of 0."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, at least in fp32; no image of a batch influences another."""
        with torch.autocast(x.device.type, enabled=False):
            batch, channels, height, width = x.shape
            rows = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
            rows = rows if rows.dtype == torch.float64 else rows.float()
            rows = rows - rows.mean(1, keepdim=True)
            covariance = rows.mT @ rows / (height * width)
            white = rows @ (inverse_root(covariance) * self.weight) + self.bias
            return white.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def inverse_root(covariance: Tensor) -> Tensor:
    """The inverse square root by Newton's iteration, which treats directions of little variance carefully.

    Args:
        covariance: (B, C, C), symmetric, positive semi-definite.

    Returns:
        (B, C, C), symmetric. After five steps a direction with a tenth of all variance has 99 % of what it
        should, one with a hundredth less than half: noise is not enlarged to the size of what counts.
    """
    one = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    # Divided by the trace, the largest eigenvalue is at most 1, where the iteration converges.
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + EPSILON
    scaled = covariance / trace + EPSILON * one
    root = one.expand_as(covariance)
    for _ in range(STEPS):
        root = 1.5 * root - 0.5 * (root @ root @ root) @ scaled
    return root / trace.sqrt()
