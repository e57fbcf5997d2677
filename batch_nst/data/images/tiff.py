"""What Pillow overlooks in TIFF files: each is put right before the pixels are read, or refused."""

from __future__ import annotations

import sys
from io import BytesIO
from typing import Final

from PIL import Image, ImageFile, ImagePalette, TiffImagePlugin

from batch_nst.data.images.reasons import BadImage

NEW_SUBFILE_TYPE, BITS_PER_SAMPLE, PHOTOMETRIC, EXTRA_SAMPLES, SAMPLE_FORMAT = 254, 258, 262, 338, 339
_COMPRESSION, _PLANAR, _COLOUR_MAP = 259, 284, 320
_WEIGHTS, _FEWER_CHROMA, _RANGES = 529, 530, 532
_FULL: Final = (0, 255, 128, 255, 128, 255)
_SIGNED: Final = 2
_OLD_JPEG: Final = 6
_PLANES: Final = frozenset("RGBACMYK")
"""The planes of bytes that Pillow reads by itself."""
_BIG: Final = "B" if sys.byteorder == "big" else ""
_NATIVE: Final = {
    **dict.fromkeys(("I;16BS", "I;16S"), f"I;16{_BIG}S"),
    **dict.fromkeys(("I;32BS", "I;32S"), f"I;32{_BIG}S"),
    **dict.fromkeys(("F;32BF", "F;32F"), f"F;32{_BIG}F"),
    "I;16B": "I;16N",
}
"""What libtiff hands over in the byte order of the machine, and Pillow takes to be in that of the file."""


def tag(image: Image.Image, number: int, default: int) -> int:
    """First value of a TIFF tag; `default` where it is missing, as in all other formats."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else default


def in_planes(image: Image.Image) -> bool:
    """Whether each channel lies in a plane of its own."""
    return tag(image, _PLANAR, 1) == 2 and image.mode not in ("1", "L", "P", "F") and image.mode[0] != "I"


def layout(data: bytes) -> str:
    """How the pixels lie in a TIFF that Pillow does not open, for people.

    Raises:
        Exception: whatever Pillow raises where the tags are damaged.
    """
    big = data[2:4] in (b"+\0", b"\0+")
    tags, file = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if big else 8]), BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    bits, numbers = tags.get(BITS_PER_SAMPLE, (1,)), tags.get(SAMPLE_FORMAT, (1,))
    channels = " + ".join(map(str, bits if isinstance(bits, tuple) else (bits,)))
    kind = {1: "whole", _SIGNED: "signed", 3: "floating-point"}.get(numbers[0], "other")
    extra = f", ExtraSamples {tags[EXTRA_SAMPLES]}" if EXTRA_SAMPLES in tags else ""
    return f"{channels} bits of {kind} numbers, PhotometricInterpretation {tags.get(PHOTOMETRIC)}{extra}"


def arrange(image: ImageFile.ImageFile) -> None:
    """Let Pillow read the pixels of a TIFF as they are. Call it between opening and loading.

    Raises:
        BadImage: it cannot.
    """
    if tag(image, _COMPRESSION, 1) == _OLD_JPEG:
        raise BadImage("unsupported_colours", "TIFF with the JPEG of 1992, which decoders read variously")
    if image.mode == "L" and tag(image, SAMPLE_FORMAT, 1) == _SIGNED:
        raise BadImage("unsupported_colours", "TIFF of signed bytes")
    if in_planes(image) and image.mode in ("LA", "La", "PA", "LAB"):
        raise BadImage("unsupported_colours", f"TIFF with planes of {image.mode}")
    if image.tile[0].codec_name != "libtiff" and not _is_plain(image):
        _by_libtiff(image)
    tile = image.tile[0]
    if tile.codec_name == "libtiff" and isinstance(tile.args, tuple) and tile.args[0] in _NATIVE:
        image.tile = [tile._replace(args=(_NATIVE[tile.args[0]], *tile.args[1:]))]
    colours = getattr(image, "tag_v2", {}).get(_COLOUR_MAP)
    if image.mode in ("P", "PA") and colours and max(colours) < 256:  # old files have a map of bytes
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def _is_plain(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow itself reads the pixels of an uncompressed picture right."""
    if image.mode == "YCbCr":  # chroma of fewer pixels, of other weights, of another range
        tags = image.tag_v2  # type: ignore[attr-defined]
        fewer, ranges = tags.get(_FEWER_CHROMA, (2, 2)), tags.get(_RANGES, _FULL)
        return tuple(fewer) == (1, 1) and _WEIGHTS not in tags and tuple(ranges) == _FULL
    planes = {tile.args[0] for tile in image.tile if isinstance(tile.args, tuple)}
    return not in_planes(image) or (planes <= _PLANES and tag(image, BITS_PER_SAMPLE, 8) == 8)


def _by_libtiff(image: ImageFile.ImageFile) -> None:
    """Let libtiff read the pixels, which knows every layout."""
    TiffImagePlugin.READ_LIBTIFF = True
    try:
        image._setup()  # type: ignore[attr-defined]
    finally:
        TiffImagePlugin.READ_LIBTIFF = False
