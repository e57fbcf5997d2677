"""The pixels of a photo are right or the photo is rejected: a matrix of files against independent decoders.

Each file is made here of values that are known. A decoder that shares no code with ours says the same of it:
tifffile of a TIFF, libjpeg, libwebp and giflib through imagecodecs of the others. What the picture should
look like is then worked out by `support.colours`. At most one grey level apart, or a reason.
"""

import struct
from functools import cache
from io import BytesIO
from itertools import product

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from batch_nst.data.images.codec import decode
from batch_nst.data.images.reasons import BadImage
from tests.support.colours import (
    ADOBE,
    BT709,
    BT2020,
    P3,
    PROPHOTO_COLUMNS,
    Space,
    any_png,
    by_columns,
    by_primaries,
    gamma_chunk,
    light_of_bt709,
    over_white,
    power,
    primaries_chunk,
    profile_chunk,
    srgb_of_light,
)
from tests.support.photos import (
    ADOBE_COLUMNS,
    ADOBE_RGB,
    DISPLAY_P3,
    LIMITS,
    LINEAR_GREY,
    LINEAR_RGB,
    NAMED_SRGB,
    P3_COLUMNS,
    SRGB_COLUMNS,
    cmyk_profile,
    icc,
    matrix_profile,
    save,
)

HEIGHT, WIDTH = 18, 21


def values(channels, seed=0):
    """Black, white, a ramp, the darkest and the palest values, and noise; 0..1."""
    found = np.random.default_rng(seed).random((HEIGHT, WIDTH, channels))
    found[0], found[1] = 0, 1
    found[2] = np.linspace(0, 1, WIDTH)[:, None]
    found[3:5] /= 20
    found[5] = 1 - found[5] / 20
    return found


class Verdicts:
    """What became of the files of a matrix. Each is right, or refused with a reason; or it is noted here."""

    def __init__(self):
        self.wrong, self.refused, self.count = {}, {}, 0

    def see(self, name, data, expected):
        self.count += 1
        try:
            pixels = decode(data, **LIMITS)
        except BadImage as bad:
            self.refused[name] = str(bad)
            return
        assert pixels.shape == expected.shape, name
        apart = int(np.abs(pixels - expected).max())
        if apart > 1:
            self.wrong[name] = apart

    def check(self, refused=()):
        """All are right, and these alone are refused."""
        assert not self.wrong
        assert set(self.refused) == set(refused)

    def check_but(self, taken):
        """All are right or refused; none is refused whose name begins with one of these."""
        assert not self.wrong
        assert not {name: why for name, why in self.refused.items() if name[:4] in taken}


@pytest.fixture
def verdicts():
    return Verdicts()


# PNG -----------------------------------------------------------------------------------------------------

PROPHOTO = matrix_profile(*PROPHOTO_COLUMNS, gamma=1.8)
GAMMA_22, SRGB_CHUNK = gamma_chunk(0.45455), (b"sRGB", b"\0")
LINEAR = Space(power(1))


def cicp(primaries, transfer, full=1):
    return b"cICP", bytes([primaries, transfer, 0, full])


