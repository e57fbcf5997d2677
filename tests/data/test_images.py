"""Every kind of file that a bucket of photos holds, made here, and what must become of it."""

import pickle
import resource
import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from batch_nst.data.images import (
    REASONS,
    BadImage,
    crop,
    decode,
    decode_stored,
    encode,
    resize_short_side,
)

LIMITS = {"min_side": 8, "max_bytes": 1 << 20, "max_pixels": 1 << 20}
HEIGHT, WIDTH = 48, 64


def _photo(height=HEIGHT, width=WIDTH, seed=0):
    """Smooth colours, a little noise and a mark at the top left: no symmetry, and kind to JPEG."""
    down, across = np.mgrid[0:height, 0:width]
    planes = [120 + 100 * np.sin(across / 9 + i) * np.cos(down / 11 - i) for i in range(3)]
    noise = np.random.default_rng(seed).normal(0, 2, (height, width, 3))
    pixels = np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)
    pixels[2:12, 2:18] = 250, 20, 20
    return pixels


PHOTO = _photo()
RGB = Image.fromarray(PHOTO)
GREY = RGB.convert("L")


def _save(image, format, **settings):
    file = BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def _decode(data, **limits):
    return decode(data, **(LIMITS | limits))


def _reason(data, **limits):
    """The reason of a refusal, or "ok"; checks what holds for every file on the way."""
    try:
        pixels = _decode(data, **limits)
    except BadImage as error:
        bad = error
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.flags.writeable
        return "ok"
    assert bad.reason in REASONS
    assert bad.detail
    assert "\n" not in bad.detail
    assert "0x" not in bad.detail  # an address would differ each time
    return bad.reason


def _apart(a, b):
    """Greatest difference of two pictures, in grey levels."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def _mean_apart(a, b):
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def _png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width, height, depth, colour, rows, *chunks):
    """A PNG of anything: `rows` are the raw lines without filter bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    length = len(rows) // height if height and rows else 0
    filtered = b"".join(b"\0" + rows[at : at + length] for at in range(0, len(rows), length or 1))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _png_chunk(kind, body)
        for kind, body in (
            (b"IHDR", header),
            *chunks,
            (b"IDAT", zlib.compress(filtered)),
            (b"IEND", b""),
        )
    )


def _icc(space, tags):
    """A version 2 ICC profile; `space` and the keys of `tags` are four bytes."""
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    pcs = b"Lab " if space == b"CMYK" else b"XYZ "
    text = b"test"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(1 + 4 + 4 + 2 + 1 + 67)
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


def _curve(gamma):
    return b"curv" + bytes(4) + struct.pack(">IHH", 1, round(gamma * 256), 0)


def _matrix_profile(*columns, gamma=2.2):
    """An RGB profile from the XYZ (D50) of its primaries."""
    tags = {}
    for letter, xyz in zip(b"rgb", columns, strict=True):
        values = (round(value * 65536) for value in xyz)
        tags[b"%cXYZ" % letter] = struct.pack(">4s4x3i", b"XYZ ", *values)
        tags[b"%cTRC" % letter] = _curve(gamma)
    return _icc(b"RGB ", tags)


ADOBE_RGB = _matrix_profile(
    (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)
)
DISPLAY_P3 = _matrix_profile(
    (0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)
)
LINEAR_RGB = _matrix_profile(
    (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410), gamma=1.0
)
LINEAR_GREY = _icc(b"GRAY", {b"kTRC": _curve(1.0)})


def _cmyk_profile():
    """Every ink turns the paper the same neutral: L* falls by 25 for each of the four."""
    identity = bytes(range(256))
    nodes = b"".join(bytes([255 - 63 * bin(node).count("1"), 128, 128]) for node in range(16))
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + nodes + identity * 3
    return _icc(b"CMYK", {b"A2B0": lut})


# Refused -------------------------------------------------------------------------------------------------

JPEG = _save(RGB, "JPEG", quality=92)
PNG = _save(RGB, "PNG")

