"""Every kind of file that a bucket of photos holds, made here, and what must become of each: one table.

`docs/photos.md` shows the same table to people, and a test holds the two together.
"""

import base64
import struct
import zlib
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

LIMITS = {"min_side": 8, "max_bytes": 1 << 20, "max_pixels": 1 << 20}
MAX_SECONDS = 0.5
"""What the table is true for; `generate` has limits for real photos."""
HEIGHT, WIDTH = 48, 64


def scene(height=HEIGHT, width=WIDTH, seed=0):
    """Smooth colours, a little noise and a mark at the top left: no symmetry, and kind to JPEG."""
    down, across = np.mgrid[0:height, 0:width]
    planes = [120 + 100 * np.sin(across / 9 + i) * np.cos(down / 11 - i) for i in range(3)]
    noise = np.random.default_rng(seed).normal(0, 2, (height, width, 3))
    pixels = np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)
    pixels[2:12, 2:18] = 250, 20, 20
    return pixels


PHOTO = scene()
RGB = Image.fromarray(PHOTO)
GREY = RGB.convert("L")


def save(image, format, **settings):
    file = BytesIO()
    image.copy().save(file, format, **settings)  # JPEG leaves traces in an image that TIFF trips over
    return file.getvalue()


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows, *chunks):
    """A PNG of anything: `rows` are the raw lines without filter bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    length = len(rows) // height if height and rows else 0
    filtered = b"".join(b"\0" + rows[at : at + length] for at in range(0, len(rows), length or 1))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, body)
        for kind, body in (
            (b"IHDR", header),
            *chunks,
            (b"IDAT", zlib.compress(filtered)),
            (b"IEND", b""),
        )
    )


def icc(space, tags, name=b"test"):
    """A version 2 ICC profile; `space` and the keys of `tags` are four bytes."""
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    pcs = b"Lab " if space == b"CMYK" else b"XYZ "
    description = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(1 + 4 + 4 + 2 + 1 + 67)
    white = struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061)
    tags = {b"desc": description, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": white, **tags}
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(
        ">I4s4s4s4s4s12x4s", start + len(body), b"lcms", b"\2\x10\0\0", kind, space, pcs, b"acsp"
    )
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body


def curve(gamma):
    return b"curv" + bytes(4) + struct.pack(">IHH", 1, round(gamma * 256), 0)


def matrix_profile(*columns, gamma=2.2, name=b"test"):
    """An RGB profile from the XYZ (D50) of its primaries."""
    tags = {}
    for letter, xyz in zip(b"rgb", columns, strict=True):
        values = (round(value * 65536) for value in xyz)
        tags[b"%cXYZ" % letter] = struct.pack(">4s4x3i", b"XYZ ", *values)
        tags[b"%cTRC" % letter] = curve(gamma)
    return icc(b"RGB ", tags, name)


# XYZ (D50) of red, green and blue.
ADOBE_COLUMNS = (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)
P3_COLUMNS = (0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)
SRGB_COLUMNS = (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)
ADOBE_RGB, DISPLAY_P3 = matrix_profile(*ADOBE_COLUMNS), matrix_profile(*P3_COLUMNS)
LINEAR_RGB = matrix_profile(*SRGB_COLUMNS, gamma=1.0)
NAMED_SRGB = matrix_profile(*SRGB_COLUMNS, gamma=1.0, name=b"sRGB IEC61966-2.1")
LINEAR_GREY = icc(b"GRAY", {b"kTRC": curve(1.0)})


def cmyk_profile():
    """Every ink turns the paper the same neutral: L* falls by 25 for each of the four."""
    identity = bytes(range(256))
    nodes = b"".join(bytes([255 - 63 * bin(node).count("1"), 128, 128]) for node in range(16))
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + nodes + identity * 3
    return icc(b"CMYK", {b"A2B0": lut})


def half(image):
    """An image through which the ground shows by half."""
    image = image.copy()
    image.putalpha(128)
    return image


def see_through(number):
    """The palette picture with one transparent colour, and how it looks on white."""
    index = np.asarray(PALETTE)
    return {"transparency": number}, np.where((index == number)[..., None], 255, PALETTE3)


OVER_WHITE = np.rint(PHOTO * (128 / 255) + 255 * (127 / 255)).astype(np.uint8)
GREY3 = np.repeat(np.asarray(GREY)[..., None], 3, -1)
GREY_OVER_WHITE = np.rint(GREY3 * (128 / 255) + 127).astype(np.uint8)
DEEP = np.asarray(GREY).astype(np.uint16) * 257
BLACK_WHITE = GREY.convert("1", dither=Image.Dither.NONE)
BLACK_WHITE3 = np.array(BLACK_WHITE.convert("RGB"))
PALETTE = RGB.quantize(64)
PALETTE3 = np.array(PALETTE.convert("RGB"))
TRANSPARENT, ON_WHITE = see_through(5)
JPEG = save(RGB, "JPEG", quality=92)
PNG = save(RGB, "PNG")


def segments(jpeg):
    """The parts of a JPEG, each with its marker; the last begins with the first scan."""
    parts, at = [jpeg[:2]], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        parts.append(jpeg[at:end])
        at = end
    return [*parts, jpeg[at:]]


def doubled(*markers):
    """The JPEG with all parts of these markers twice."""
    return b"".join(part * (1 + (part[1] in markers)) for part in segments(JPEG))


def tiff(tags, body):
    """A TIFF of whole-number tags whose `body` begins at byte 400."""
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory + bytes(4)
    return head.ljust(400, b"\0") + body


GREY_TAGS = {256: WIDTH, 257: HEIGHT, 258: 8, 262: 1, 277: 1}
IN_STRIPS = {**GREY_TAGS, 273: 400, 278: HEIGHT}
DEFLATED = zlib.compress(GREY.tobytes())


def in_planes():
    """The photo as a TIFF of 16 bits with one plane for each colour: offsets and lengths lie behind them."""
    size, behind = 2 * WIDTH * HEIGHT, 400 + 6 * WIDTH * HEIGHT
    data = bytearray(tiff({**IN_STRIPS, 258: 16, 262: 2, 277: 3, 279: behind + 12, 284: 2}, b""))
    for number, at in ((273, behind), (279, behind + 12)):
        entry = data.index(struct.pack("<HHI", number, 4, 1))
        data[entry : entry + 12] = struct.pack("<HHII", number, 4, 3, at)
    planes = np.moveaxis(PHOTO, -1, 0).astype("<u2") * 257
    return (
        bytes(data) + planes.tobytes() + struct.pack("<6I", *(400 + i * size for i in range(3)), *[size] * 3)
    )


def cmyk(adobe):
    """The photo as a CMYK JPEG, inks inverted, with Adobe's mark or without."""
    parts = segments(save(RGB.convert("CMYK"), "JPEG", quality=95))
    return b"".join(part for part in parts if adobe or part[1] != 0xEE)