DESCRIPTIONS = {
    "nothing": ((), None),
    "sRGB": ((SRGB_CHUNK,), None),
    "gAMA 1/2.2": ((GAMMA_22,), None),
    "gAMA 1/2.2 and primaries of sRGB": ((GAMMA_22, primaries_chunk(BT709)), None),
    "gAMA 1/2.2 and primaries of Adobe RGB": (
        (GAMMA_22, primaries_chunk(ADOBE)),
        by_primaries(ADOBE, power(1 / 0.45455)),
    ),
    "gAMA 1": ((gamma_chunk(1),), LINEAR),
    "gAMA 1/1.8": ((gamma_chunk(0.55556),), Space(power(1 / 0.55556))),
    "gAMA 1 and primaries of P3": ((gamma_chunk(1), primaries_chunk(P3)), by_primaries(P3, power(1))),
    "primaries of P3 alone": ((primaries_chunk(P3),), by_primaries(P3)),
    "primaries of sRGB alone": ((primaries_chunk(BT709),), None),
    "sRGB before gAMA": ((SRGB_CHUNK, gamma_chunk(1)), None),
    "gAMA of nothing": ((gamma_chunk(0),), None),
    "primaries of nothing": ((primaries_chunk(((0, 0), (0, 0), (0, 0)), (0, 0)),), None),
    "a linear profile": ((profile_chunk(LINEAR_RGB),), by_columns(SRGB_COLUMNS, 1)),
    "a linear profile called sRGB": ((profile_chunk(NAMED_SRGB),), by_columns(SRGB_COLUMNS, 1)),
    "Adobe RGB": ((profile_chunk(ADOBE_RGB),), by_columns(ADOBE_COLUMNS, 2.2)),
    "Display P3": ((profile_chunk(DISPLAY_P3),), by_columns(P3_COLUMNS, 2.2)),
    "ProPhoto": ((profile_chunk(PROPHOTO),), by_columns(PROPHOTO_COLUMNS, 1.8)),
    "a profile before gAMA": ((profile_chunk(ADOBE_RGB), gamma_chunk(1)), by_columns(ADOBE_COLUMNS, 2.2)),
    "a broken profile": ((profile_chunk(b"no profile" * 20),), None),
    "a profile of inks": ((profile_chunk(cmyk_profile()),), None),
    "a grey profile": ((profile_chunk(LINEAR_GREY),), LINEAR),
    "a broken profile, and gAMA 1": ((profile_chunk(b"no profile" * 20), gamma_chunk(1)), LINEAR),
    "cICP of sRGB": ((cicp(1, 13),), None),
    "cICP of Display P3": ((cicp(12, 13),), by_primaries(P3)),
    "cICP of television": ((cicp(1, 1),), Space(light_of_bt709)),
    "cICP of BT.2020, linear": ((cicp(9, 8),), by_primaries(BT2020, power(1))),
    "cICP before all": (
        (cicp(12, 13), SRGB_CHUNK, profile_chunk(ADOBE_RGB), gamma_chunk(1)),
        by_primaries(P3),
    ),
    "cICP of high dynamic range": ((cicp(9, 16),), "refused"),
    "cICP of a narrow range": ((cicp(1, 13, full=0),), "refused"),
    "cICP of nothing known": ((cicp(2, 2),), None),
}
PNG_KINDS = [*product((1, 2, 4, 8), (0, 3)), (16, 0), *product((8, 16), (2, 4, 6))]
"""All bits and colour types that the format knows."""
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def picture_png(bits, colour, keyed, interlaced, *chunks):
    """A PNG, and its colours and alpha as they are stored; 0..1."""
    most = 2**bits - 1
    stored = np.rint(values(CHANNELS[colour], bits) * most).astype(np.int64)
    unit, alpha = stored / most, None
    if colour == 3:
        palette = np.rint(values(3, 5).reshape(-1, 3)[: 2**bits] * 255).astype(np.uint8)
        palette = np.resize(palette, (2**bits, 3))
        chunks = (*chunks, (b"PLTE", palette.tobytes()))
        unit = palette[stored[..., 0]] / 255
        if keyed:
            shades = np.arange(2**bits, dtype=np.uint8)[::-1] * (255 // most)
            chunks, alpha = (*chunks, (b"tRNS", shades.tobytes())), shades[stored] / 255
    elif colour in (4, 6):
        unit, alpha = unit[..., :-1], unit[..., -1:]
    elif keyed:
        stored[7, :5] = stored[7, 5]
        unit, key = stored / most, stored[7, 5]
        chunks = (*chunks, (b"tRNS", key.astype(">u2").tobytes()))
        alpha = (stored != key).any(-1, keepdims=True)
    return any_png(stored, bits, colour, *chunks, interlaced=interlaced), unit, alpha


@pytest.mark.parametrize(("bits", "colour"), PNG_KINDS)
def test_png(verdicts, bits, colour):
    refused = set()
    for (name, (chunks, space)), keyed, interlaced in product(DESCRIPTIONS.items(), (0, 1), (0, 1)):
        if (keyed and colour in (4, 6)) or (interlaced and name not in ("nothing", "ProPhoto")):
            continue
        data, unit, alpha = picture_png(bits, colour, keyed, interlaced, *chunks)
        if not chunks and not interlaced:
            _libpng_reads_the_same(data, bits, colour, unit, alpha)
        case = name, keyed, interlaced
        if space == "refused":
            refused.add(case)
            space = None
        if name == "a grey profile" and colour not in (0, 4):
            space = None
        verdicts.see(case, data, over_white(unit, alpha, space))
    verdicts.check(refused)


def _libpng_reads_the_same(data, bits, colour, unit, alpha):
    read = imagecodecs.png_decode(data)
    read = (read / (65535 if read.dtype == np.uint16 else 255)).reshape(HEIGHT, WIDTH, -1)
    seen = unit if alpha is None else np.concatenate([unit, alpha], -1)
    np.testing.assert_allclose(read[..., : seen.shape[2]], seen, atol=1e-9)


# TIFF ----------------------------------------------------------------------------------------------------

COLOURS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}
DEPTHS = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")
ALPHAS = (None, "unspecified", "assocalpha", "unassalpha")
C, S = "contig", "separate"
PACKED = ({}, {"compression": "lzw"}, {"compression": "deflate", "predictor": True})


