"""Laws of `images.codec`: what becomes of every kind of photo, of squares and of stored pictures."""

import pickle
import resource
import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from batch_nst.data.images.codec import crop, decode, decode_stored, encode, resize_short_side
from batch_nst.data.images.reasons import REASONS, BadImage
from tests.support.photos import (
    ADOBE_RGB,
    DEEP,
    GREY,
    GREY3,
    HEIGHT,
    IN_STRIPS,
    JPEG,
    KINDS,
    LIMITS,
    PHOTO,
    PNG,
    RGB,
    WIDTH,
    cmyk_profile,
    png,
    save,
    scene,
    tiff,
)


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


# Every kind ----------------------------------------------------------------------------------------------

DECODED = [
    name
    for name, kind in KINDS.items()
    if kind.status != "failed" and kind.reason not in ("needs_memory", "decoder_timeout")
]
"""The others need a store, or a process that may be lost."""


@pytest.mark.parametrize("name", DECODED)
def test_every_kind_of_photo(name):
    kind = KINDS[name]
    assert _reason(kind.data) == (kind.reason or "ok")
    if kind.status == "ok":
        pixels = _decode(kind.data)
        assert _apart(pixels, kind.looks) <= kind.apart
        assert _mean_apart(pixels, kind.looks) <= 3  # the loose bounds are for single pixels of a JPEG


# Refused -------------------------------------------------------------------------------------------------


def test_refused_by_name():
    with pytest.raises(BadImage, match="unsupported_format: HEIC"):
        _decode(KINDS["HEIC"].data)


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
    data = png(side, side, depth, 0, b"")
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
    "progressive": KINDS["JPEG, progressive"].data,
    "cmyk jpeg": save(RGB.convert("CMYK"), "JPEG"),
    "png": PNG,
    "webp": save(RGB, "WEBP"),
    "webp lossless": save(RGB, "WEBP", lossless=True),
    "gif": save(RGB.quantize(64), "GIF"),
    "bmp": save(RGB, "BMP"),
    "tiff": save(RGB, "TIFF"),
    "tiff lzw": save(RGB, "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", CUT)
def test_cut_files_are_never_half_a_picture(name):
    data = CUT[name]
    whole = _decode(data)
    assert _reason(data[: len(data) // 2]) == ("corrupt" if name == "tiff lzw" else "truncated")
    for length in {len(data) * percent // 100 for percent in (10, 25, 75, 90, 99)}:
        assert _reason(data[:length]) in ("truncated", "corrupt"), length
    for length in range(len(data) - 40, len(data)):  # the last bytes may hold no pixel
        if _reason(data[:length]) == "ok":
            np.testing.assert_array_equal(_decode(data[:length]), whole)


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


# Seen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_impossible_orientation_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(_decode(save(RGB, "PNG", exif=exif.tobytes())), PHOTO)


@pytest.mark.parametrize("long", [b"", b"x" * 900_000])
def test_the_texts_of_a_png_in_which_its_orientation_may_stand_are_read_and_no_others(long):
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="3"/>' + long
    exif = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\3\0\0\0\0\0\0\0"
    profile = b"Raw profile type exif\0\nexif\n%d\n" % len(exif) + exif.hex().encode()
    comment = (b"tEXt", b'Comment\0<x tiff:Orientation="3"/>' + long)
    for chunk, expected in (((b"iTXt", xmp), PHOTO[::-1, ::-1]), ((b"tEXt", profile), PHOTO[::-1, ::-1])):
        data = png(WIDTH, HEIGHT, 8, 2, PHOTO.tobytes(), comment, chunk, comment)
        np.testing.assert_array_equal(_decode(data, max_bytes=1 << 23), expected)
    data = png(WIDTH, HEIGHT, 8, 2, PHOTO.tobytes(), comment)
    np.testing.assert_array_equal(_decode(data), PHOTO)


def grey_tiff(tags, body):
    return tiff({**IN_STRIPS, 259: 1, 279: len(body), **tags}, body)


def test_white_is_zero():
    assert _apart(_decode(grey_tiff({258: 16, 262: 0}, DEEP.astype("<u2").tobytes())), 255 - GREY3) <= 1


def test_unsigned_32_bits():
    values = np.asarray(GREY).astype(np.uint32) * 0x01010101
    np.testing.assert_array_equal(_decode(grey_tiff({258: 32, 339: 1}, values.tobytes())), GREY3)


@pytest.mark.parametrize(
    ("space", "kind", "adobe"),
    [(0xFFFF, "R03", True), (2, None, True), (1, "R98", False), (0xFFFF, None, False)],
)
def test_cameras_say_adobe_rgb_without_a_profile(space: int, kind: str | None, adobe: bool) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA001: space} | ({0xA005: {1: kind}} if kind else {}))
    said, profiled = (
        _decode(save(RGB, "JPEG", quality=100, subsampling=0, **more))
        for more in ({"exif": exif.tobytes()}, {"icc_profile": ADOBE_RGB} if adobe else {})
    )
    assert _apart(said, profiled) <= 1
    assert (_apart(said, PHOTO) > 20) == adobe


def test_the_jpeg_of_1992_in_a_tiff_is_refused():
    new, old = (struct.pack("<HHIH", 259, 3, 1, kind) for kind in (7, 6))
    data = save(RGB, "TIFF", compression="jpeg")
    assert data.count(new) == 1
    assert (_reason(data), _reason(data.replace(new, old))) == ("ok", "unsupported_colours")


def test_twelve_bits():
    """Two 12-bit values in three bytes, as scanners write them."""
    values = np.asarray(GREY).astype(np.uint32) * 4095 // 255
    even, odd = values[:, ::2], values[:, 1::2]
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], -1).astype(np.uint8).tobytes()
    assert _apart(_decode(grey_tiff({258: 12}, packed)), GREY3) <= 1


