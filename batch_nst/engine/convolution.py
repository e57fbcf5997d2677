"""A convolution with reflection padding whose weights have a faster gradient in fp32 on CPUs.

oneDNN works out that gradient far below the rate of its other passes where pixels lie channels last, as
they do in training.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Convolution(nn.Conv2d):
    """`nn.Conv2d` with reflection padding of half its odd kernel."""

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