def tiff(stored, photometric, order="<", planes=C, **how):
    """A TIFF by tifffile, which then reads from it what was stored."""
    if planes == S:
        stored = np.moveaxis(stored, -1, 0)
    if stored.shape[-1] == 1:
        stored = stored[..., 0]
    else:
        how["planarconfig"] = planes
    stored = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder(order))
    file = BytesIO()
    tifffile.imwrite(file, stored, photometric=photometric, byteorder=order, metadata=None, **how)
    if how.get("compression") != "jpeg":
        np.testing.assert_array_equal(tifffile.imread(BytesIO(file.getvalue())), stored)
    return file.getvalue()


@cache
def tiff_values(photometric, depth, alpha):
    """What is stored, and the colours and the alpha that it means; 0..1."""
    colours = COLOURS[photometric]
    unit = values(colours + (alpha is not None), 2)
    if alpha == "assocalpha":
        unit[..., :-1] *= unit[..., -1:]
    most = 1 if depth[0] == "f" else np.iinfo(depth).max
    stored = (unit * most if depth[0] == "f" else np.rint(unit * most)).astype(depth)
    unit = stored.astype(float) / most
    colour, opaque = unit[..., :colours], None if alpha in (None, "unspecified") else unit[..., colours:]
    if alpha == "assocalpha":
        colour = np.divide(colour, opaque, out=np.zeros_like(colour), where=opaque > 0).clip(0, 1)
    if photometric == "miniswhite":
        colour = 1 - colour
    if photometric == "separated":
        colour = of_inks(colour)
    return stored, colour, opaque


def see_tiff(verdicts, photometric, depth, alpha, order="<", planes=C, space=None, orientation=1, **how):
    """Make a TIFF and have it judged."""
    stored, colour, opaque = tiff_values(photometric, depth, alpha)
    if alpha:
        how["extrasamples"] = [alpha]
    if stored.shape[2] == 1 and planes == S:
        return
    if depth[0] == "f" and stored.shape[2] > 1:
        how.pop("predictor", None)
    data = tiff(stored, photometric, order, planes, **how)
    seen = upright(over_white(colour, opaque, space), orientation)
    verdicts.see((photometric, depth, alpha, planes, order, how.get("compression")), data, seen)


