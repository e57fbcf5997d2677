"""Identifies the format of a file by its first bytes, and whether its end is missing."""

from __future__ import annotations

import struct
from typing import Final

from batch_nst.data.images.reasons import BadImage

_READ: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
"""First bytes and Pillow's name of the formats that are read; WebP and BMP need further checks."""

_KNOWN: Final = (
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftypcrx ", "Canon CR3 camera raw"),
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"heim", b"hevc", b"mif1", b"msf1")),
    (8, b"CR\x02\0", "Canon CR2 camera raw"),
    (0, b"FUJIFILMCCD-RAW", "Fujifilm camera raw"),
    (0, b"IIRO", "Olympus camera raw"),
    (0, b"IIU\0", "Panasonic camera raw"),
    (0, b"8BPS", "Photoshop"),
    (0, b"gimp xcf", "GIMP"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"\0\0\1\0", "Windows icon"),
    (0, b"\0\0\2\0", "Windows cursor"),
    (0, b"icns", "Apple icon"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"v/1\1", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\1\xda", "SGI"),
    (0, b"\x0a\x05\1", "PCX"),
    (0, b"/* XPM */", "XPM"),
    (0, b"BLP1", "BLP"),
    (0, b"BLP2", "BLP"),
    *((0, b"P%d%c" % (number, space), "PNM") for number in range(1, 8) for space in b"\n\r\t "),
    (-18, b"TRUEVISION-XFILE.\0", "TGA"),
)
"""Offset (negative from the end), bytes and name of the formats that are refused by name."""


def identify(data: bytes) -> str:
    """Pillow's name of an allowed format, by magic bytes only: the rest of the file may be broken.

    Raises:
        BadImage: the format is not allowed or unknown.
    """
    # Before TIFF: Canon's raw files are TIFF files whose first picture is a preview.
    for offset, magic, name in _KNOWN:
        start = offset if offset >= 0 else len(data) + offset
        if start >= 0 and data.startswith(magic, start):
            raise BadImage("unsupported_format", f"{name}; read: JPEG, PNG, WebP, GIF, TIFF, BMP")
    for magic, kind in _READ:
        if data.startswith(magic):
            return kind
    if data.startswith(b"RIFF") and data.startswith(b"WEBP", 8):
        return "WEBP"
    if data.startswith(b"BM") and data.startswith(b"\0\0\0", 15):  # a text may start with BM too
        return "BMP"
    raise BadImage("not_an_image", f"begins with the bytes {data[:8].hex(' ')}")


def lacks_end(kind: str, data: bytes) -> bool:
    """Whether a file lacks the end marker of its format; False for formats without one."""
    if kind == "JPEG":
        at = 2
        while data[at : at + 1] == b"\xff" and (marker := data[at + 1 : at + 2]) != b"\xda":
            # Up to the first scan, since thumbnails in the header have end markers too.
            fill, again = marker == b"\xff", marker == b"\xd8"
            at += 1 if fill else 2 if again else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        return data.find(b"\xff\xd9", at) < 0
    if kind == "PNG":
        return b"IEND" not in data
    if kind == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return False


_ORIENTING: Final = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
"""First bytes of the PNG texts in which Pillow looks for the orientation."""


def without_texts(data: bytes) -> bytes:
    """A PNG without the texts that are not needed; Pillow refuses pictures with long ones."""
    kept, start, at = [], 0, 8
    while len(chunk := data[at : at + 8]) == 8:
        length, kind = struct.unpack(">I4s", chunk)
        end = at + 12 + length
        if kind in (b"tEXt", b"zTXt", b"iTXt") and not data.startswith(_ORIENTING, at + 8):
            kept.append(data[start:at])
            start = end
        at = end
    return b"".join([*kept, data[start:]]) if kept else data


def chunk(data: bytes, name: bytes) -> bytes | None:
    """The body of a chunk of a PNG, if it stands before the pixels; None without it."""
    at = 8
    while len(head := data[at : at + 8]) == 8 and head[4:] != b"IDAT":
        length, kind = struct.unpack(">I4s", head)
        if kind == name:
            return data[at + 8 : at + 8 + length]
        at += 12 + length
    return None
