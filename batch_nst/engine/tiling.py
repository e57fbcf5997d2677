"""Pictures of any size through the fast model, in bounded memory: tile by tile, and the same as at once.

The net's normalisations look at the whole picture, so that tiles painted each by itself would not fit
together. Here the mean and variance of each normalisation are those of the whole picture, summed up over its
tiles before anything behind it is computed; a tile reads as far into its neighbours as the convolutions
reach, and only the borders of the picture are reflected.

What a picture has at a half and a quarter of its size is computed once and kept, 96 bytes a pixel of the
photo at the most; what it has at full size is computed anew where it is used, a fifth more operations in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batch_nst.engine.transformer_net import TransformerNet

TILE = 512
"""Pixels a side of a tile, at every size."""

Span = tuple[int, int]
"""From and to (exclusive), rows or columns."""


@torch.inference_mode()
def stylize_tiles(
    net: TransformerNet, image: Tensor, device: torch.device | str = "cpu", tile: int = TILE
) -> Tensor:
    """Paint one picture as `stylize_image` does, but for rounding.

    Args:
        net: a net on `device`.
        image: uint8 (H, W, 3), RGB, H and W from 16 pixels on.
        device: where to compute.
        tile: pixels a side of what is computed at once.

    Returns:
        The same shape, uint8 RGB, on the CPU.
    """
    height, width, _ = image.shape

    def photo(rows: Span, columns: Span) -> Tensor:
        part = image[slice(*rows), slice(*columns)].to(device)
        return 2 * (part.permute(2, 0, 1)[None].float() / 255) - 1

    x = _conv_norm(_Map(height, width, tile, photo), net.stem).then(F.relu)
    sizes = []
    for down in net.down:
        sizes.append((x.height, x.width))
        x = _conv_norm(x, down, keep=True).then(F.relu)
    for residual in net.residual:
        x = _kept(_sum(x, _branch(x, residual)))
    for up in net.up:
        x = _enlarged(x, *sizes.pop())
        x = _conv_norm(x, up, keep=bool(sizes)).then(F.relu)
    head = _convolved(x, net.head)
    painted = torch.empty(image.shape, dtype=torch.uint8)
    for rows, columns in head.tiles():
        shown = (0.5 + 0.5 * head.read(rows, columns).float()).clamp(0, 1) * 255
        painted[slice(*rows), slice(*columns)] = shown.round().to(torch.uint8)[0].permute(1, 2, 0)
    return painted


@dataclass(frozen=True)
class _Map:
    """Values of one picture at some depth of the net, any part of which can be had."""

    height: int
    width: int
    tile: int
    read: Callable[[Span, Span], Tensor]
    """Rows and columns to (1, C, rows, columns), on the device."""

    def tiles(self) -> Iterator[tuple[Span, Span]]:
        """Rows and columns of each."""
        for top in range(0, self.height, self.tile):
            for left in range(0, self.width, self.tile):
                bottom, right = top + self.tile, left + self.tile
                yield (top, min(bottom, self.height)), (left, min(right, self.width))

    def then(self, function: Callable[[Tensor], Tensor]) -> _Map:
        """A function of each value by itself."""
        return replace(self, read=lambda rows, columns: function(self.read(rows, columns)))


def _conv_norm(x: _Map, block: nn.Module, *, keep: bool = False) -> _Map:
    """A block of the net's `_conv_norm`; `keep`: the convolution is computed once."""
    conv, norm = block.children()
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.InstanceNorm2d | nn.BatchNorm2d)  # of one picture, these are the same
    convolved = _convolved(x, conv)
    return _normalised(_kept(convolved) if keep else convolved, norm)


def _branch(x: _Map, residual: nn.Module) -> _Map:
    """What a residual block adds."""
    *inner, last = (part for part in residual.children() if isinstance(part, nn.Sequential))
    for block in inner:
        x = _conv_norm(x, block, keep=True).then(F.relu)
    return _conv_norm(x, last, keep=True)


def _convolved(x: _Map, conv: nn.Conv2d) -> _Map:
    """A convolution with an odd kernel, padded by half of it in reflection."""
    kernel, step = conv.kernel_size[0], conv.stride[0]
    reach = kernel // 2

    def needed(span: Span, length: int) -> tuple[Span, Span]:
        """What is read of a side of this length, and how much is reflected before and behind it."""
        first, last = step * span[0] - reach, step * (span[1] - 1) - reach + kernel
        return (max(first, 0), min(last, length)), (max(-first, 0), max(last - length, 0))

    def read(rows: Span, columns: Span) -> Tensor:
        inside, outside = zip(needed(rows, x.height), needed(columns, x.width), strict=True)
        values = x.read(*inside)
        (top, bottom), (left, right) = outside
        if top or bottom or left or right:
            values = F.pad(values, (left, right, top, bottom), mode="reflect")
        return F.conv2d(values, conv.weight, conv.bias, conv.stride, groups=conv.groups)

    return replace(x, height=-(-x.height // step), width=-(-x.width // step), read=read)


def _normalised(x: _Map, norm: nn.InstanceNorm2d | nn.BatchNorm2d) -> _Map:
    """By mean and variance over the whole picture, for which each tile is read once."""
    sums = squares = torch.zeros((), dtype=torch.float64)
    for rows, columns in x.tiles():
        values = x.read(rows, columns).double()
        sums = sums + values.sum((0, 2, 3)).cpu()
        squares = squares + values.square().sum((0, 2, 3)).cpu()
    mean = sums / (x.height * x.width)
    variance = (squares / (x.height * x.width) - mean.square()).clamp_min(0)
    gain = norm.weight.detach().cpu() / (variance + norm.eps).sqrt()
    shift = norm.bias.detach().cpu() - mean * gain
    scaled, shifted = (part.float()[:, None, None].to(norm.weight.device) for part in (gain, shift))
    return x.then(lambda values: values * scaled + shifted)


def _kept(x: _Map) -> _Map:
    """The same, computed once."""
    whole: Tensor | None = None
    for rows, columns in x.tiles():
        values = x.read(rows, columns)
        if whole is None:
            shape = (1, values.shape[1], x.height, x.width)
            layout = torch.channels_last
            whole = torch.empty(shape, dtype=values.dtype, device=values.device, memory_format=layout)
        whole[:, :, slice(*rows), slice(*columns)] = values
    assert whole is not None  # a picture has pixels
    kept = whole
    return replace(x, read=lambda rows, columns: kept[:, :, slice(*rows), slice(*columns)])


def _sum(x: _Map, y: _Map) -> _Map:
    return replace(x, read=lambda rows, columns: x.read(rows, columns) + y.read(rows, columns))


def _enlarged(x: _Map, height: int, width: int) -> _Map:
    """Each pixel four times; of an odd side, which was rounded up on the way down, one fewer."""

    def read(rows: Span, columns: Span) -> Tensor:
        (top, bottom), (left, right) = rows, columns
        few = x.read((top // 2, (bottom + 1) // 2), (left // 2, (right + 1) // 2))
        many = F.interpolate(few, scale_factor=2.0, mode="nearest")
        top, left = top - top % 2, left - left % 2
        return many[:, :, rows[0] - top : bottom - top, columns[0] - left : right - left]

    return replace(x, height=height, width=width, read=read)