TAKEN = {
    *(("minisblack", "u1", alpha, C) for alpha in ALPHAS),
    *(("minisblack", depth, None, C) for depth in ("u2", "i2", "i4", "f4")),
    *(("miniswhite", depth, None, C) for depth in ("u1", "f4")),
    *(("rgb", depth, alpha, C) for depth in ("u1", "u2") for alpha in ALPHAS),
    *(("rgb", "u1", alpha, S) for alpha in (None, "assocalpha", "unassalpha")),
    ("rgb", "u2", None, S),
    *(("separated", depth, None, C) for depth in ("u1", "u2")),
    *(("separated", "u1", *which) for which in (("unspecified", C), (None, S))),
}
"""What may not be refused, whatever the byte order, the compression and the layout."""


@pytest.mark.parametrize("photometric", COLOURS)
def test_tiff(verdicts, photometric):
    for depth, alpha, planes, order, packed in product(DEPTHS, ALPHAS, (C, S), "<>", PACKED):
        see_tiff(verdicts, photometric, depth, alpha, order, planes, **packed)
    verdicts.check_but(TAKEN)


LAYOUTS = {
    "tiles": {"tile": (16, 16)},
    "short strips": {"rowsperstrip": 5},
    "BigTIFF": {"bigtiff": True, "rowsperstrip": 4, "compression": "lzw"},
    **{name: {"compression": name} for name in ("packbits", "zstd")},
    "tiles, deflated": {"tile": (16, 32), "compression": "deflate", "predictor": True},
}
KEPT = ("u1", "u2", "f4")
"""Depths of which there is something that is read."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiff_layouts(verdicts, layout):
    orders = "<" if layout == "BigTIFF" else "<>"
    for photometric, depth, alpha, planes, order in product(
        COLOURS, KEPT, (None, "unassalpha"), (C, S), orders
    ):
        see_tiff(verdicts, photometric, depth, alpha, order, planes, **LAYOUTS[layout])
    verdicts.check_but(TAKEN)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation(verdicts, orientation):
    tags = [(274, 3, 1, orientation, True)]
    for photometric, depth, alpha, packed in product(COLOURS, KEPT, (None, "unassalpha"), PACKED[:2]):
        see_tiff(verdicts, photometric, depth, alpha, extratags=tags, orientation=orientation, **packed)
    verdicts.check_but(TAKEN)


def upright(stored, orientation):
    """A picture as EXIF says that it should be seen."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    down, across = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(orientation - 1) % 4]
    return stored[::down, ::across]


PROFILES = {
    "linear": (LINEAR_RGB, by_columns(SRGB_COLUMNS, 1)),
    "linear, called sRGB": (NAMED_SRGB, by_columns(SRGB_COLUMNS, 1)),
    "ProPhoto": (PROPHOTO, by_columns(PROPHOTO_COLUMNS, 1.8)),
    "linear grey": (LINEAR_GREY, LINEAR),
    "broken": (b"no profile" * 20, None),
    "cut off": (ADOBE_RGB[:200], None),
}


@pytest.mark.parametrize("name", PROFILES)
def test_tiff_profiles(verdicts, name):
    profile, space = PROFILES[name]
    for photometric, depth, alpha, planes in product(
        ("minisblack", "miniswhite", "rgb"), KEPT, ALPHAS, (C, S)
    ):
        own = None if name == "linear grey" and photometric == "rgb" else space
        for order, packed in (("<", {}), (">", PACKED[1])):
            see_tiff(verdicts, photometric, depth, alpha, order, planes, own, iccprofile=profile, **packed)
    verdicts.check_but(TAKEN - {("rgb", "u1", "assocalpha", S), ("rgb", "u2", None, S)})


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_tiff_of_few_bits(verdicts, bits):
    """Grey and palettes, white or black as 0, in both orders of bits."""
    most = 2**bits - 1
    stored = np.rint(values(1, bits) * most).astype(np.uint8)
    rows = np.packbits(((stored >> np.arange(bits)[::-1]) & 1).reshape(HEIGHT, -1), axis=1)
    turned = np.packbits(np.unpackbits(rows, axis=1).reshape(HEIGHT, -1, 8)[..., ::-1], axis=-1)
    palette = np.rint(values(3, 5).reshape(-1, 3)[40 : 40 + 2**bits] * 255).astype(int)
    for photometric, order, fill in product((0, 1, 3), "<>", (1, 2)):
        for deep in (0, 1) if photometric == 3 else (0,):
            tags = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: photometric, 266: fill}
            tags |= {277: 1, 278: HEIGHT}
            colours = stored / most if photometric else 1 - stored / most
            if photometric == 3:
                tags[320] = (palette * (257 if deep else 1)).T.ravel().tolist()
                colours = palette[stored[..., 0]] / 255
            data = tiff_of_tags(order, tags, (rows if fill == 1 else turned).tobytes())
            verdicts.see((photometric, order, fill, deep), data, over_white(colours))
    verdicts.check(name for name in verdicts.refused if name[2] == 2)


