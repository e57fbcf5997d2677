"""The fast model: one forward pass stylizes a photo in the style that the network was trained on.

Johnson, Alahi, Fei-Fei 2016, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution" (arXiv
1603.08155), layers as in table 1 of its supplementary material, with three departures that are now common:

- Instance instead of batch normalisation (Ulyanov et al. 2016, arXiv 1607.08022): better results, and images
  of a batch do not influence each other.
- Nearest-neighbour upsampling and a convolution instead of a transposed convolution (Odena et al. 2016): less
  of a checkerboard artefact, see `image_metrics.checkerboard`.
- Reflection padding at every convolution, so that any size fits and no border is lost.

The small network differs only in its residual blocks: bottlenecks (He et al. 2015, arXiv 1512.03385, figure
5) with half of the channels. It keeps Johnson's channels at full resolution.

The half network has no maps at full resolution, whose normalisations and 9 x 9 convolutions take more time
than their operations: it folds each 2 x 2 pixels into the channels of one, and unfolds its result (Shi et al.
2016, arXiv 1609.05158).

The white network is the half one with its last map whitened, see `layers.Whitening`.

The skip network has Johnson's maps with smaller ends. It joins each doubled map with the one of its size on
the way down (Ronneberger et al. 2015, arXiv 1505.04597), which brings the photo's outlines back, and whitens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batch_nst.engine.fast_model.layers import Convolution, Whitening
from batch_nst.engine.fast_model.network import NORM_EPSILON, RESIDUAL_BLOCKS, SHAPES
from batch_nst.recipe import Network


class TransformerNet(nn.Module):
    """Image transformation network; images of a batch do not influence each other.

    With `width` 32 it has 1,677,635 parameters; small has 469,315, half and white 1,616,972, skip 1,712,963.

    Attributes:
        fold: side of the square of pixels that become the channels of one.
        white: whether maps are whitened after a doubling.
        skip: whether a doubled map is joined with the one of its size before the halving.
    """

    def __init__(self, width: int = 32, network: Network = "johnson") -> None:
        """Draw the weights from torch's global generator.

        Args:
            width: channels of the first convolution; at a quarter of the image, four times as many.
            network: one of `NETWORKS`.
        """
        super().__init__()
        self.width, self.network = width, network
        shape = SHAPES[network]
        self.fold, self.white, self.skip = shape.fold, shape.white, shape.skip
        self.stem = _conv_norm(shape.colours, width, shape.ends)
        halvings, doublings = shape.halvings(width), shape.doublings(width)
        self.down = nn.ModuleList(_conv_norm(given, made, stride=2) for given, made in halvings)
        deepest = halvings[-1][1]
        self.residual = nn.ModuleList(_branch(shape.block(deepest)) for _ in range(RESIDUAL_BLOCKS))
        self.up = nn.ModuleList(_conv_norm(given, made, white=shape.white) for given, made in doublings)
        self.head = Convolution(doublings[-1][1], shape.colours, shape.ends)

    def forward(self, image: Tensor) -> Tensor:
        """Stylize a batch. Also works under bf16 autocast.

        Args:
            image: (B, 3, H, W), RGB in 0..1, H and W at least 16, in any memory format.

        Returns:
            (B, 3, H, W) of the same dtype, RGB around 0..1. It is not clamped, because a clamp has no
            gradient where training needs one most; callers that show or store the image clamp it.

        Raises:
            RuntimeError: from torch, if a side is too short to be reflected.
        """
        # Centred because bf16 is most precise around 0; normalisation removes any other shift or gain.
        x = F.relu(self.stem(folded(2 * image - 1, self.fold)))
        sizes, skipped = [], []
        for down in self.down:
            sizes.append(x.shape[2:])
            skipped += [x] * self.skip
            x = F.relu(down(x))
        for residual in self.residual:
            x = x + residual(x)
        for up in self.up:
            # An odd side was rounded up on the way down, so the last row or column is cut off here.
            height, width = sizes.pop()
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")[:, :, :height, :width]
            x = F.relu(up(torch.cat([x, skipped.pop()], 1) if self.skip else x))
        # Normalised features through torch's default weights have a standard deviation near 0.4. An untrained
        # result is thus mid-grey with a deviation of 0.2, the contrast of a photo, and Adam's first steps
        # shape the image instead of finding its range. No tanh as in the paper: its gradient vanishes at the
        # extremes. The sum is taken in the image's dtype: bf16 around 0.75 has steps of one grey level.
        contrast = unfolded(self.head(x).to(image.dtype), self.fold, image.shape[2], image.shape[3])
        return 0.5 + 0.5 * contrast


def folded(image: Tensor, side: int) -> Tensor:
    """(B, C, H, W) to (B, C side^2, ceil(H / side), ceil(W / side)); odd sides are reflected first."""
    if side == 1:
        return image
    height, width = image.shape[2:]
    return F.pixel_unshuffle(F.pad(image, (0, -width % side, 0, -height % side), mode="reflect"), side)


def unfolded(cells: Tensor, side: int, height: int, width: int) -> Tensor:
    """The inverse of `folded`: (B, C, height, width)."""
    return cells if side == 1 else F.pixel_shuffle(cells, side)[:, :, :height, :width]


def _conv_norm(
    channels_in: int, channels: int, kernel: int = 3, *, stride: int = 1, white: bool = False
) -> nn.Sequential:
    """(B, channels_in, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride)), normalised per image."""
    return nn.Sequential(
        Convolution(channels_in, channels, kernel, stride=stride, bias=False),  # normalising would remove it
        Whitening(channels) if white else nn.InstanceNorm2d(channels, NORM_EPSILON, affine=True),
    )


def _branch(convolutions: list[tuple[int, int, int]]) -> nn.Sequential:
    """The branch of a residual block; same shape. No ReLU follows the sum (Gross and Wilber 2016)."""
    first, *others = (_conv_norm(*each) for each in convolutions)
    return nn.Sequential(first, *(layer for each in others for layer in (nn.ReLU(), each)))
