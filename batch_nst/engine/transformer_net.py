"""The fast model: one forward pass paints a photo in the style that its weights were fitted to.

Johnson, Alahi, Fei-Fei 2016, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution" (arXiv
1603.08155), the layers of its supplementary material, table 1, with three departures, each common since:
instance instead of batch normalisation (Ulyanov et al. 2016, arXiv 1607.08022: better, and no image sees its
neighbours); nearest-neighbour enlargement before a convolution instead of a transposed convolution (Odena et
al. 2016: less of a checkerboard, see `engine.checkerboard`); reflection padding at every convolution, so that
any size fits, without a frame.

The small network differs in its residual blocks alone: bottlenecks (He et al. 2015, arXiv 1512.03385, figure
5), at half of the channels. It keeps Johnson's channels where a picture is largest.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from batch_nst.recipe import Network


class TransformerNet(nn.Module):
    """Image transformation network; an image's result depends on no other image of the batch.

    At `width` 32 it has 1,677,635 parameters, the small one 469,315.
    """

    def __init__(self, width: int = 32, network: Network = "johnson") -> None:
        """Draw the weights from torch's global generator.

        Args:
            width: channels at full resolution; 2 and 4 times as many at a half and a quarter of it.
            network: which residual blocks.
        """
        super().__init__()
        self.width, self.network = width, network
        block = _residual if network == "johnson" else _bottleneck
        self.stem = _conv_norm(3, width, kernel=9)
        self.down = nn.ModuleList(
            [_conv_norm(width, 2 * width, stride=2), _conv_norm(2 * width, 4 * width, stride=2)]
        )
        self.residual = nn.ModuleList(block(4 * width) for _ in range(5))
        self.up = nn.ModuleList([_conv_norm(4 * width, 2 * width), _conv_norm(2 * width, width)])
        self.head = nn.Conv2d(width, 3, 9, padding=4, padding_mode="reflect")

    def forward(self, image: Tensor) -> Tensor:
        """Paint a batch.

        Args:
            image: (B, 3, H, W), RGB in 0..1, any H and W from 16 pixels on, in any memory format; runs under
                bf16 autocast too.

        Returns:
            (B, 3, H, W) of the same dtype, RGB around 0..1. Not clamped: a clamp has no gradient where
            training needs one most. Who shows or stores it clamps.

        Raises:
            RuntimeError: from torch, when a side is too short to be reflected.
        """
        # Centred because bf16 is finest around 0; normalisation takes any other shift or gain out again.
        x = F.relu(self.stem(2 * image - 1))
        sizes = []
        for down in self.down:
            sizes.append(x.shape[2:])
            x = F.relu(down(x))
        for residual in self.residual:
            x = x + residual(x)
        for up in self.up:
            # An odd side was rounded up on the way down, so that the last row or column is one too many.
            height, width = sizes.pop()
            x = F.relu(up(F.interpolate(x, scale_factor=2.0, mode="nearest")[:, :, :height, :width]))
        # Normalised features through torch's default weights have a standard deviation near 0.4: untrained,
        # the result is mid-grey give or take 0.2, the contrast of a photo, so that Adam's first steps shape
        # the picture instead of finding its range. No tanh (the paper's): its gradient dies at the extremes.
        # The sum is taken in the image's dtype: a bf16 number around 0.75 has steps of a grey level.
        painted: Tensor = self.head(x).to(image.dtype)
        return 0.5 + 0.5 * painted


def _conv_norm(channels_in: int, channels: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """(B, channels_in, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride)), normalised by image."""
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(
            channels_in,
            channels,
            kernel,
            stride,
            padding,
            # torch would copy what is padded by nothing.
            padding_mode="reflect" if padding else "zeros",
            # The normalisation would take it out again.
            bias=False,
        ),
        nn.InstanceNorm2d(channels, affine=True),
    )


def _residual(channels: int) -> nn.Sequential:
    """What a residual block adds to its input; same shape; no ReLU after the sum (Gross and Wilber 2016)."""
    return nn.Sequential(_conv_norm(channels, channels), nn.ReLU(), _conv_norm(channels, channels))


def _bottleneck(channels: int) -> nn.Sequential:
    """The same with a third of the operations: one 3x3 convolution, between half as many channels."""
    half = channels // 2
    return nn.Sequential(
        _conv_norm(channels, half, kernel=1),
        nn.ReLU(),
        _conv_norm(half, half),
        nn.ReLU(),
        _conv_norm(half, channels, kernel=1),
    )
