"""Paints a photo with a model: at which size, in whose colours, and how much of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from batch_nst.data.images.codec import Pixels, resize_short_side

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
    size: int | None = None
    """Short side in pixels at which the photo is painted, with strokes as large as in a photo of that size.
    None: its own."""

    def paint(self, photo: Pixels, model: Callable[[Pixels], Pixels]) -> Pixels:
        """The photo painted by a model, in the photo's size, uint8 (H, W, 3).

        Painted smaller, the picture is enlarged, and the detail that the smaller photo lacks is added to its
        luminance: what the photo loses when it is scaled down and up again (a level of a Laplacian pyramid,
        Burt and Adelson 1983).
        """
        own = min(photo.shape[:2])
        if self.size is None or self.size == own:
            return self.of(photo, model(photo))
        smaller = resize_short_side(photo, self.size)
        stylized = _as_large_as(photo, model(smaller))
        if self.size < own:
            blurred = _as_large_as(photo, smaller)
            for rows in _bands(photo):
                lost = _luminance(photo[rows].astype(np.float32) - blurred[rows])
                stylized[rows] = np.clip(np.rint(stylized[rows] + lost), 0, 255)
        return self.of(photo, stylized)

    def of(self, photo: Pixels, stylized: Pixels) -> Pixels:
        """The combined image; all three are uint8 (H, W, 3), sRGB. Rounded to the nearest."""
        if not self.keep_colors and self.strength == 1:
            return stylized
        shown = np.empty_like(photo)
        for rows in _bands(photo):
            shown[rows] = self._of(photo[rows].astype(np.float32), stylized[rows].astype(np.float32))
        return shown

    def _of(self, photo: npt.NDArray[np.float32], stylized: npt.NDArray[np.float32]) -> Pixels:
        if self.keep_colors:
            # With Cb and Cr fixed, Y moves red, green and blue equally; clipped where that leaves sRGB.
            stylized = np.clip(photo + _luminance(stylized - photo), 0, 255)
        mixed: Pixels = np.rint(photo + np.float32(self.strength) * (stylized - photo)).astype(np.uint8)
        return mixed


def _bands(photo: Pixels) -> list[slice]:
    """Its rows, `_BAND` at a time."""
    return [slice(top, top + _BAND) for top in range(0, len(photo), _BAND)]


def _as_large_as(photo: Pixels, picture: Pixels) -> Pixels:
    height, width, _ = photo.shape
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def _luminance(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Y of JPEG's YCbCr (ITU-R BT.601), (H, W, 1)."""
    return pixels @ np.array([[0.299], [0.587], [0.114]], np.float32)