def test_floats_that_are_no_numbers():
    pixels = np.full((16, 16), 0.5, np.float32)
    pixels[0, :4] = np.nan, np.inf, -np.inf, -3
    row = _decode(save(Image.fromarray(pixels), "TIFF"))[0, :, 0]
    np.testing.assert_array_equal(row[:5], [0, 255, 0, 0, 128])


def test_cmyk_profile_of_a_tiff():
    """By the profile cyan alone is a light grey; without it, cyan."""
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert _decode(save(cyan, "TIFF"))[0, 0, 0] < 10
    pixels = _decode(save(cyan, "TIFF", icc_profile=cmyk_profile()))[0, 0].astype(int)
    assert np.ptp(pixels) <= 2
    assert 170 < pixels[0] < 200  # L* 75


# Damaged at random ---------------------------------------------------------------------------------------

MUTATED = {
    "jpeg": save(
        RGB.resize((24, 20)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    ),
    "png": save(RGB.resize((24, 20)), "PNG"),
    "webp": save(RGB.resize((24, 20)), "WEBP"),
    "gif": save(RGB.resize((24, 20)).quantize(16), "GIF"),
    "tiff": save(RGB.resize((24, 20)), "TIFF"),
    "tiff float": save(GREY.resize((24, 20)).convert("F"), "TIFF"),
    "bmp": save(RGB.resize((24, 20)), "BMP"),
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
    _reason(KINDS["JPEG, broken EXIF"].data)
    assert warnings.filters == before


def test_bad_image_travels_between_processes():
    bad = pickle.loads(pickle.dumps(BadImage("corrupt", "two\nlines")))
    assert (bad.reason, bad.detail, str(bad)) == ("corrupt", "two lines", "corrupt: two lines")
    with pytest.raises(KeyError):
        BadImage("no such code", "")


# Squares and stored pictures -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (41, 60), (40, 40)])
def test_crop_0_is_the_centre(shape):
    photo = scene(*shape)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    np.testing.assert_array_equal(crop(photo, side), photo[top : top + side, left : left + side])


def test_crop_is_smooth():
    """Antialiased: fine stripes become an even grey instead of a coarse pattern."""
    stripes = np.zeros((120, 120, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(crop(stripes, 17)[2:-2, 2:-2]) <= 12


def test_crops_depend_on_seed_and_number_alone():
    photo = scene(96, 128)
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
    pixels = resize_short_side(scene(*shape), 24)
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
        np.testing.assert_array_equal(_decode(data), stored)  # it is a photo as well
        if encoding != "jpeg":
            np.testing.assert_array_equal(stored, pixels)
    assert _mean_apart(decode_stored(encode(PHOTO, "jpeg")), PHOTO) < 2


def test_damage_to_a_stored_picture_is_an_error():
    with pytest.raises(OSError, match="truncated"):
        decode_stored(encode(PHOTO, "jpeg")[:-9])


def test_no_picture_is_changed_in_place():
    before = PHOTO.copy()
    crop(PHOTO, 20, 1, b"x")
    resize_short_side(PHOTO, 20)
    encode(PHOTO, "webp")
    np.testing.assert_array_equal(PHOTO, before)
