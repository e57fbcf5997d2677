"""Pictures of more than 8 bits a channel, from Pillow's image to sRGB over white.

Pillow keeps colours of 16 bits as 8. That is near enough where they are in sRGB already; a curve, alpha and
inks multiply what was lost. So the lower bytes are read in a second pass, and all arithmetic is done here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from batch_nst.data.images.colour import Space
from batch_nst.data.images.tiff import EXTRA_SAMPLES, tag

Deep: TypeAlias = npt.NDArray[np.uint16]
"""A picture of 16 bits: (H, W, channels)."""
Pixels: TypeAlias = npt.NDArray[np.uint8] | Deep
"""The same, of 8 bits or of 16."""

_LOWER: Final = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
"""The byte order that has the lower byte where this one has the upper; N is that of the machine."""
_PIXELS: Final = 1 << 18
"""Pixels that are worked on at a time."""


def rawmode(image: Image.Image) -> str:
    """Pillow's name for how the pixels of an image that is not loaded lie in its file; "" for others."""
    tile = getattr(image, "tile", None)
    args = tile[0].args if tile else None
    found = args[0] if isinstance(args, tuple) and args else args
    return found if isinstance(found, str) else ""


def loses_bits(image: Image.Image) -> bool:
    """Whether Pillow will cut the colours of an image that is not loaded from 16 bits to 8."""
    return image.mode in ("RGB", "RGBA", "CMYK") and ";16" in rawmode(image)


def is_deep(image: Image.Image) -> bool:
    """Whether 8 bits are too few for a profile of an image that is not loaded."""
    return image.mode == "F" or image.mode.startswith("I") or loses_bits(image) or is_associated(image)


def is_associated(image: Image.Image) -> bool:
    """Whether the colours of a TIFF have been multiplied by alpha."""
    return image.mode in ("RGBA", "La") and tag(image, EXTRA_SAMPLES, 0) == 1


def all_bits(open_again: Callable[[], ImageFile.ImageFile]) -> Pixels:
    """All bits of a picture that `is_deep` and not grey; with alpha, by which nothing has been divided.

    Args:
        open_again: opens it, without loading it.
    """
    image = open_again()
    raw, _, order = rawmode(image).partition(";16")
    if raw == "RGBa":  # Pillow would divide by alpha
        raw = "RGBA"
    if not order:
        return np.asarray(_loaded(image, raw))
    if raw == "LA":  # as if it were four channels of 8 bits
        image._mode = "RGBA"
        return np.asarray(_loaded(image, "RGBA")).view(">u2").astype(np.uint16)
    upper = np.asarray(_loaded(image, f"{raw};16{order}"))
    deep: Deep = upper.astype(np.uint16) * np.uint16(256)
    del upper, image
    deep += np.asarray(_loaded(open_again(), f"{raw};16{_LOWER[order]}"))
    return deep


def _loaded(image: ImageFile.ImageFile, raw: str) -> Image.Image:
    image.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *(tile.args or ())[1:]))
        for tile in image.tile
    ]
    image.load()
    return image


def over_white(
    deep: Pixels,
    space: Space | None,
    *,
    inks: bool = False,
    associated: bool = False,
    transparent: int | tuple[int, ...] | None = None,
) -> npt.NDArray[np.uint8]:
    """A picture of 8 or 16 bits in sRGB over white.

    Args:
        deep: one or three channels of light or, for inks, four; the one after them is alpha.
        space: what they mean; None: sRGB.
        inks: cyan, magenta, yellow and black.
        associated: colours have been multiplied by alpha.
        transparent: the colour that is not there at all.
    """
    height, width, _ = deep.shape
    flat = np.empty((height, width, 3), np.uint8)
    step = max(1, _PIXELS // width)
    for top in range(0, height, step):
        part = deep[top : top + step].astype(np.uint16)
        if deep.dtype == np.uint8:
            part *= np.uint16(257)
        flat[top : top + step] = np.rint(_levels(part, space, inks, associated, transparent))
    return flat


def _levels(
    part: Deep, space: Space | None, inks: bool, associated: bool, transparent: int | tuple[int, ...] | None
) -> npt.NDArray[np.float32]:
    """Grey levels, 0..255, of some rows; see `over_white`."""
    colours = 4 if inks else 3 if part.shape[2] >= 3 else 1
    colour = part[..., :colours]
    alpha: npt.NDArray[np.float32] = part[..., colours:].astype(np.float32) / np.float32(65535)
    if transparent is not None:
        alpha = (colour != np.array(transparent)).any(-1, keepdims=True).astype(np.float32)
    if associated:
        whole = np.divide(colour, alpha, out=np.zeros(colour.shape, np.float32), where=alpha > 0)
        colour = np.rint(np.minimum(whole, 65535)).astype(np.uint16)
    levels: npt.NDArray[np.float32] = colour.astype(np.float32) / np.float32(257)
    if inks:
        levels = (255 - levels[..., :3]) * (255 - levels[..., 3:]) / np.float32(255)
    elif space:
        levels = space.to_srgb(colour)
    if alpha.size:
        levels = levels * alpha + 255 * (1 - alpha)
    return levels