def ycck():
    """The photo as Adobe stores CMYK as luma and chroma: of the inks' inverse, and black beside them."""
    planes = [255 - np.asarray(Image.fromarray(255 - PHOTO).convert("YCbCr")), np.zeros((HEIGHT, WIDTH, 1))]
    image = Image.fromarray(np.concatenate(planes, -1).astype(np.uint8), "CMYK")
    data = bytearray(save(image, "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def lab():
    profiles = [ImageCms.createProfile(space) for space in ("sRGB", "LAB")]
    return ImageCms.profileToProfile(RGB, *profiles, outputMode="LAB")


def in_srgb(photo, columns, gamma=2.2):
    """Pixels of a matrix profile in sRGB, by arithmetic."""
    linear = (photo / 255.0) ** gamma @ np.array(columns) @ np.linalg.inv(np.array(SRGB_COLUMNS))
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def turned(orientation):
    """A JPEG that a viewer turns upright by its EXIF orientation."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that leads from upright to stored
    stored = RGB.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else RGB
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(stored, "JPEG", quality=95, subsampling=0, exif=exif.tobytes())


def many_scans(count, side=1024):
    """A progressive JPEG that says the same again and again, which costs its reader some 0.1 ms a time."""

    def segment(marker, body):
        return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(body)) + body

    blocks = (side // 8) ** 2
    assert blocks == 2**14
    symbols = {0x00: 0x00, 0x10: 0xE0}  # no change of the mean; an end of 2**14 blocks
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, b"\0" + b"\1" * 64),
            segment(0xC2, struct.pack(">BHHB3B", 8, side, side, 1, 1, 0x11, 0)),
            *(segment(0xC4, bytes([table, 1, *[0] * 15, symbol])) for table, symbol in symbols.items()),
            segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(blocks // 8),
            (segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + b"\0\1") * count,
            b"\xff\xd9",
        ]
    )


# By libjpeg's cjpeg -arithmetic; Pillow cannot write it.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIx"
    "wcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/yQALCAAwAEABAREA/8wABgAQEAX/2gAIAQEAAD8A/wDKeEWBKGX+X/tRZOp5"
    "WNbceHB7Abi++7EcnySg2VovxPg24jJKAF9coWkdnwbgkgab2PNRA8RFgJVJuPm2Wlot3/eNNSWYmoYY0v8A6OosdV"
    "hg/9k="
)
RAMP = np.repeat(np.add.outer(2 * np.arange(HEIGHT), 2 * np.arange(WIDTH))[..., None], 3, -1)


class Kind(NamedTuple):
    """A photo, and what must become of it."""

    data: bytes
    status: str
    reason: str | None
    looks: np.ndarray | None = None
    """The picture as the eye should see it."""
    apart: int = 0
    """Greatest difference from that in grey levels."""
    name: str | None = None
    """Of the file, where that is what is odd."""


def ok(data, looks, apart=0, name=None):
    return Kind(data, "ok", None, looks, apart, name)


def rejected(reason, data):
    return Kind(data, "rejected", reason)


VANISHED, FORBIDDEN = "an object that vanished after it was listed", "an object without permission"

KINDS = {
    # nothing, or something else
    "an empty file": rejected("empty", b""),
    "one byte": rejected("not_an_image", b"\xff"),
    "zeros": rejected("not_an_image", bytes(4096)),
    "random bytes": rejected("not_an_image", np.random.default_rng(3).bytes(4096)),
    "a text": rejected("not_an_image", b"BMW, a text that begins like a BMP file does"),
    "an HTML error page": rejected("not_an_image", b"<!DOCTYPE html><html><body>404</body></html>"),
    "a PDF": rejected("not_an_image", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
    "a sound": rejected("not_an_image", b"RIFF\x24\0\0\0WAVEfmt "),
    "HEIC": rejected("unsupported_format", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)),
    "AVIF": rejected(
        "unsupported_format", save(RGB, "AVIF") if "AVIF" in Image.SAVE else b"\0\0\0\x1cftypavif"
    ),
    "camera raw, Canon": rejected("unsupported_format", b"II*\0\x10\0\0\0CR\x02\0" + bytes(99)),
    "camera raw in a TIFF": rejected("unsupported_format", save(RGB, "TIFF", tiffinfo={254: 1})),
    **{
        name: rejected("unsupported_format", save(RGB, format))
        for name, format in {
            "JPEG 2000": "JPEG2000",
            "PNM": "PPM",
            "TGA": "TGA",
            "Windows icon": "ICO",
            "DDS": "DDS",
            "PCX": "PCX",
            "SGI": "SGI",
            "QOI": "QOI",
            "PostScript": "EPS",
            "Apple icon": "ICNS",
        }.items()
    },
    "wrong extension, PNG called .jpg": ok(PNG, PHOTO, name="png.jpg"),
    # damaged
    **{
        f"{name}, cut at {percent} %": rejected("truncated", data[: len(data) * percent // 100])
        for name, data in {"JPEG": JPEG, "PNG": PNG, "WebP": save(RGB, "WEBP")}.items()
        for percent in (10, 50, 99)
    },
    "PNG, only its signature": rejected("truncated", PNG[:8]),
    "JPEG, zeros from the middle": rejected("truncated", JPEG[: len(JPEG) // 2].ljust(len(JPEG), b"\0")),
    "PNG, zeros from the middle": rejected("truncated", PNG[: len(PNG) // 2].ljust(len(PNG), b"\0")),
    "PNG, wrong checksum": rejected("corrupt", PNG[:-40] + bytes([PNG[-40] ^ 1]) + PNG[-39:]),
    "GIF, nonsense after its signature": rejected("corrupt", b"GIF89a" + b"\xff" * 200),
    "JPEG, APP, DQT and DHT markers twice": ok(doubled(0xE0, 0xDB, 0xC4), PHOTO, 90),
    "JPEG, two frame headers": rejected("corrupt", doubled(0xC0)),
    "JPEG, two starts": rejected("corrupt", JPEG[:2] + JPEG),
    "JPEG, something after its end": ok(
        JPEG + b"a film that the phone appended", np.array(Image.open(BytesIO(JPEG)))
    ),
    "TIFF, strips of zero bytes": ok(tiff({**IN_STRIPS, 259: 1, 279: 0}, GREY.tobytes()), GREY3),
    "TIFF, deflated strips of zero bytes": ok(tiff({**IN_STRIPS, 259: 8, 279: 0}, DEFLATED), GREY3),
    "TIFF, strips of zero bytes and no pixels": rejected(
        "truncated", tiff({**IN_STRIPS, 259: 1, 279: 0}, b"")
    ),
    # too small, too large
    "1 x 1": rejected("too_small", save(RGB.resize((1, 1)), "PNG")),
    "1 x 10,000": rejected("too_small", save(RGB.resize((1, 10_000)), "PNG")),
    "10,000 x 1": rejected("too_small", save(RGB.resize((10_000, 1)), "JPEG")),
    "30,000 x 30,000 (a bomb)": rejected("too_many_pixels", png(30_000, 30_000, 8, 2, b"")),
    "more bytes than generate.max_bytes": rejected("too_many_bytes", PNG + bytes(1 << 20)),
    "TIFF, one tile of a gigapixel": rejected(
        "needs_memory",
        tiff({**GREY_TAGS, 259: 8, 322: 1 << 15, 323: 1 << 15, 324: 400, 325: len(DEFLATED)}, DEFLATED),
    ),
    "JPEG of 60,000 scans": rejected("decoder_timeout", many_scans(60_000)),
    "PNG, a text of 900 KB": ok(
        png(WIDTH, HEIGHT, 8, 2, PHOTO.tobytes(), (b"tEXt", b"Comment\0" + b"x" * 900_000)), PHOTO
    ),
    "PNG, a text of 80 MB when inflated": ok(
        png(WIDTH, HEIGHT, 8, 2, PHOTO.tobytes(), (b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20)))), PHOTO
    ),
    "PNG, a profile of 80 MB when inflated": rejected(
        "corrupt",
        png(WIDTH, HEIGHT, 8, 2, PHOTO.tobytes(), (b"iCCP", b"k\0\0" + zlib.compress(bytes(80 << 20)))),
    ),
    # formats
    "JPEG": ok(JPEG, PHOTO, 90),
    "JPEG, progressive": ok(save(RGB, "JPEG", quality=92, progressive=True), PHOTO, 90),
    "JPEG, arithmetic coding": ok(ARITHMETIC, RAMP, 2),
    "JPEG of several pictures (MPO)": ok(
        save(RGB, "MPO", save_all=True, append_images=[GREY.copy()], quality=92), PHOTO, 90
    ),
    "PNG": ok(PNG, PHOTO),
    "BMP": ok(save(RGB, "BMP"), PHOTO),
    "TIFF": ok(save(RGB, "TIFF"), PHOTO),
    "TIFF, LZW": ok(save(RGB, "TIFF", compression="tiff_lzw"), PHOTO),
    "TIFF of two pages": ok(save(RGB, "TIFF", save_all=True, append_images=[GREY.copy()]), PHOTO),
    "WebP": ok(save(RGB, "WEBP", quality=95), PHOTO, 120),
    "WebP, lossless": ok(save(RGB, "WEBP", lossless=True), PHOTO),
    "GIF": ok(save(PALETTE, "GIF"), PALETTE3),
    "GIF, animated": ok(save(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180)]), PALETTE3),
    "WebP, animated": ok(
        save(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)], lossless=True), PHOTO
    ),
    "PNG, animated": ok(save(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)]), PHOTO),
    # grey, palettes, transparency
    "PNG, grey of 1 bit": ok(save(BLACK_WHITE, "PNG"), BLACK_WHITE3),
    "PNG, grey of 8 bits": ok(save(GREY, "PNG"), GREY3),
    "PNG, grey of 16 bits": ok(save(Image.fromarray(DEEP), "PNG"), GREY3, 1),
    "JPEG, grey": ok(save(GREY, "JPEG", quality=95), GREY3, 20),
    "TIFF, grey of 1 bit": ok(save(BLACK_WHITE, "TIFF", compression="group4"), BLACK_WHITE3),
    "TIFF, grey of 16 bits": ok(save(Image.fromarray(DEEP), "TIFF"), GREY3, 1),
    "TIFF, grey of 16 bits, big-endian": ok(save(Image.fromarray(DEEP.astype(">u2")), "TIFF"), GREY3, 1),
    "TIFF, grey of 32 bits": ok(
        save(Image.fromarray((DEEP.astype(np.int64) * 32768).astype(np.int32)), "TIFF"), GREY3, 1
    ),
    "TIFF, floating point, 0..1": ok(
        save(Image.fromarray((np.asarray(GREY) / 255).astype(np.float32)), "TIFF"), GREY3
    ),
    "TIFF, floating point, 0..255": ok(save(GREY.convert("F"), "TIFF"), GREY3),
    "PNG, colours of 16 bits": ok(png(WIDTH, HEIGHT, 16, 2, (PHOTO.astype(">u2") * 257).tobytes()), PHOTO, 1),
    "PNG, palette": ok(save(PALETTE, "PNG"), PALETTE3),
    "PNG, palette, one colour transparent": ok(save(PALETTE, "PNG", **TRANSPARENT), ON_WHITE),
    "GIF, one colour transparent": ok(save(PALETTE, "GIF", **TRANSPARENT), ON_WHITE),
    "PNG, grey and alpha": ok(save(half(GREY), "PNG"), GREY_OVER_WHITE, 1),
    "PNG, colours and alpha": ok(save(half(RGB), "PNG"), OVER_WHITE, 1),
    "WebP, colours and alpha": ok(save(half(RGB), "WEBP", lossless=True, exact=True), OVER_WHITE, 1),
    "TIFF, colours and alpha": ok(save(half(RGB), "TIFF"), OVER_WHITE, 1),
    "PNG, grey of 1 bit, white transparent": ok(save(BLACK_WHITE, "PNG", transparency=1), BLACK_WHITE3),
    "PNG, grey of 16 bits, one value transparent": ok(
        png(
            *(WIDTH, HEIGHT, 16, 0, DEEP.astype(">u2").tobytes()),
            (b"tRNS", struct.pack(">H", DEEP[20, 20])),
        ),
        np.where((DEEP[20, 20] == DEEP)[..., None], 255, GREY3),
        1,
    ),
    "PNG, one colour transparent": ok(
        save(RGB, "PNG", transparency=(250, 20, 20)),
        np.where((PHOTO == (250, 20, 20)).all(-1, keepdims=True), 255, PHOTO),
    ),
    # colours of printers, and profiles
    "JPEG, CMYK inverted as Adobe does": ok(cmyk(adobe=True), PHOTO, 30),
    "JPEG, CMYK without Adobe's marker": ok(cmyk(adobe=False), PHOTO, 30),
    "JPEG, YCCK": ok(ycck(), PHOTO, 30),
    "TIFF, CMYK": ok(save(RGB.convert("CMYK"), "TIFF"), PHOTO, 1),
    "TIFF, YCbCr": ok(save(RGB.convert("YCbCr"), "TIFF"), PHOTO, 4),
    "TIFF, CIELab": ok(save(lab(), "TIFF"), PHOTO, 16),
    "PNG, sRGB profile": ok(
        save(RGB, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        PHOTO,
    ),
    "PNG, wide-gamut profile (Adobe RGB)": ok(
        save(RGB, "PNG", icc_profile=ADOBE_RGB), in_srgb(PHOTO, ADOBE_COLUMNS), 3
    ),
    "PNG, wide-gamut profile (Display P3)": ok(
        save(RGB, "PNG", icc_profile=DISPLAY_P3), in_srgb(PHOTO, P3_COLUMNS), 3
    ),
    "PNG, broken profile": ok(save(RGB, "PNG", icc_profile=b"no profile at all"), PHOTO),
    "PNG, profile of another colour space": ok(save(RGB, "PNG", icc_profile=LINEAR_GREY), PHOTO),
    "PNG, a linear profile that is called sRGB": ok(
        save(RGB, "PNG", icc_profile=NAMED_SRGB), in_srgb(PHOTO, SRGB_COLUMNS, 1), 1
    ),
    "PNG, gAMA of linear light": ok(
        png(WIDTH, HEIGHT, 8, 2, PHOTO.tobytes(), (b"gAMA", struct.pack(">I", 100_000))),
        in_srgb(PHOTO, SRGB_COLUMNS, 1),
        1,
    ),
    "PNG, cICP of high dynamic range": rejected(
        "unsupported_colours", png(WIDTH, HEIGHT, 8, 2, PHOTO.tobytes(), (b"cICP", bytes([9, 16, 0, 1])))
    ),
    "TIFF, a plane of 16 bits for each colour": ok(in_planes(), PHOTO, 1),
    # EXIF
    **{f"JPEG, EXIF orientation {turn}": ok(turned(turn), PHOTO, 45) for turn in range(1, 9)},
    "JPEG, broken EXIF": ok(save(RGB, "JPEG", quality=92, exif=b"Exif\0\0not a TIFF header"), PHOTO, 90),
    "PNG, broken EXIF": ok(save(RGB, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), PHOTO),
    "PNG, EXIF cut off": ok(save(RGB, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\0"), PHOTO),
    # names and places
    "a name with spaces": ok(PNG, PHOTO, name="two  words.png"),
    "a name with #": ok(PNG, PHOTO, name="a#1.png"),
    "a name with %": ok(PNG, PHOTO, name="100%20%zz.png"),
    "a name with ? and &": ok(PNG, PHOTO, name="a?b=1&c.png"),
    "a name in unicode": ok(PNG, PHOTO, name="snö ☃ 日本.png"),
    "a name with a newline": ok(PNG, PHOTO, name="two\nlines.png"),
    VANISHED: Kind(PNG, "failed", "vanished"),
    FORBIDDEN: Kind(PNG, "failed", "forbidden"),
}


def file_name(kind):
    """What a kind's file is called in a folder or bucket of all of them."""
    return KINDS[kind].name or f"{list(KINDS).index(kind):03}.jpg"