def tiff_of_tags(order, tags, body):
    """A TIFF of one strip from its tags: numbers, or lists of numbers of 16 bits."""
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    fields, extra = b"", b""
    for number, value in sorted((tags | {273: start, 279: len(body)}).items()):
        if isinstance(value, list):
            held = struct.pack(f"{order}{len(value)}H", *value)
            if len(held) > 4:
                extra, held = extra + held, struct.pack(f"{order}I", start + len(body) + len(extra))
            fields += struct.pack(f"{order}HHI", number, 3, len(value)) + held.ljust(4, b"\0")
        else:
            fields += struct.pack(f"{order}HHII", number, 4, 1, value)
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags) + 2)
    return head + fields + bytes(4) + body + extra


# JPEG, WebP, GIF, BMP, and what lies in a TIFF -------------------------------------------------------------


def grey_of_inks(ink):
    """What the test's profile of inks says: L* falls with each. All together are made black."""

    def light(inks):
        lightness = 100 * (255 - 63 * inks) / 255
        return np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)

    return srgb_of_light((light(ink.sum(-1, keepdims=True)) - light(4)) / (1 - light(4)))


def of_inks(ink):
    return (1 - ink[..., :3]) * (1 - ink[..., 3:])


JPEGS = {
    "grey": ("L", {}),
    "all chroma": ("RGB", {"subsampling": 0}),
    "a quarter of chroma": ("RGB", {"subsampling": 2}),
    "progressive": ("RGB", {"progressive": True}),
    "without chroma": ("RGB", {"keep_rgb": True}),
    "inks": ("CMYK", {}),
    "inks as chroma": ("CMYK", {}),
}
JPEG_PROFILES = {
    "none": (None, None),
    "Adobe RGB": (ADOBE_RGB, by_columns(ADOBE_COLUMNS, 2.2)),
    "linear, called sRGB": (NAMED_SRGB, by_columns(SRGB_COLUMNS, 1)),
    "linear grey": (LINEAR_GREY, LINEAR),
    "inks": (cmyk_profile(), grey_of_inks),
}


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg(verdicts, name):
    mode, how = JPEGS[name]
    smooth = np.rint(255 * np.sort(values({"L": 1, "RGB": 3, "CMYK": 4}[mode], 3), axis=1)).astype(np.uint8)
    image = Image.frombytes(mode, (WIDTH, HEIGHT), smooth.tobytes())
    turns = [("none", orientation) for orientation in range(1, 9)]
    for title, orientation in [*turns, *((title, 6) for title in JPEG_PROFILES)]:
        profile, space = JPEG_PROFILES[title]
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = save(image, "JPEG", quality=95, exif=exif, icc_profile=profile, **how)
        if name == "inks as chroma":
            data = data.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2")
            assert data[data.index(b"Adobe") + 11] == 2
        if mode == "CMYK":
            stored = 1 - imagecodecs.jpeg8_decode(data, outcolorspace="CMYK") / 255
            colours = grey_of_inks(stored) if title == "inks" else of_inks(stored)
            space = None
        else:
            stored = imagecodecs.jpeg8_decode(data).reshape(HEIGHT, WIDTH, -1) / 255
            colours = stored
            if title == "inks" or (title == "linear grey" and mode == "RGB"):
                space = None
        verdicts.see((title, orientation), data, upright(over_white(colours, None, space), orientation))
    verdicts.check()


