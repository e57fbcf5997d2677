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
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from batch_nst.engine.convolution import Convolution
from batch_nst.recipe import Network


class TransformerNet(nn.Module):
    """Image transformation network; images of a batch do not influence each other.

    With `width` 32 it has 1,677,635 parameters; the small network has 469,315.
    """

    def __init__(self, width: int = 32, network: Network = "johnson") -> None:
        """Draw the weights from torch's global generator.

        Args:
            width: channels at full resolution; there are 2 and 4 times as many at a half and a quarter of it.
            network: kind of residual blocks: `johnson` or `small`.
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
        self.head = Convolution(width, 3, 9)

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
        x = F.relu(self.stem(2 * image - 1))
        sizes = []
        for down in self.down:
            sizes.append(x.shape[2:])
            x = F.relu(down(x))
        for residual in self.residual:
            x = x + residual(x)
        for up in self.up:
            # An odd side was rounded up on the way down, so the last row or column is cut off here.
            height, width = sizes.pop()
            x = F.relu(up(F.interpolate(x, scale_factor=2.0, mode="nearest")[:, :, :height, :width]))
        # Normalised features through torch's default weights have a standard deviation near 0.4. An untrained
        # result is thus mid-grey with a deviation of 0.2, the contrast of a photo, and Adam's first steps
        # shape the image instead of finding its range. No tanh as in the paper: its gradient vanishes at the
        # extremes. The sum is taken in the image's dtype: bf16 around 0.75 has steps of one grey level.
        contrast: Tensor = self.head(x).to(image.dtype)
        return 0.5 + 0.5 * contrast


def _conv_norm(channels_in: int, channels: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """(B, channels_in, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride)), normalised per image."""
    return nn.Sequential(
        Convolution(channels_in, channels, kernel, stride=stride, bias=False),  # normalising would remove it
        nn.InstanceNorm2d(channels, affine=True),
    )


def _residual(channels: int) -> nn.Sequential:
    """The branch of a residual block; same shape. No ReLU follows the sum (Gross and Wilber 2016)."""
    return nn.Sequential(_conv_norm(channels, channels), nn.ReLU(), _conv_norm(channels, channels))


def _bottleneck(channels: int) -> nn.Sequential:
    """A branch with a third of the operations: one 3x3 convolution, on half of the channels."""
    half = channels // 2
    return nn.Sequential(
        _conv_norm(channels, half, kernel=1),
        nn.ReLU(),
        _conv_norm(half, half),
        nn.ReLU(),
        _conv_norm(half, channels, kernel=1),
    )
