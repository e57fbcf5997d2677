"""The fast model on images of any size, in bounded memory: tile by tile, with the result of one pass.

The network's normalisations use statistics of the whole image, so tiles that were stylized separately would
not match. Here each normalisation sums its mean and variance over all tiles before the next layer starts. A
tile reads into its neighbours as far as the convolutions reach; only the borders of the image are reflected.

Maps at a half and a quarter of the image's size are computed once and kept: at most 96 bytes per pixel of the
photo, and 64 more where a network joins maps of the way down. Maps at full size are computed again where they
are used: a fifth more operations in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batch_nst.engine.fast_model.layers import Whitening, inverse_root
from batch_nst.engine.fast_model.transformer_net import TransformerNet, folded, unfolded

TILE = 512
"""Side of a tile in pixels, at every scale."""

Span = tuple[int, int]
"""First and last (exclusive) row or column."""


@torch.inference_mode()
def stylize_tiles(
    net: TransformerNet, image: Tensor, device: torch.device | str = "cpu", tile: int = TILE
) -> Tensor:
    """Stylize one image; the result differs from that of `stylize_image` by rounding only.

    Args:
        net: a network on `device`.
        image: uint8 (H, W, 3), RGB, H and W at least 16.
        device: where to compute.
        tile: side of a tile in pixels.

    Returns:
        uint8 RGB of the same shape, on the CPU.
    """
    (height, width, _), fold = image.shape, net.fold

    def photo(rows: Span, columns: Span) -> Tensor:
        part = image[_pixels(rows, fold), _pixels(columns, fold)].to(device)
        return folded(2 * (part.permute(2, 0, 1)[None].float() / 255) - 1, fold)

    x = _conv_norm(_Map(-(-height // fold), -(-width // fold), tile, photo), net.stem).then(F.relu)
    before, sizes = [], []
    for down in net.down:
        sizes.append((x.height, x.width))
        if net.skip:
            before.append(x)
        x = _conv_norm(x, down, keep=True).then(F.relu)
    for residual in net.residual:
        x = _kept(_sum(x, _branch(x, residual)))
    for up in net.up:
        x = _enlarged(x, *sizes.pop())
        x = _conv_norm(_joined(x, before.pop()) if net.skip else x, up, keep=bool(sizes)).then(F.relu)
    head = _convolved(x, net.head)
    stylized = torch.empty(image.shape, dtype=torch.uint8)
    for rows, columns in head.tiles():
        place = stylized[_pixels(rows, fold), _pixels(columns, fold)]
        contrast = unfolded(head.read(rows, columns).float(), fold, place.shape[0], place.shape[1])
        shown = (0.5 + 0.5 * contrast).clamp(0, 1) * 255
        place.copy_(shown.round().to(torch.uint8)[0].permute(1, 2, 0))
    return stylized


def _pixels(span: Span, fold: int) -> slice:
    """The pixels of a span of cells."""
    return slice(span[0] * fold, span[1] * fold)


@dataclass(frozen=True)
class _Map:
    """The feature map of an image at some depth of the network; any part of it can be read."""

    height: int
    width: int
    tile: int
    read: Callable[[Span, Span], Tensor]
    """Maps spans of rows and columns to values (1, C, rows, columns), on the device."""

    def tiles(self) -> Iterator[tuple[Span, Span]]:
        """Spans of rows and columns of each tile."""
        for top in range(0, self.height, self.tile):
            for left in range(0, self.width, self.tile):
                bottom, right = top + self.tile, left + self.tile
                yield (top, min(bottom, self.height)), (left, min(right, self.width))

    def then(self, function: Callable[[Tensor], Tensor]) -> _Map:
        """The map with an elementwise function applied."""
        return replace(self, read=lambda rows, columns: function(self.read(rows, columns)))


def _conv_norm(x: _Map, block: nn.Module, *, keep: bool = False) -> _Map:
    """A block that `transformer_net._conv_norm` made; `keep`: compute the convolution only once."""
    conv, norm = block.children()
    assert isinstance(conv, nn.Conv2d)
    convolved = _kept(_convolved(x, conv)) if keep else _convolved(x, conv)
    if isinstance(norm, Whitening):
        return _whitened(convolved, norm)
    assert isinstance(norm, nn.InstanceNorm2d | nn.BatchNorm2d)  # the same for one image
    return _normalised(convolved, norm)


def _branch(x: _Map, residual: nn.Module) -> _Map:
    """The map that a residual block adds to its input."""
    *inner, last = (part for part in residual.children() if isinstance(part, nn.Sequential))
    for block in inner:
        x = _conv_norm(x, block, keep=True).then(F.relu)
    return _conv_norm(x, last, keep=True)


def _convolved(x: _Map, conv: nn.Conv2d) -> _Map:
    """A convolution with an odd kernel, with reflection padding of half its size."""
    kernel, step = conv.kernel_size[0], conv.stride[0]
    reach = kernel // 2

    def needed(span: Span, length: int) -> tuple[Span, Span]:
        """The span to read from a side of this length, and how much to reflect before and after it."""
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
    """Normalised by mean and variance of the whole image, for which each tile is read once."""
    sums = squares = torch.zeros((), dtype=torch.float64)
    for rows, columns in x.tiles():
        values = x.read(rows, columns).float()
        # No other way is nearly as fast, in fp32. What differs from tile to tile is added up in fp64.
        found = torch.batch_norm_update_stats(values, None, None, 0)
        mean, variance = (each.cpu().double() for each in found)
        sums = sums + values[0, 0].numel() * mean
        squares = squares + values[0, 0].numel() * (variance + mean.square())
    mean = sums / (x.height * x.width)
    variance = (squares / (x.height * x.width) - mean.square()).clamp_min(0)
    gain = norm.weight.detach().cpu() / (variance + norm.eps).sqrt()
    shift = norm.bias.detach().cpu() - mean * gain
    scaled, shifted = (part.float()[:, None, None].to(norm.weight.device) for part in (gain, shift))
    return x.then(lambda values: values * scaled + shifted)


def _whitened(x: _Map, norm: Whitening) -> _Map:
    """Whitened by mean and covariance of the whole image, for which each tile is read once."""
    sums = products = torch.zeros((), dtype=torch.float64)
    for rows, columns in x.tiles():
        values = x.read(rows, columns)[0].flatten(1).float()
        mean = values.mean(1, keepdim=True)
        centred = values - mean
        with torch.autocast(values.device.type, enabled=False):
            product = centred @ centred.mT
        mean = mean[:, 0].cpu().double()
        sums = sums + values.shape[1] * mean
        products = products + product.cpu().double() + values.shape[1] * torch.outer(mean, mean)
    mean = sums / (x.height * x.width)
    covariance = products / (x.height * x.width) - torch.outer(mean, mean)
    weight, bias = (each.detach().cpu().double() for each in (norm.weight, norm.bias))
    gains = weight[:, None] * inverse_root(covariance[None])[0]
    shift = bias - gains @ mean
    kernel, shifts = (part.float().to(norm.weight.device) for part in (gains[:, :, None, None], shift))
    return x.then(lambda values: F.conv2d(values, kernel, shifts))


def _kept(x: _Map) -> _Map:
    """The same map, computed once and kept."""
    whole: Tensor | None = None
    for rows, columns in x.tiles():
        values = x.read(rows, columns)
        if whole is None:
            shape = (1, values.shape[1], x.height, x.width)
            layout = torch.channels_last
            whole = torch.empty(shape, dtype=values.dtype, device=values.device, memory_format=layout)
        whole[:, :, slice(*rows), slice(*columns)] = values
    assert whole is not None  # an image has pixels
    kept = whole
    return replace(x, read=lambda rows, columns: kept[:, :, slice(*rows), slice(*columns)])


def _sum(x: _Map, y: _Map) -> _Map:
    return replace(x, read=lambda rows, columns: x.read(rows, columns) + y.read(rows, columns))


def _joined(x: _Map, y: _Map) -> _Map:
    return replace(x, read=lambda rows, columns: torch.cat([x.read(rows, columns), y.read(rows, columns)], 1))


def _enlarged(x: _Map, height: int, width: int) -> _Map:
    """Nearest-neighbour upsampling by 2, cut to (height, width): odd sides were rounded up before."""

    def read(rows: Span, columns: Span) -> Tensor:
        (top, bottom), (left, right) = rows, columns
        few = x.read((top // 2, (bottom + 1) // 2), (left // 2, (right + 1) // 2))
        many = F.interpolate(few, scale_factor=2.0, mode="nearest")
        top, left = top - top % 2, left - left % 2
        return many[:, :, rows[0] - top : bottom - top, columns[0] - left : right - left]

    return replace(x, height=height, width=width, read=read)