@pytest.mark.parametrize("name", JPEG_PROFILES)
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("lossless", [False, True])
def test_webp(verdicts, name, alpha, lossless):
    profile, space = JPEG_PROFILES[name]
    space = None if name in ("inks", "linear grey") else space
    stored = np.rint(255 * values(3 + alpha, 4)).astype(np.uint8)
    for orientation in range(1, 9) if name == "none" else (1,):
        exif = Image.Exif()
        exif[0x0112] = orientation
        settings = {"lossless": lossless, "exact": True, "exif": exif}
        data = save(Image.fromarray(stored), "WEBP", icc_profile=profile, **settings)
        read = imagecodecs.webp_decode(data) / 255
        opaque = read[..., 3:] if read.shape[2] == 4 else None
        seen = over_white(read[..., :3], opaque, space)
        verdicts.see(orientation, data, upright(seen, orientation))
    verdicts.check()


@pytest.mark.parametrize(("bits", "colour"), [kind for kind in PNG_KINDS if kind[0] >= 8 and kind[1] != 4])
def test_png_orientation(verdicts, bits, colour):
    for orientation, name in product(range(1, 9), ("nothing", "Adobe RGB", "gAMA 1")):
        chunks, space = DESCRIPTIONS[name]
        exif = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
        data, unit, alpha = picture_png(bits, colour, 0, 0, (b"eXIf", exif), *chunks)
        verdicts.see((orientation, name), data, upright(over_white(unit, alpha, space), orientation))
    verdicts.check()


def test_gif_frames(verdicts):
    """The first frame, which may be smaller than the picture; around it is the colour that the file names."""
    palette = np.rint(values(3, 5).reshape(-1, 3)[:256] * 255).astype(np.uint8)
    index = np.rint(values(1, 6)[..., 0] * 255).astype(np.uint8)
    image = Image.fromarray(index).copy()
    image.putpalette(palette.tobytes())
    for transparent, interlace in product((None, 7), (0, 1)):
        how = {"interlace": interlace} | ({} if transparent is None else {"transparency": transparent})
        data = save(image, "GIF", optimize=False, **how)
        opaque = None if transparent is None else (index != transparent)[..., None]
        verdicts.see((transparent, interlace), data, over_white(palette[index] / 255, opaque))
        wide = bytearray(data)
        wide[6:10] = struct.pack("<2H", WIDTH + 9, HEIGHT + 8)
        at = wide.index(b",\0\0\0\0" + struct.pack("<2H", WIDTH, HEIGHT))
        wide[at + 1 : at + 5] = struct.pack("<2H", 5, 3)
        ground = palette[data[11]] if transparent is None else 255.0
        seen = np.zeros((HEIGHT + 8, WIDTH + 9, 3)) + ground
        seen[3 : 3 + HEIGHT, 5 : 5 + WIDTH] = over_white(palette[index] / 255, opaque)
        verdicts.see((transparent, interlace, "wide"), bytes(wide), seen)
    verdicts.check()


BMP_MASKS = {
    "16 bits, 5 each": (16, (0x7C00, 0x3E0, 0x1F, 0)),
    "16 bits, 6 of green": (16, (0xF800, 0x7E0, 0x1F, 0)),
    "24 bits": (24, None),
    "32 bits": (32, None),
    "32 bits, masks": (32, (0xFF0000, 0xFF00, 0xFF, 0)),
    "32 bits, red last": (32, (0xFF, 0xFF00, 0xFF0000, 0)),
    "32 bits, alpha": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "32 bits, ten each": (32, (0x3FF00000, 0xFFC00, 0x3FF, 0)),
    "16 bits, 4 each": (16, (0xF00, 0xF0, 0xF, 0)),
}
BMP_REFUSED = "32 bits, red last", "32 bits, ten each", "16 bits, 4 each"


