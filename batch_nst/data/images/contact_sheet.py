"""Picture grids: a contact sheet with one row for each photo."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageOps

from batch_nst.data.images.sandbox import stored_picture


def picture(data: bytes) -> Image.Image:
    """An encoded picture of any size, upright and in sRGB."""
    return Image.fromarray(stored_picture(data))


def jpeg(image: Image.Image) -> bytes:
    """A picture as a JPEG file of quality 92."""
    file = BytesIO()
    image.save(file, "JPEG", quality=92, subsampling="4:4:4")
    return file.getvalue()


def contact_sheet(rows: Sequence[Sequence[bytes]], side: int = 256, style: bytes | None = None) -> bytes:
    """A sheet of square pictures with one row per photo: photo, optimised image, stylized image.

    Args:
        rows: encoded pictures, at least one; each is cropped to a square at its centre.
        side: side of each picture in pixels; the gap between two is `max(1, side // 64)` pixels.
        style: an encoded style image to show uncropped above the rows, at most `2 * side` high.

    Returns:
        A JPEG file of quality 92.
    """
    gap = max(1, side // 64)
    step = side + gap
    width = max(len(row) for row in rows) * step - gap
    shown = ImageOps.contain(picture(style), (width, 2 * side)) if style else None
    top = shown.height + gap if shown else 0
    sheet = Image.new("RGB", (width, top + len(rows) * step - gap), "white")
    if shown:
        sheet.paste(shown, ((width - shown.width) // 2, 0))
    for y, row in enumerate(rows):
        for x, data in enumerate(row):
            sheet.paste(ImageOps.fit(picture(data), (side, side)), (x * step, top + y * step))
    return jpeg(sheet)
