"""The raw sums of Gatys, Ecker and Bethge (2016), one value per image; images of a batch never mix.

`A` (B, C, H, W) is a VGG-16 activation; i and j run over channels, k over the M = H*W positions.
The objective divides these sums by sizes: see `perceptual_loss`.
"""

from __future__ import annotations

from torch import Tensor


def content_loss(a: Tensor, b: Tensor) -> Tensor:
    """Content loss of each image: `sum_ij (A_ij - B_ij)^2`.

    Args:
        a: activations (B, C, H, W).
        b: activations of the same shape.

    Returns:
        (B,), at least 0.
    """
    return (a - b).square().flatten(1).sum(1)


def gram_matrix(a: Tensor) -> Tensor:
    """Gram matrix of each image, over all pairs of channels: `G_ij = sum_k A_ik A_jk`.

    Args:
        a: activations (B, C, H, W), fp32 or better: sums of half-precision products overflow.

    Returns:
        (B, C, C), symmetric, positive semi-definite.
    """
    positions = a.flatten(2)
    return positions @ positions.mT


def style_loss(gram_a: Tensor, gram_b: Tensor) -> Tensor:
    """Style loss of each image: `sum_ij (G_ij(A) - G_ij(B))^2`.

    Args:
        gram_a: (B, C, C).
        gram_b: (B, C, C), or (1, C, C) to compare every image with one style.

    Returns:
        (B,), at least 0.
    """
    return (gram_a - gram_b).square().flatten(1).sum(1)


def total_variation(image: Tensor) -> Tensor:
    """Total variation: the sum of squared differences to the right and lower neighbours, per value.

    Args:
        image: (B, C, H, W), 0..255.

    Returns:
        (B,), at least 0, in squared grey levels.
    """
    right = (image[..., :, 1:] - image[..., :, :-1]).square().flatten(1).sum(1)
    lower = (image[..., 1:, :] - image[..., :-1, :]).square().flatten(1).sum(1)
    return (right + lower) / image[0].numel()