REFUSED = {
    "empty": (b"", "empty"),
    "one byte": (b"\xff", "not_an_image"),
    "zeros": (bytes(4096), "not_an_image"),
    "text": (b"BMW, a text that begins like a BMP file does", "not_an_image"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "not_an_image"),
    "random": (np.random.default_rng(3).bytes(4096), "not_an_image"),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt ", "not_an_image"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "unsupported_format"),
    "avif": (_save(RGB, "AVIF") if "AVIF" in Image.SAVE else b"\0\0\0\x1cftypavif", "unsupported_format"),
    "canon raw": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(99), "unsupported_format"),
    "camera raw": (_save(RGB, "TIFF", tiffinfo={254: 1}), "unsupported_format"),
    "only a signature": (b"\x89PNG\r\n\x1a\n", "truncated"),
    "bomb": (_png(30_000, 30_000, 8, 2, b""), "too_many_pixels"),
    "text bomb": (
        _png(16, 16, 8, 2, bytes(768), (b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20)))),
        "corrupt",
    ),
    "checksum": (PNG[:-40] + bytes([PNG[-40] ^ 1]) + PNG[-39:], "corrupt"),
    "wrong header": (b"GIF89a" + b"\xff" * 200, "corrupt"),
    "jpeg, zeros from the middle": (JPEG[: len(JPEG) // 2].ljust(len(JPEG), b"\0"), "truncated"),
    "png, zeros from the middle": (PNG[: len(PNG) // 2].ljust(len(PNG), b"\0"), "truncated"),
}
for _format in ("JPEG2000", "PPM", "TGA", "ICO", "DDS", "PCX", "SGI", "QOI", "EPS", "ICNS"):
    REFUSED[_format] = (_save(RGB, _format), "unsupported_format")


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    data, reason = REFUSED[name]
    assert _reason(data) == reason


def test_refused_by_name():
    with pytest.raises(BadImage, match="unsupported_format: HEIC"):
        _decode(REFUSED["heic"][0])


def test_limits():
    assert _reason(PNG, max_bytes=len(PNG) - 1) == "too_many_bytes"
    assert _reason(PNG, max_bytes=len(PNG)) == "ok"
    assert _reason(PNG, max_pixels=HEIGHT * WIDTH - 1) == "too_many_pixels"
    assert _reason(PNG, max_pixels=HEIGHT * WIDTH) == "ok"
    assert _reason(PNG, min_side=HEIGHT + 1) == "too_small"
    assert _reason(PNG, min_side=HEIGHT) == "ok"


@pytest.mark.parametrize("side", [9_600, 30_000])  # Pillow warns of the first, and refuses the second
@pytest.mark.parametrize("depth", [1, 16])
def test_bombs_take_no_memory(side, depth):
    data = _png(side, side, depth, 0, b"")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert _reason(data) == "too_many_pixels"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_pillows_own_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)  # it warns
    assert _reason(PNG) == "ok"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)  # it refuses
    assert _reason(PNG) == "too_many_pixels"


def test_limits_come_before_pixels():
    assert _reason(PNG[:60], max_pixels=1) == "too_many_pixels"
    assert _reason(PNG[:60], min_side=100) == "too_small"


CUT = {
    "jpeg": JPEG,
    "progressive": _save(RGB, "JPEG", quality=92, progressive=True),
    "cmyk jpeg": _save(RGB.convert("CMYK"), "JPEG"),
    "png": PNG,
    "webp": _save(RGB, "WEBP"),
    "webp lossless": _save(RGB, "WEBP", lossless=True),
    "gif": _save(RGB.quantize(64), "GIF"),
    "bmp": _save(RGB, "BMP"),
    "tiff": _save(RGB, "TIFF"),
    "tiff lzw": _save(RGB, "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", CUT)
def test_cut_files_are_never_half_a_picture(name):
    data = CUT[name]
    whole = _decode(data)
    for length in {len(data) * percent // 100 for percent in (10, 25, 50, 75, 90, 99)}:
        assert _reason(data[:length]) in ("truncated", "corrupt"), length
    for length in range(len(data) - 40, len(data)):  # the last bytes may hold no pixel
        if _reason(data[:length]) == "ok":
            np.testing.assert_array_equal(_decode(data[:length]), whole)


@pytest.mark.parametrize("name", ["jpeg", "progressive", "png", "webp", "gif"])
def test_a_file_cut_in_half_is_called_truncated(name):
    reason = _reason(CUT[name][: len(CUT[name]) // 2])
    assert reason == "truncated"


def test_zeros_after_a_broken_upload_are_no_grey_blocks():
    """Of some of these, depending on where the cut falls, libjpeg makes a picture without a word."""
    pillow_takes = 0
    for length in range(len(JPEG) // 3, len(JPEG) - 2, 7):
        zeros = JPEG[:length].ljust(len(JPEG), b"\0")
        assert _reason(zeros) == "truncated"
        try:
            Image.open(BytesIO(zeros)).load()
        except OSError:
            continue
        pillow_takes += 1
    assert pillow_takes


def test_thumbnails_do_not_hide_a_missing_end():
    header = b"\xff\xe1" + struct.pack(">H", 2 + len(JPEG)) + JPEG
    for fill in (b"", b"\xff\xff"):  # bytes that may stand before any marker
        start = JPEG[:2] + fill + header + fill
        assert _reason(start + JPEG[2:]) == "ok"
        for length in range(len(JPEG) // 3, len(JPEG) - 2, 7):
            assert _reason(start + JPEG[2:length].ljust(len(JPEG), b"\0")) == "truncated"


# Read ----------------------------------------------------------------------------------------------------

OVER_WHITE = np.rint(PHOTO * (128 / 255) + 255 * (127 / 255)).astype(np.uint8)
GREY3 = np.repeat(np.asarray(GREY)[..., None], 3, -1)
DEEP = np.asarray(GREY).astype(np.uint16) * 257
BLACK_WHITE = GREY.convert("1", dither=Image.Dither.NONE)
BLACK_WHITE3 = np.array(BLACK_WHITE.convert("RGB"))
PALETTE = RGB.quantize(64)
PALETTE3 = np.array(PALETTE.convert("RGB"))


def _half(image):
    image = image.copy()
    image.putalpha(128)
    return image


def _see_through(number):
    """The palette picture with one transparent colour, and how it looks on white."""
    index = np.asarray(PALETTE)
    return {"transparency": number}, np.where((index == number)[..., None], 255, PALETTE3)


def _deep_rgb():
    return PHOTO.astype(">u2") * 257


TRANSPARENT, ON_WHITE = _see_through(5)
GREY_OVER_WHITE = np.rint(GREY3 * (128 / 255) + 127).astype(np.uint8)

READ = {
    # name: the file, how it looks, greatest difference
    "png": (PNG, PHOTO, 0),
    "bmp": (_save(RGB, "BMP"), PHOTO, 0),
    "tiff": (_save(RGB, "TIFF"), PHOTO, 0),
    "tiff lzw": (_save(RGB, "TIFF", compression="tiff_lzw"), PHOTO, 0),
    "tiff two pages": (_save(RGB, "TIFF", save_all=True, append_images=[GREY]), PHOTO, 0),
    "webp lossless": (_save(RGB, "WEBP", lossless=True), PHOTO, 0),
    "jpeg": (JPEG, PHOTO, 90),
    "jpeg grey": (_save(GREY, "JPEG", quality=95), GREY3, 20),
    "jpeg progressive": (CUT["progressive"], PHOTO, 90),
    "jpeg and more": (JPEG + b"a film that the phone appended", np.array(Image.open(BytesIO(JPEG))), 0),
    "jpeg cmyk": (_save(RGB.convert("CMYK"), "JPEG", quality=95), PHOTO, 30),
    "mpo": (_save(RGB, "MPO", save_all=True, append_images=[GREY], quality=92), PHOTO, 90),
    "png grey": (_save(GREY, "PNG"), GREY3, 0),
    "png grey, alpha": (_save(_half(GREY), "PNG"), GREY_OVER_WHITE, 1),
    "png 1 bit": (_save(BLACK_WHITE, "PNG"), BLACK_WHITE3, 0),
    "tiff 1 bit": (_save(BLACK_WHITE, "TIFF", compression="group4"), BLACK_WHITE3, 0),
    "png alpha": (_save(_half(RGB), "PNG"), OVER_WHITE, 1),
    "webp alpha": (_save(_half(RGB), "WEBP", lossless=True, exact=True), OVER_WHITE, 1),
    "tiff alpha": (_save(_half(RGB), "TIFF"), OVER_WHITE, 1),
    "png palette": (_save(PALETTE, "PNG"), PALETTE3, 0),
    "png palette, transparent": (_save(PALETTE, "PNG", **TRANSPARENT), ON_WHITE, 0),
    "gif": (_save(PALETTE, "GIF"), PALETTE3, 0),
    "gif transparent": (_save(PALETTE, "GIF", **TRANSPARENT), ON_WHITE, 0),
    "gif animated": (_save(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180)]), PALETTE3, 0),
    "webp animated": (
        _save(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)], lossless=True),
        PHOTO,
        0,
    ),
    "apng": (_save(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)]), PHOTO, 0),
    "png 16 bits grey": (_save(Image.fromarray(DEEP), "PNG"), GREY3, 1),
    "png 16 bits rgb": (_png(WIDTH, HEIGHT, 16, 2, _deep_rgb().tobytes()), PHOTO, 1),
    "tiff 16 bits grey": (_save(Image.fromarray(DEEP), "TIFF"), GREY3, 1),
    "tiff 16 bits big-endian": (_save(Image.fromarray(DEEP.astype(">u2")), "TIFF"), GREY3, 1),
    "tiff 32 bits": (
        _save(Image.fromarray((DEEP.astype(np.int64) * 32768).astype(np.int32)), "TIFF"),
        GREY3,
        1,
    ),
    "tiff float 0..1": (
        _save(Image.fromarray((np.asarray(GREY) / 255).astype(np.float32)), "TIFF"),
        GREY3,
        0,
    ),
    "tiff float 0..255": (_save(GREY.convert("F"), "TIFF"), GREY3, 0),
    "tiff cmyk": (_save(RGB.convert("CMYK"), "TIFF"), PHOTO, 1),
    "tiff ycbcr": (_save(RGB.convert("YCbCr"), "TIFF"), PHOTO, 4),
    "png 16 bits grey, one value transparent": (
        _png(WIDTH, HEIGHT, 16, 0, DEEP.astype(">u2").tobytes(), (b"tRNS", struct.pack(">H", DEEP[20, 20]))),
        np.where((DEEP[20, 20] == DEEP)[..., None], 255, GREY3),
        1,
    ),
    "png rgb, one colour transparent": (
        _save(RGB, "PNG", transparency=(250, 20, 20)),
        np.where((PHOTO == (250, 20, 20)).all(-1, keepdims=True), 255, PHOTO),
        0,
    ),
    "png 1 bit, white transparent": (_save(BLACK_WHITE, "PNG", transparency=1), BLACK_WHITE3, 0),
    "png profile broken": (_save(RGB, "PNG", icc_profile=b"no profile at all"), PHOTO, 0),
    "png profile of another space": (_save(RGB, "PNG", icc_profile=LINEAR_GREY), PHOTO, 0),
    "png profile srgb": (
        _save(RGB, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        PHOTO,
        0,
    ),
    "jpeg exif broken": (_save(RGB, "JPEG", quality=92, exif=b"Exif\0\0not a TIFF header"), PHOTO, 90),
    "png exif broken": (_save(RGB, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), PHOTO, 0),
    "png exif cut": (_save(RGB, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\0"), PHOTO, 0),
}


@pytest.mark.parametrize("name", READ)
def test_read(name):
    data, expected, apart = READ[name]
    assert _reason(data) == "ok"
    pixels = _decode(data)
    assert _apart(pixels, expected) <= apart
    assert _mean_apart(pixels, expected) <= 3  # the loose bounds are for single pixels of a JPEG


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(format, orientation):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that leads from upright to stored
    stored = RGB.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else RGB
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(format, {})
    pixels = _decode(_save(stored, format, exif=exif.tobytes(), **lossless))
    assert _apart(pixels, PHOTO) <= (45 if format == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_impossible_orientation_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(_decode(_save(RGB, "PNG", exif=exif.tobytes())), PHOTO)


def test_white_is_zero():
    data = bytearray(_save(Image.fromarray(DEEP), "TIFF"))
    at = data.index(struct.pack("<HHIH", 262, 3, 1, 1))
    data[at + 8] = 0
    assert _apart(_decode(bytes(data)), 255 - GREY3) <= 1


def test_unsigned_32_bits():
    values = np.asarray(GREY).astype(np.uint32) * 0x01010101
    data = bytearray(_save(Image.fromarray(values.view(np.int32)), "TIFF"))
    signed = data.index(struct.pack("<HHIH", 339, 3, 1, 2))
    data[signed + 8] = 1
    np.testing.assert_array_equal(_decode(bytes(data)), GREY3)


def test_twelve_bits():
    """Two 12-bit values in three bytes, as scanners write them."""
    values = np.asarray(GREY).astype(np.uint32) * 4095 // 255
    even, odd = values[:, ::2], values[:, 1::2]
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], -1).astype(np.uint8).tobytes()
    tags = [(256, WIDTH), (257, HEIGHT), (258, 12), (259, 1), (262, 1), (273, 134), (277, 1), (278, HEIGHT)]
    tags.append((279, len(packed)))
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory + bytes(4)
    assert _apart(_decode(head.ljust(134, b"\0") + packed), GREY3) <= 1


def test_floats_that_are_no_numbers():
    pixels = np.full((16, 16), 0.5, np.float32)
    pixels[0, :4] = np.nan, np.inf, -np.inf, -3
    row = _decode(_save(Image.fromarray(pixels), "TIFF"))[0, :, 0]
    np.testing.assert_array_equal(row[:5], [0, 255, 0, 0, 128])


def test_lab():
    """CIELab TIFF: L* in the first byte, a* and b* signed."""
    colours = [(255, 0, 0), (0, 0, 0), (137, 0, 0), (137, 80, 67 & 255)]
    lab = Image.frombytes("LAB", (64, 16), bytes(np.repeat([colours], 16, 1).astype(np.uint8)) * 16)
    pixels = _decode(_save(lab, "TIFF"))[0, ::16].astype(int)
    assert _apart(pixels[:2], np.array([[255, 255, 255], [0, 0, 0]])) <= 1
    assert np.ptp(pixels[2]) <= 1  # neutral
    assert abs(pixels[2, 0] - 128) <= 2  # L* 53.7 is the middle grey of sRGB
    assert pixels[3, 0] > 220  # and with these a* and b* it is red
    assert pixels[3, 1] < 60


def test_adobe_ycck():
    """Ink values, stored inverted as Adobe does, once as CMYK and once as YCbCr and K: the same picture."""
    ink = np.array([200, 50, 20, 30])
    y, cb, cr = Image.new("RGB", (1, 1), tuple(int(v) for v in ink[:3])).convert("YCbCr").getpixel((0, 0))
    cmyk = _save(Image.new("CMYK", (32, 32), tuple(int(v) for v in ink)), "JPEG", quality=100)
    # Pillow inverts what it saves; what shall lie in the file is Y, Cb, Cr and the inverted K.
    planes = (255 - y, 255 - cb, 255 - cr, 30)
    ycck = bytearray(_save(Image.new("CMYK", (32, 32), planes), "JPEG", quality=100))
    transform = ycck.index(b"Adobe") + 11
    assert ycck[transform] == 0
    ycck[transform] = 2
    expected = np.broadcast_to(np.rint((255 - ink[:3]) * (255 - ink[3]) / 255), (32, 32, 3))
    assert _apart(_decode(cmyk), expected) <= 2
    assert _apart(_decode(bytes(ycck)), expected) <= 3


@pytest.mark.parametrize("profile", [ADOBE_RGB, DISPLAY_P3], ids=["Adobe RGB", "Display P3"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_wide_gamut_profiles(profile, format):
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(format, {})
    grey = _decode(
        _save(Image.new("RGB", (16, 16), (119, 119, 119)), format, icc_profile=profile, **lossless)
    )
    assert _apart(grey, np.full((16, 16, 3), 119)) <= 3  # neutral stays neutral
    flat = Image.new("RGB", (16, 16), (90, 160, 90))
    green = _decode(_save(flat, format, icc_profile=profile, **lossless))[0, 0].astype(int)
    assert green[0] < 80  # the same numbers mean a stronger green than in sRGB: less red
    assert 155 <= green[1] <= 170


def test_profile_and_alpha():
    data = _save(_half(Image.new("RGB", (16, 16), (90, 160, 90))), "PNG", icc_profile=ADOBE_RGB)
    opaque = _decode(_save(Image.new("RGB", (16, 16), (90, 160, 90)), "PNG", icc_profile=ADOBE_RGB))
    assert _apart(_decode(data), np.rint(opaque * (128 / 255) + 127)) <= 1


def test_rgb_profile_on_grey():
    """Linear light 0.5 is 188 in sRGB."""
    data = _save(Image.new("L", (16, 16), 128), "PNG", icc_profile=LINEAR_RGB)
    assert _apart(_decode(data), np.full((16, 16, 3), 188)) <= 2


def test_grey_profile():
    for image in (Image.new("L", (16, 16), 128), Image.new("LA", (16, 16), (128, 255))):
        pixels = _decode(_save(image, "PNG", icc_profile=LINEAR_GREY))
        assert _apart(pixels, np.full((16, 16, 3), 188)) <= 2


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_profile(format):
    """By the profile cyan alone is a light grey; without it, cyan."""
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert _decode(_save(cyan, format))[0, 0, 0] < 10
    pixels = _decode(_save(cyan, format, icc_profile=_cmyk_profile()))[0, 0].astype(int)
    assert np.ptp(pixels) <= 2
    assert 170 < pixels[0] < 200  # L* 75


# Damaged at random ---------------------------------------------------------------------------------------

MUTATED = {
    "jpeg": _save(
        RGB.resize((24, 20)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    ),
    "png": _save(RGB.resize((24, 20)), "PNG"),
    "webp": _save(RGB.resize((24, 20)), "WEBP"),
    "gif": _save(RGB.resize((24, 20)).quantize(16), "GIF"),
    "tiff": _save(RGB.resize((24, 20)), "TIFF"),
    "tiff float": _save(GREY.resize((24, 20)).convert("F"), "TIFF"),
    "bmp": _save(RGB.resize((24, 20)), "BMP"),
}


@pytest.mark.parametrize("name", MUTATED)
def test_damage_gives_a_picture_or_a_reason(name):
    """Warnings are errors here, so this is also the test that none escapes."""
    rng = np.random.default_rng(11)
    original = np.frombuffer(MUTATED[name], np.uint8)
    reasons = set()
    for _ in range(200):
        data = original.copy()
        places = rng.integers(0, rng.choice([64, len(data)]), rng.integers(1, 5))
        data[places] = rng.integers(0, 256, len(places))
        reasons.add(_reason(data.tobytes()))
    assert len(reasons) > 1


def test_decode_leaves_warnings_as_they_were():
    before = warnings.filters[:]
    _reason(READ["jpeg exif broken"][0])
    assert warnings.filters == before


def test_bad_image_travels_between_processes():
    bad = pickle.loads(pickle.dumps(BadImage("corrupt", "two\nlines")))
    assert (bad.reason, bad.detail, str(bad)) == ("corrupt", "two lines", "corrupt: two lines")
    with pytest.raises(KeyError):
        BadImage("no such code", "")


# Squares and stored pictures -----------------------------------------------------------------------------


def test_crop_of_a_square_of_that_size_changes_nothing():
    square = _photo(40, 40)
    np.testing.assert_array_equal(crop(square, 40), square)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (41, 60)])
def test_crop_0_is_the_centre(shape):
    photo = _photo(*shape)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    np.testing.assert_array_equal(crop(photo, side), photo[top : top + side, left : left + side])


def test_crop_is_smooth():
    """Antialiased: fine stripes become an even grey instead of a coarse pattern."""
    stripes = np.zeros((120, 120, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(crop(stripes, 17)[2:-2, 2:-2]) <= 12


def test_crops_depend_on_seed_and_number_alone():
    photo = _photo(96, 128)
    seeds = [bytes([i]) * 16 for i in range(4)]
    crops = {(seed, number): crop(photo, 32, number, seed) for seed in seeds for number in (1, 2, 3)}
    for (seed, number), pixels in crops.items():
        assert pixels.shape == (32, 32, 3)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(crop(photo.copy(), 32, number, seed), pixels)
    assert len({pixels.tobytes() for pixels in crops.values()}) == len(crops)
    centre = {crop(photo, 32, 0, seed).tobytes() for seed in seeds}
    assert len(centre) == 1


def test_crops_lie_anywhere_inside_and_are_half_to_all_of_the_short_side():
    """Red and green tell where a pixel comes from."""
    height, width = 200, 250
    down, across = np.mgrid[0:height, 0:width]
    where = np.stack([down, across, np.zeros_like(down)], -1).astype(np.uint8)
    tops, lefts, sides = [], [], []
    for number in range(1, 200):
        pixels = crop(where, 20, number, b"seed").astype(float)
        side = (pixels[-5, 0, 0] - pixels[4, 0, 0]) / 11 * 20
        tops.append(pixels[4, 0, 0] - side * 4.5 / 20)
        lefts.append(pixels[0, 4, 1] - side * 4.5 / 20)
        sides.append(side)
    sides, tops, lefts = np.array(sides), np.array(tops), np.array(lefts)
    assert 96 < sides.min() < 108
    assert 190 < sides.max() < 204
    assert tops.min() > -3
    assert lefts.min() > -3
    assert (tops + sides).max() < height + 3
    assert (lefts + sides).max() < width + 3
    assert np.ptp(tops) > 80
    assert np.ptp(lefts) > 100


def test_crops_stay_the_same_for_ever():
    """A dataset grows over years and versions; another rule for crops would be another dataset."""
    down, across = np.mgrid[0:256, 0:256]
    photo = np.stack([down, across, across], -1).astype(np.uint8)
    centres = [crop(photo, 1, number, b"0123456789abcdef")[0, 0, :2].tolist() for number in range(4)]
    np.testing.assert_allclose(centres, [[128, 128], [135, 126], [152, 127], [128, 128]], atol=1)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (2, 2, 3)])
def test_crops_of_tiny_pictures(shape):
    for number in range(8):
        assert crop(np.zeros(shape, np.uint8), 16, number, b"x").shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("shape", "expected"), [((48, 64), (24, 32)), ((64, 48), (32, 24)), ((50, 333), (24, 160))]
)
def test_short_side(shape, expected):
    pixels = resize_short_side(_photo(*shape), 24)
    assert pixels.shape == (*expected, 3)
    assert pixels.dtype == np.uint8


def test_short_side_of_that_size_changes_nothing():
    np.testing.assert_array_equal(resize_short_side(PHOTO, HEIGHT), PHOTO)


@pytest.mark.parametrize("encoding", ["webp", "png", "jpeg"])
def test_stored_pictures(encoding):
    noise = np.random.default_rng(5).integers(0, 256, (33, 47, 3), np.uint8)
    for pixels in (PHOTO, noise, np.zeros((8, 8, 3), np.uint8), PHOTO[::2, ::-1]):
        data = encode(pixels, encoding)
        assert encode(pixels.copy(), encoding) == data
        stored = decode_stored(data)
        assert stored.flags.writeable
        assert stored.shape == pixels.shape
        if encoding != "jpeg":
            np.testing.assert_array_equal(stored, pixels)
    assert _mean_apart(decode_stored(encode(PHOTO, "jpeg")), PHOTO) < 2


@pytest.mark.parametrize("encoding", ["webp", "png", "jpeg"])
def test_a_stored_picture_is_also_a_photo(encoding):
    data = encode(PHOTO, encoding)
    np.testing.assert_array_equal(_decode(data), decode_stored(data))


def test_damage_to_a_stored_picture_is_an_error():
    with pytest.raises(OSError, match="truncated"):
        decode_stored(encode(PHOTO, "jpeg")[:-9])


def test_no_picture_is_changed_in_place():
    before = PHOTO.copy()
    crop(PHOTO, 20, 1, b"x")
    resize_short_side(PHOTO, 20)
    encode(PHOTO, "webp")
    np.testing.assert_array_equal(PHOTO, before)
