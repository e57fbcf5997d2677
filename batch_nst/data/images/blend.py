"""Blends a stylized image with its photo: in the photo's colours, and mixed with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batch_nst.data.images.codec import Pixels

_BAND = 256
"""Number of rows that are computed at a time."""


@dataclass(frozen=True)
class Blend:
    """How a stylized image and its photo are combined.

    Blend(keep_colors=True, strength=0.5).of(photo, stylized)
    """

    keep_colors: bool = False
    """Keep the photo's colours; stylize only its luminance (Gatys et al. 2016, arXiv 1606.05897)."""
    strength: float = 1.0
    """Weight of the stylized image's pixels, 0..1; the photo's have the rest."""

    def of(self, photo: Pixels, stylized: Pixels) -> Pixels:
        """The combined image; all three are uint8 (H, W, 3), sRGB. Rounded to the nearest."""
        if self == Blend():
            return stylized
        shown = np.empty_like(photo)
        for top in range(0, len(photo), _BAND):
            band = slice(top, top + _BAND)
            shown[band] = self._of(photo[band].astype(np.float32), stylized[band].astype(np.float32))
        return shown

    def _of(self, photo: npt.NDArray[np.float32], stylized: npt.NDArray[np.float32]) -> Pixels:
        if self.keep_colors:
            # With Cb and Cr fixed, Y moves red, green and blue equally; clipped where that leaves sRGB.
            stylized = np.clip(photo + _luminance(stylized - photo), 0, 255)
        mixed: Pixels = np.rint(photo + np.float32(self.strength) * (stylized - photo)).astype(np.uint8)
        return mixed


def _luminance(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Y of JPEG's YCbCr (ITU-R BT.601), (H, W, 1)."""
    return pixels @ np.array([[0.299], [0.587], [0.114]], np.float32)
