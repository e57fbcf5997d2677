"""The layers of the fast model that torch does not have: `Convolution` and `Whitening`."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batch_nst.engine.fast_model.network import WHITENING_EPSILON, WHITENING_STEPS


class Convolution(nn.Conv2d):
    """`nn.Conv2d` with reflection padding of half its odd kernel, faster to train in fp32 on CPUs.

    oneDNN works out the gradient of the weights far below the rate of its other passes where pixels lie
    channels last, as they do in training.
    """

    def __init__(
        self, channels_in: int, channels: int, kernel: int, *, stride: int = 1, bias: bool = True
    ) -> None:
        """Draw the weights from torch's global generator, as `nn.Conv2d` does."""
        reach = kernel // 2
        mode: Literal["zeros", "reflect"] = "reflect" if reach else "zeros"
        super().__init__(channels_in, channels, kernel, stride, reach, bias=bias, padding_mode=mode)

    def forward(self, image: Tensor) -> Tensor:
        """(B, channels_in, H, W) to (B, channels, ceil(H / stride), ceil(W / stride))."""
        reach = self.kernel_size[0] // 2
        if reach:  # with "reflect" torch would copy the input even for a padding of 0
            with torch.autocast(image.device.type, enabled=False):  # on CPUs it would widen the image to fp32
                image = F.pad(image, (reach,) * 4, mode="reflect")
        exact = image.dtype == torch.float32 and not torch.is_autocast_enabled(image.device.type)
        if torch.is_grad_enabled() and exact and image.device.type == "cpu" and len(image) == 1:
            convolved: Tensor = _Convolved.apply(image, self.weight, self.bias, self.stride[0])
            return convolved
        return F.conv2d(image, self.weight, self.bias, self.stride)


class _Convolved(torch.autograd.Function):
    """A convolution of one image without padding."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.stride, ctx.has_bias = stride, bias is not None
        return F.conv2d(image, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (slope,), (image, weight) = slopes, ctx.saved_tensors
        of_image = _library(slope, image, weight, ctx.stride, 0) if ctx.needs_input_grad[0] else None
        if weight.shape[2:] == (3, 3) and ctx.stride == 1:
            of_weight = _weight_slope(slope, image)
        else:
            of_weight = _library(slope.contiguous(), image.contiguous(), weight.contiguous(), ctx.stride, 1)
        return of_image, of_weight, slope.sum((0, 2, 3)) if ctx.has_bias else None, None


def _library(slope: Tensor, image: Tensor, weight: Tensor, stride: int, which: int) -> Tensor:
    """The library's gradient by the image (0) or the weight (1)."""
    steps, nowhere, everywhere = [stride] * 2, [0, 0], [1, 1]
    wanted = [which == 0, which == 1, False]
    back = torch.ops.aten.convolution_backward
    gradients: tuple[Tensor, ...] = back(
        slope, image, weight, None, steps, nowhere, everywhere, False, nowhere, 1, wanted
    )
    return gradients[which]


def _weight_slope(slope: Tensor, image: Tensor) -> Tensor:
    """The gradient of a 3 x 3 kernel: one product of matrices for each of its places.

    A row of `slope` gets two zeros at its end and so the length of a row of the image. Then one place of the
    kernel is one offset between the pixels of both, read as one line.
    """
    _, channels, height, width = slope.shape
    line = slope.new_zeros(height, width + 2, channels)
    line[:, :width] = slope[0].permute(1, 2, 0)
    line = line.view(-1, channels)[:-2].mT
    pixels = image[0].permute(1, 2, 0).reshape(-1, image.shape[1])
    length = line.shape[1]
    places = [down * (width + 2) + right for down in range(3) for right in range(3)]
    kernel = torch.stack([line @ pixels[place : place + length] for place in places])
    return kernel.view(3, 3, channels, -1).permute(2, 3, 0, 1)


class Whitening(nn.Module):
    """Mean 0 and covariance near 1 over positions of each image, then a gain and a shift for each channel.

    A style loss compares Gram matrices, which hold all pairs of channels. Instance normalisation gives each
    channel the same variance in all photos. How channels go together still differs from photo to photo, and
    so do the Gram matrices of the pictures. Whitening takes most of the difference away. It is Huang et al.
    2019, "Iterative Normalization" (arXiv 1904.03441), of each image alone.
    """

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
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + WHITENING_EPSILON
    scaled = covariance / trace + WHITENING_EPSILON * one
    root = one.expand_as(covariance)
    for _ in range(WHITENING_STEPS):
        root = 1.5 * root - 0.5 * (root @ root @ root) @ scaled
    return root / trace.sqrt()
