"""How a painting is shown beside its photo: in the photo's colours, and mixed with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batch_nst.data.images.codec import Pixels

_BAND = 256
"""Rows that are computed at once."""


@dataclass(frozen=True)
class Blend:
    """What is made of a painting and its photo."""

    keep_colors: bool = False
    """The painting gives the luminance, the photo the colours (Gatys et al. 2016, arXiv 1606.05897)."""
    strength: float = 1.0
    """0..1: 0 is the photo, 1 the painting, between them the mixture of their pixels."""

    def of(self, photo: Pixels, painting: Pixels) -> Pixels:
        """Uint8 (H, W, 3) sRGB, as both are; rounded to the nearest."""
        if self == Blend():
            return painting
        shown = np.empty_like(photo)
        for top in range(0, len(photo), _BAND):
            band = slice(top, top + _BAND)
            shown[band] = self._of(photo[band].astype(np.float32), painting[band].astype(np.float32))
        return shown

    def _of(self, photo: npt.NDArray[np.float32], painting: npt.NDArray[np.float32]) -> Pixels:
        if self.keep_colors:
            # Where Cb and Cr are kept, Y moves red, green and blue alike; clipped where that leaves sRGB.
            painting = np.clip(photo + _luminance(painting - photo), 0, 255)
        mixed: Pixels = np.rint(photo + np.float32(self.strength) * (painting - photo)).astype(np.uint8)
        return mixed


def _luminance(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Y of JPEG's YCbCr (ITU-R BT.601), (H, W, 1)."""
    return pixels @ np.array([[0.299], [0.587], [0.114]], np.float32)