@pytest.mark.parametrize("name", BMP_MASKS)
def test_bmp(verdicts, name):
    bits, masks = BMP_MASKS[name]
    unit = values(4, 7)
    shifts = masks or (0xFF0000, 0xFF00, 0xFF, 0)
    number, read = np.zeros((HEIGHT, WIDTH), np.uint64), np.ones((HEIGHT, WIDTH, 4))
    for channel, mask in enumerate(shifts):
        if mask:
            low = (mask & -mask).bit_length() - 1
            value = np.rint(unit[..., channel] * (mask >> low)).astype(np.uint64)
            number |= value << np.uint64(low)
            read[..., channel] = value / (mask >> low)
    rows = number.astype("<u4").view(np.uint8).reshape(HEIGHT, WIDTH, 4)[..., : bits // 8].reshape(HEIGHT, -1)
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    for upside_down, header in product((True, False), (40, 108, 124)):
        if masks and masks[3] and header == 40:
            continue
        height, compression = HEIGHT if upside_down else -HEIGHT, 3 if masks else 0
        info = struct.pack("<IiiHHI", header, WIDTH, height, 1, bits, compression)
        info += struct.pack("<IiiII", padded.size, 2835, 2835, 0, 0)
        if masks:  # a short header has no place for them: three follow it
            info += struct.pack("<4I", *masks)[: 12 if header == 40 else 16]
        info = info.ljust(header, b"\0")
        start = 14 + len(info)
        head = struct.pack("<2sIHHI", b"BM", start + padded.size, 0, 0, start)
        body = padded[::-1] if upside_down else padded
        data = head + info + body.tobytes()
        verdicts.see((upside_down, header), data, over_white(read[..., :3], read[..., 3:]))
    verdicts.check(verdicts.refused if name in BMP_REFUSED else ())


def test_lab_tiff(verdicts):
    unit = values(3, 8)
    stored = np.rint(unit * 255).astype(np.uint8)
    stored[..., 1:] = np.rint((unit[..., 1:] - 0.5) * 80).astype(np.int8).view(np.uint8)
    lab = np.concatenate([stored[..., :1] / 2.55, stored[..., 1:].view(np.int8)], -1)
    y = (lab[..., 0] + 16) / 116
    each = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(each > 6 / 29, each**3, 3 * (6 / 29) ** 2 * (each - 4 / 29)) * (0.9642, 1, 0.8249)
    seen = srgb_of_light(xyz @ np.linalg.inv(np.array(SRGB_COLUMNS)))
    for order, packed, planes in product("<>", PACKED, (C, S)):
        data = tiff(stored, "cielab", order, planes, **packed)
        verdicts.see((order, *packed.values(), planes), data, over_white(seen))
    verdicts.check(name for name in verdicts.refused if name[-1] == S)


@pytest.mark.parametrize("photometric", ["minisblack", "rgb", "ycbcr"])
def test_jpeg_in_tiff(verdicts, photometric):
    """Against what tifffile, with a libjpeg of its own, reads from the same file."""
    channels = 1 if photometric == "minisblack" else 3
    stored = np.rint(255 * np.sort(values(channels, 9), axis=1)).astype(np.uint8)
    how = {"compression": "jpeg", "compressionargs": {"level": 95}}
    if photometric == "ycbcr":
        how["subsampling"] = (2, 2)
    for order, tile, profile in product("<>", ({}, {"tile": (16, 16)}), (None, LINEAR_RGB)):
        data = tiff(stored, photometric, order, iccprofile=profile, **how, **tile)
        read = tifffile.imread(BytesIO(data)).reshape(HEIGHT, WIDTH, -1) / 255
        space = by_columns(SRGB_COLUMNS, 1) if profile else None
        verdicts.see((order, *tile, bool(profile)), data, over_white(read, None, space))
    verdicts.check()


@pytest.mark.parametrize("fewer", [(1, 1), (2, 1), (2, 2)])
def test_chroma_that_is_not_compressed(verdicts, fewer):
    """Y of each pixel, then Cb and Cr of them all."""
    across, down = fewer
    height, width = 16, 24
    y = np.rint(values(1, 1)[:height, :, 0].repeat(2, 1)[:, :width] * 255).astype(np.uint8)
    cb, cr = (
        np.rint(100 + 60 * values(1, seed)[: height // down, :, 0].repeat(2, 1)[:, : width // across]).astype(
            np.uint8
        )
        for seed in (2, 3)
    )
    blocks = (
        y.reshape(height // down, down, width // across, across)
        .swapaxes(1, 2)
        .reshape(height // down, width // across, -1)
    )
    body = np.concatenate([blocks, cb[..., None], cr[..., None]], -1).tobytes()
    whole = [plane.repeat(down, 0).repeat(across, 1).astype(float) - 128 for plane in (cb, cr)]
    red, blue = y + 1.402 * whole[1], y + 1.772 * whole[0]
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    seen = np.rint(np.stack([red, green, blue], -1).clip(0, 255))
    tags = {256: width, 257: height, 258: [8, 8, 8], 259: 1, 262: 6, 277: 3, 278: height, 530: list(fewer)}
    for order in "<>":
        verdicts.see(order, tiff_of_tags(order, tags, body), seen)
    verdicts.check()


def parametric(kind, *numbers):
    return struct.pack(f">4s4xH2x{len(numbers)}i", b"para", kind, *(round(n * 65536) for n in numbers))


CURVES = {
    "straight": b"curv" + bytes(8),
    "a power": b"curv" + bytes(4) + struct.pack(">IHH", 1, 2 * 256 + 77, 0),
    "a table": b"curv" + bytes(4) + struct.pack(">I5H", 5, 0, 3000, 14000, 35000, 65535),
    "parameters 0": parametric(0, 1.9),
    "parameters 1": parametric(1, 2.0, 1.1, -0.1),
    "parameters 2": parametric(2, 2.0, 0.905, 0.1, -0.01),
    "parameters 3": parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
    "parameters 4": parametric(4, 2.0, 0.8, 0.1, 0.5, 0.2, 0.0324, 0.0),
}


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("name", CURVES)
def test_curves_of_profiles_are_those_of_littlecms(verdicts, name, grey):
    """The same values in 8 bits, which littlecms converts, and in 16, which it cannot."""
    if grey:
        profile, colour = icc(b"GRAY", {b"kTRC": CURVES[name]}), 0
    else:
        columns = {
            b"%cXYZ" % c: struct.pack(">4s4x3i", b"XYZ ", *(round(v * 65536) for v in xyz))
            for c, xyz in zip(b"rgb", P3_COLUMNS, strict=True)
        }
        profile, colour = icc(b"RGB ", columns | {b"%cTRC" % c: CURVES[name] for c in b"rgb"}), 2
    stored = np.rint(values(CHANNELS[colour], 11) * 255).astype(np.uint16)
    shallow, deep = (
        any_png(stored * factor, bits, colour, profile_chunk(profile)) for bits, factor in ((8, 1), (16, 257))
    )
    verdicts.see(name, deep, decode(shallow, **LIMITS).astype(float))
    verdicts.check()


def test_the_layout_of_a_tiff_that_is_refused_is_told(verdicts):
    see_tiff(verdicts, "rgb", "f4", "unassalpha")
    told = "32 + 32 + 32 + 32 bits of floating-point numbers, PhotometricInterpretation 2, ExtraSamples (2,)"
    assert list(verdicts.refused.values()) == [f"corrupt: TIFF: its layout cannot be read: {told}"]


def test_what_16_bits_cannot_have():
    lit = icc(b"GRAY", {b"kTRC": parametric(2, 2.0, 0.9, 0.0, 0.1)})
    for photometric, profile, why in (
        ("separated", cmyk_profile(), "a profile of tables"),
        ("minisblack", lit, "a profile whose black is not black"),
    ):
        verdicts = Verdicts()
        see_tiff(verdicts, photometric, "u2", None, iccprofile=profile)
        assert list(verdicts.refused.values()) == [f"unsupported_colours: 16 bits and {why}"]
