"""The painting: read once, checked, scaled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from batch_nst.data.images.codec import Pixels, resize_short_side
from batch_nst.data.images.sandbox import Limits, decoder_for
from batch_nst.data.storage.fetch import fetch
from batch_nst.errors import RecipeError, StorageError
from batch_nst.recipe import Style

MAX_BYTES = 256 << 20
"""Of a painting's file."""
_LIMITS = Limits(min_side=16, max_bytes=MAX_BYTES, max_pixels=150_000_000, max_seconds=60)


@dataclass(frozen=True)
class StyleImage:
    """A style picture as the objective looks at it."""

    pixels: Pixels
    """(H, W, 3), scaled already."""
    digest: str
    """sha256 of the file; of the pixels where there is none."""

    @classmethod
    def of_pixels(cls, pixels: Pixels) -> StyleImage:
        """A picture that is in memory, and scaled."""
        return cls(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())


def read_style(style: Style) -> StyleImage:
    """The painting of a recipe: short side `style.size`, aspect kept, Lanczos.

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
