"""Gram matrices at the speed of half precision with the sums of fp32, for activations in channels_last."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 2**17
"""Numbers of an image that are widened at once: they stay in the processor's cache."""


def gram(activation: Tensor) -> Tensor:
    """`losses.gram_matrix`, without gradients.

    A product of two bf16 numbers is exact in fp32. Multiplying in half precision and adding up in fp32 thus
    loses nothing, and is several times faster than widening the activation and multiplying in fp32.

    Args:
        activation: (B, C, H, W), bf16, fp32 or fp64, channels_last.

    Returns:
        (B, C, C), fp32 or better.
    """
    rows = positions(activation)
    if activation.dtype != torch.bfloat16:
        # One by one: a product over a batch is divided among threads in another way than that of one image.
        return torch.cat([torch.bmm(image.mT, image) for image in torch.split(rows, 1)])
    if activation.is_cuda:
        return torch.bmm(rows.mT, rows, out_dtype=torch.float32)
    # On a CPU torch multiplies bf16 into bf16 only. oneDNN, if told so, takes fp32 for bf16 and adds in fp32.
    images, _, channels = rows.shape
    sums = torch.zeros(images, channels, channels)
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    precision, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        for block in torch.split(rows, _BLOCK // channels, dim=1):
            wide = block.float()
            sums.baddbmm_(wide.mT, wide)
    finally:
        matmul.fp32_precision = precision
    return sums


def positions(activation: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H*W, C): a row for each position; a view in channels_last."""
    return activation.permute(0, 2, 3, 1).flatten(1, 2)
