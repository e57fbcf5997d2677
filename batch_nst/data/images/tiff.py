"""What Pillow overlooks in TIFF files: each is put right before the pixels are read, or refused."""

from __future__ import annotations

import sys
from typing import Final

from PIL import Image, ImageFile, ImagePalette

from batch_nst.data.images.reasons import BadImage

NEW_SUBFILE_TYPE, BITS_PER_SAMPLE, PHOTOMETRIC, EXTRA_SAMPLES, SAMPLE_FORMAT = 254, 258, 262, 338, 339
_COMPRESSION, _PLANAR, _COLOUR_MAP = 259, 284, 320
_SIGNED: Final = 2
_YCBCR: Final = 6
_PLANES: Final = frozenset("RGBACMYK")
"""The planes of bytes that Pillow reads by itself."""
_NATIVE: Final = "I;16BS", "I;16S", "I;32BS", "I;32S", "F;32BF", "F;32F", "I;16B"
"""What libtiff hands over in the byte order of the machine, and Pillow takes to be in that of the file."""


def tag(image: Image.Image, number: int, default: int) -> int:
    """First value of a TIFF tag; `default` where it is missing, as in all other formats."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else default


def in_planes(image: Image.Image) -> bool:
    """Whether each channel lies in a plane of its own."""
    return tag(image, _PLANAR, 1) == 2 and image.mode not in ("1", "L", "P", "F") and image.mode[0] != "I"


def arrange(image: ImageFile.ImageFile) -> None:
    """Let Pillow read the pixels of a TIFF as they are. Call it between opening and loading.

    Raises:
        BadImage: it cannot.
    """
    codec, _, _, args = image.tile[0]
    raw = args[0] if isinstance(args, tuple) else ""
    signed = tag(image, SAMPLE_FORMAT, 1) == _SIGNED
    if image.mode == "L" and signed:
        raise BadImage("unsupported_colours", "TIFF of signed bytes")
    if in_planes(image) and image.mode in ("LA", "La", "PA", "LAB"):
        raise BadImage("unsupported_colours", f"TIFF with planes of {image.mode}")
    if image.mode == "YCbCr":  # may have fewer pixels of chroma, which only libtiff knows
        image._mode = "RGB"
        _by_libtiff(image, "RGBX")
    elif in_planes(image) and codec != "libtiff" and not _of_bytes(image):
        _by_libtiff(image, image.mode if tag(image, BITS_PER_SAMPLE, 8) == 8 else f"{image.mode};16N")
    elif codec == "libtiff" and raw in _NATIVE:
        kind, bits = raw.split(";")
        big = "B" if sys.byteorder == "big" else ""
        _by_libtiff(image, f"{kind};{bits[:2]}{big}{bits[2:].lstrip('B')}")
    colours = getattr(image, "tag_v2", {}).get(_COLOUR_MAP)
    if image.mode in ("P", "PA") and colours and max(colours) < 256:  # old files have a map of bytes
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def _of_bytes(image: ImageFile.ImageFile) -> bool:
    """Whether an uncompressed picture in planes is one that Pillow reads right."""
    planes = {tile.args[0] for tile in image.tile if isinstance(tile.args, tuple)}
    return planes <= _PLANES and tag(image, BITS_PER_SAMPLE, 8) == 8


def _by_libtiff(image: ImageFile.ImageFile, raw: str) -> None:
    """Let libtiff read the pixels, which knows every layout, and take them as `raw`."""
    size = tag(image, 256, 0), tag(image, 257, 0)
    args = (raw, False, image.tag_v2.offset)  # type: ignore[attr-defined]
    image.tile = [image.tile[0]._replace(codec_name="libtiff", extents=(0, 0, *size), offset=0, args=args)]
    image.use_load_libtiff = True  # type: ignore[attr-defined]
