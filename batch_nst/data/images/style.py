"""The style image: read once, checked and scaled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from batch_nst.data.images.codec import Pixels, resize_short_side
from batch_nst.data.images.sandbox import Limits, decoder_for
from batch_nst.data.storage.fetch import fetch
from batch_nst.errors import RecipeError, StorageError
from batch_nst.recipe import Style

MAX_BYTES = 256 << 20
"""Maximum size of a style image's file in bytes."""
_LIMITS = Limits(min_side=16, max_bytes=MAX_BYTES, max_pixels=150_000_000, max_seconds=60)


@dataclass(frozen=True)
class StyleImage:
    """A style image as the objective uses it."""

    pixels: Pixels
    """uint8 (H, W, 3), scaled already."""
    digest: str
    """sha256 of the file; of the pixels for an image without a file."""

    @classmethod
    def of_pixels(cls, pixels: Pixels) -> StyleImage:
        """A style image from scaled pixels in memory."""
        return cls(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())


def read_style(style: Style) -> StyleImage:
    """The style image of a recipe: short side `style.size`, aspect kept, Lanczos.

    Raises:
        RecipeError: it cannot be read or is not an image.
    """
    try:
        data = fetch(style.image, MAX_BYTES)
        picture = decoder_for(_LIMITS).picture(data)
    except (OSError, ValueError, StorageError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(
            f"style.image: {style.image}: {reason}; allowed: a readable JPEG, PNG, WebP, GIF, TIFF or BMP"
        ) from error
    return StyleImage(resize_short_side(picture, style.size), hashlib.sha256(data).hexdigest())
