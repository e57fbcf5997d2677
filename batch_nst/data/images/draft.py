"""Lets a large JPEG be decoded at a part of its size."""

from __future__ import annotations

from PIL import ImageFile


def make_draft(image: ImageFile.ImageFile, side: int) -> None:
    """Let a JPEG that is not loaded be decoded at 1/8, 1/4 or 1/2 of its size, or leave it as it is.

    Its centre square keeps its place: shifted by a part of a pixel, that of a sharp photo is 2 levels off.

    Args:
        image: the JPEG.
        side: least number of pixels that its short side keeps.
    """
    short, long = sorted(image.size)
    for part in (8, 4, 2):
        if short >= part * side and not (short % part or long % part or (long - short) // 2 % part):
            image.draft(None, (image.width // part, image.height // part))
            return
