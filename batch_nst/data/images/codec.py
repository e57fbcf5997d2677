"""Decodes and encodes pictures, with the same rules for every photo and style image.

`decode` turns any photo into 8-bit sRGB or raises `BadImage`. `crop` and `resize_short_side` make the square
that is optimised and the style image. `encode` and `decode_stored` write and read pictures of the dataset.
Pixels are uint8 arrays of shape (H, W, 3), 0..255, sRGB, everywhere here; it needs only Pillow and numpy.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from io import BytesIO
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

# TIFF and WebP are imported because Pillow would otherwise import all of its plugins at the first such file.
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from batch_nst.data.images.colour import Space, described, of_camera, of_profile, probe
from batch_nst.data.images.deep import all_bits, is_associated, is_deep, loses_bits, over_white, rawmode
from batch_nst.data.images.draft import make_draft
from batch_nst.data.images.formats import chunk, identify, lacks_end, without_texts
from batch_nst.data.images.reasons import BadImage
from batch_nst.data.images.tiff import (
    BITS_PER_SAMPLE,
    NEW_SUBFILE_TYPE,
    PHOTOMETRIC,
    SAMPLE_FORMAT,
    arrange,
    in_planes,
    layout,
    tag,
)

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""A picture: uint8, (H, W, 3), 0..255, sRGB."""


def decode(
    data: bytes, *, min_side: int, max_bytes: int, max_pixels: int, draft_side: int | None = None
) -> Pixels:
    """The first picture of a JPEG, PNG, WebP, GIF, TIFF or BMP file, as it should be displayed.

    EXIF orientation is applied, an embedded ICC profile is converted to sRGB, transparency is composed over
    white, and 16-bit and floating-point pixels are scaled to 8 bits. Broken EXIF data, broken or unsuitable
    profiles and the texts in a PNG are ignored. Limits are checked against the header, before pixels are
    decoded.

    Args:
        data: the whole file.
        min_side: minimum short side in pixels.
        max_bytes: maximum length of `data`.
        max_pixels: maximum width times height; Pillow always refuses more than 179 million.
        draft_side: a JPEG may be decoded at a part of its size, see `make_draft`.

    Returns:
        uint8 (H, W, 3), sRGB, writable.

    Raises:
        BadImage: the file cannot be used, with one of `REASONS`.
        MemoryError: it does not fit into memory. Anything else is a bug.
    """
    if not data:
        raise BadImage("empty", "0 bytes")
    if len(data) > max_bytes:
        raise BadImage("too_many_bytes", f"{len(data)} bytes; allowed: {max_bytes}")
    kind = identify(data)
    if kind == "PNG":
        data = without_texts(data)

    def again() -> ImageFile.ImageFile:
        return Image.open(BytesIO(data), formats=(kind,))

    # Pillow warns about damaged metadata and sizes between its own limit and ours. Both are judged here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _faults(kind, data):
            image = again()
        width, height = image.size
        if width * height > max_pixels:
            raise BadImage("too_many_pixels", f"{kind} of {width} x {height} pixels; allowed: {max_pixels}")
        if min(width, height) < min_side:
            raise BadImage("too_small", f"{kind} of {width} x {height} pixels; least side: {min_side}")
        # DNG, NEF and ARW are TIFF files whose first picture is marked as a thumbnail.
        if tag(image, NEW_SUBFILE_TYPE, 0) & 1:
            raise BadImage("unsupported_format", "camera raw: the first picture of this TIFF is a thumbnail")
        # A broken upload leaves zeros at the end of a preallocated file. libjpeg decodes them as grey blocks
        # without an error; only the missing end marker shows it.
        if kind == "JPEG" and lacks_end(kind, data):
            raise BadImage("truncated", "JPEG without an end-of-image marker")
        if kind == "TIFF":
            arrange(image)
        elif kind == "PNG" and rawmode(image) in ("L;2", "L;4") and "transparency" in image.info:
            image.info["transparency"] *= 85 if rawmode(image) == "L;2" else 17  # as Pillow spreads the greys
        meaning = _meaning(kind, data, image)
        if kind == "JPEG" and draft_side is not None:
            make_draft(image, draft_side)
        with _faults(kind, data):
            if kind == "PNG":  # Pillow compares the checksums of pixel data only here
                again().verify()
            picture = _of_all_bits(image, meaning, again)
            if picture is None:
                image.load()
        # Pillow rotates a TIFF by itself.
        orientation = 1 if kind == "TIFF" else _orientation(image)
    return _upright(_srgb(image, meaning) if picture is None else picture, orientation)


def pixels_of(image: Image.Image) -> Pixels:
    """A loaded image of any mode as it should be displayed, by the rules of `decode`.

    Of a PNG that Pillow has opened, gAMA and cHRM count and cICP does not, which Pillow does not keep.

    Returns:
        uint8 (H, W, 3), sRGB, upright, transparency over white, writable.

    Raises:
        BadImage: its profile cannot be applied.
    """
    kind = getattr(image, "format", None) or ""
    orientation = 1 if kind == "TIFF" else _orientation(image)
    return _upright(_srgb(image, _meaning(kind, b"", image)), orientation)


def _upright(picture: Image.Image, orientation: object) -> Pixels:
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    return np.array(picture)


def crop(image: Pixels, size: int, number: int = 0, seed: bytes = b"") -> Pixels:
    """A square part of a picture, resized with the Lanczos filter.

    Number 0 is the largest square at the centre. The others have a side between half and all of the short
    side, at any position. These depend only on `seed` and `number`, on every machine and in every version.

    Args:
        image: uint8 (H, W, 3).
        size: side of the result in pixels, at least 1.
        number: number of the crop, from 0.
        seed: the photo's id.

    Returns:
        uint8 (size, size, 3). Crop 0 of a square picture of that size is the picture itself.
    """
    height, width, _ = image.shape
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    if number:
        # Three numbers in [0, 1) directly from the hash: numpy's generators may change between versions.
        digest = hashlib.sha256(seed + number.to_bytes(8, "big")).digest()
        scale, across, down = (word / 2**32 for word in struct.unpack_from(">3I", digest))
        side = max(1, round(side * (1 + scale) / 2))
        left, top = int(across * (width - side + 1)), int(down * (height - side + 1))
    box = (left, top, left + side, top + side)
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS, box=box))


def resize_short_side(image: Pixels, size: int) -> Pixels:
    """The whole picture with a short side of `size` pixels; aspect kept, Lanczos.

    Args:
        image: uint8 (H, W, 3).
        size: at least 1.

    Returns:
        uint8 (H', W', 3) with min(H', W') == size.
    """
    height, width, _ = image.shape
    short = min(height, width)
    new = (round(width * size / short), round(height * size / short))
    return np.array(Image.fromarray(image).resize(new, Image.Resampling.LANCZOS))


_SAVE: Final = {
    # Lossless WebP of 256 px on one core with method 0, 1, 2, 3, 4 (Pillow's default), 5: photos (mean of 8)
    # 88, 84, 83, 81, 80, 80 KiB in 3, 15, 22, 31, 78, 158 ms; two stylized ones with 0, 1, 2, 4: 102, 88, 87,
    # 85 and 141, 135, 134, 133 KiB. Quality, here effort, changes no size by 1 % and up to doubles the time.
    "webp": partial(Image.Image.save, format="WEBP", lossless=True, method=1, quality=25),
    # 116 KiB in 26 ms.
    "png": partial(Image.Image.save, format="PNG", compress_level=6),
    "jpeg": partial(Image.Image.save, format="JPEG", quality=95, subsampling="4:4:4"),
}


def encode(image: Pixels, encoding: Literal["webp", "png", "jpeg"]) -> bytes:
    """A picture as the bytes of a file; the same bytes for the same pixels and library versions.

    Args:
        image: uint8 (H, W, 3); for webp no side above 16383.
        encoding: webp and png are lossless; jpeg has quality 95, 4:4:4.
    """
    file = BytesIO()
    _SAVE[encoding](Image.fromarray(image), file)
    return file.getvalue()


def as_stored(image: Pixels, encoding: Literal["webp", "png", "jpeg"]) -> Pixels:
    """The picture after encoding and decoding: the same unless the encoding is lossy."""
    return decode_stored(encode(image, encoding)) if encoding == "jpeg" else image


_MOST_STORED: Final = 8192 * 8192
"""Maximum number of pixels: twice the side of the largest pairs."""


def decode_stored(data: bytes) -> Pixels:
    """The picture in bytes that `encode` made.

    Returns:
        uint8 (H, W, 3), writable; for webp and png exactly what was encoded.

    Raises:
        OSError: the bytes are damaged. In our own files that is an error, not a property of a photo.
    """
    try:
        image = Image.open(BytesIO(data), formats=("WEBP", "PNG", "JPEG"))
        if image.width * image.height > _MOST_STORED:
            raise OSError(f"{image.width} x {image.height} pixels; allowed: {_MOST_STORED}")
        return np.array(image.convert("RGB"))
    except (*_FAULTS, Image.DecompressionBombError) as error:
        raise OSError(f"a stored picture is damaged: {error}") from error


# What Pillow's plugins are known to raise for damaged files. MemoryError is not one of them.
_FAULTS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
)
_OUT_OF_MEMORY: Final = ("out of memory when reading image file", "decoder error -9")
"""Messages of plugins that lack memory but do not raise MemoryError."""


@contextmanager
def _faults(kind: str, data: bytes) -> Iterator[None]:
    """Turn a decoder's errors into `BadImage`, or into MemoryError where it lacked memory.

    Use it only around Pillow's reading of `data`.
    """
    try:
        yield
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", f"{kind}: {error}") from error
    except _FAULTS as error:
        if str(error) in _OUT_OF_MEMORY:
            raise MemoryError(f"{kind}: {error}") from error
        # The text of UnidentifiedImageError holds a memory address, which differs each time.
        unknown = isinstance(error, UnidentifiedImageError)
        detail = _unknown(kind, data) if unknown else str(error) or type(error).__name__
        cut = "truncated" in detail.lower() or lacks_end(kind, data)
        raise BadImage("truncated" if cut else "corrupt", f"{kind}: {detail}") from error


def _unknown(kind: str, data: bytes) -> str:
    """Why Pillow does not know a file whose first bytes it knows."""
    if kind == "TIFF":
        with suppress(*_FAULTS):
            return f"its layout cannot be read: {layout(data)}"
    return "its header cannot be read"


_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation; 1 is upright."""


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation; 1 where EXIF is missing or broken."""
    try:
        return image.getexif().get(0x0112, 1)
    except _FAULTS:
        return 1


_Meaning: TypeAlias = Space | ImageCms.ImageCmsTransform | None
"""What the colours of a picture mean: None is sRGB, a transform is a profile's for 8 bits."""
_GREY: Final = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "F")
_SPACES: Final = {"L": {b"GRAY": "L", b"RGB ": "RGB"}, "RGB": {b"RGB ": "RGB"}, "CMYK": {b"CMYK": "CMYK"}}
"""For each mode the profiles that it may have, by their spaces, and the mode that these are for."""
_SRGB: Final = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_KEPT: Final = 1 << 20
"""Bytes of the largest profile that is kept for the next photo."""


def _meaning(kind: str, data: bytes, image: Image.Image) -> _Meaning:
    """What the colours of an image mean that is not loaded. What is broken or of another space is ignored."""
    if image.mode == "LAB":  # needs no profile, and `convert` cannot convert it
        return _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")
    cicp = chunk(data, b"cICP") if kind == "PNG" else None
    profile = image.info.get("icc_profile") or b""
    grey = image.mode in _GREY or rawmode(image).startswith("LA;")
    mode = _SPACES["L" if grey else "CMYK" if image.mode == "CMYK" else "RGB"].get(profile[16:20])
    if mode and cicp is None:
        try:
            if is_deep(image):
                return of_profile(profile)
            of_8_bits = _by_profile if len(profile) < _KEPT else _by_profile.__wrapped__
            return of_8_bits(profile, mode)
        except BadImage:
            raise
        except (ImageCms.PyCMSError, ZeroDivisionError, *_FAULTS):
            pass  # a broken profile: a picture with inexact colours is better than no picture
    if kind == "PNG":
        return described(image.info, cicp)
    if kind == "JPEG" and image.mode == "RGB":
        with suppress(*_FAULTS):  # broken EXIF
            return of_camera(image.getexif())
    return None


@lru_cache(maxsize=8)
def _by_profile(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From the space of a profile to sRGB; None where it is sRGB in name and in what it does."""
    embedded = ImageCms.ImageCmsProfile(BytesIO(profile))
    transform = _transform(embedded, mode)
    if mode != "CMYK" and ImageCms.getProfileDescription(embedded).startswith("sRGB"):
        unchanged = probe(len(mode)) if mode == "RGB" else np.repeat(probe(1), 3, axis=1)
        if np.abs(_seen(transform) - unchanged).max() <= 1:
            return None
    return transform


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    """Into sRGB, in lcms's fast way if that is right to a grey level: dark linear light it misses by 10."""
    exact = ImageCms.buildTransform(profile, _SRGB, mode, "RGB", flags=ImageCms.Flags.NOOPTIMIZE)
    fast = ImageCms.buildTransform(profile, _SRGB, mode, "RGB")
    return fast if np.abs(_seen(fast) - _seen(exact)).max() <= 1 else exact


def _seen(transform: ImageCms.ImageCmsTransform) -> npt.NDArray[np.int64]:
    """What a transform makes of the colours of `probe`."""
    mode = transform.input_mode
    colours = probe(Image.getmodebands(mode))
    row = Image.frombytes(mode, (len(colours), 1), colours.tobytes())
    seen: npt.NDArray[np.int64] = np.asarray(_applied(row, transform))[0].astype(np.int64)
    return seen


def _applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None is only returned for conversion in place
    return converted


def _of_all_bits(
    image: ImageFile.ImageFile, meaning: _Meaning, again: Callable[[], ImageFile.ImageFile]
) -> Image.Image | None:
    """An image in sRGB whose upper bytes are not enough for that; None for all others.

    Args:
        image: it, not loaded.
        meaning: of its colours.
        again: opens it once more.
    """
    transparent = image.info.get("transparency")
    several = image.mode != "RGB" or transparent is not None
    if not (loses_bits(image) and several) and not (isinstance(meaning, Space) and is_deep(image)):
        return None
    if image.mode == "F" or image.mode.startswith("I"):  # Pillow has all of their bits
        return None
    if in_planes(image):
        raise BadImage("unsupported_colours", "TIFF in planes of 16 bits or of colours multiplied by alpha")
    deep = all_bits(again)
    space = meaning if isinstance(meaning, Space) else None
    return Image.fromarray(
        over_white(
            deep,
            space,
            inks=image.mode == "CMYK",
            associated=is_associated(image),
            transparent=transparent,
        )
    )


def _srgb(image: Image.Image, meaning: _Meaning) -> Image.Image:
    """A loaded image of any mode as RGB: in sRGB, transparency over white, scaled to 8 bits."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey, key = _grey(image), image.info.get("transparency")
        if isinstance(meaning, Space):
            deep = np.rint(grey * 65535).astype(np.uint16)[..., None]
            return Image.fromarray(over_white(deep, meaning, transparent=key))
        opaque = None if key is None else np.rint(grey * 65535) != key
        image = Image.fromarray(np.rint(grey * 255).astype(np.uint8))
        if opaque is not None:
            image.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("La", "LA", "L", "1") else "RGBA")
    alpha = image.getchannel("A") if image.mode.endswith("A") else None
    if alpha is not None:
        image = image.convert(image.mode[:-1])
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if isinstance(meaning, Space):
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        image = Image.fromarray(over_white(pixels, meaning))
    elif meaning is not None:
        image = image if image.mode == meaning.input_mode else image.convert(meaning.input_mode)
        image = _applied(image, meaning)
    else:
        image = image.convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        image = white
    return image


def _grey(image: Image.Image) -> npt.NDArray[np.float32]:
    """A grey image of 16 or 32 bits (modes I;16, I, F), 0..1.

    Integers are divided by the maximum of their depth. Files do not state the range of floating-point pixels:
    it is taken as 0..1, or as 0..255 where any is above 1. Values outside are clipped.
    """
    deep = np.asarray(image)
    if image.mode == "F":
        white = 255 if (deep[np.isfinite(deep)] > 1).any() else 1
        deep = np.nan_to_num(deep)
    else:
        bits, signed = tag(image, BITS_PER_SAMPLE, 16), tag(image, SAMPLE_FORMAT, 1) == 2
        white = 2 ** (bits - signed) - 1
        if white == 2**32 - 1:
            deep = deep.view(np.uint32)  # Pillow has no mode for it
    grey: npt.NDArray[np.float32] = np.clip(np.divide(deep, white, dtype=np.float32), 0, 1)
    if image.mode[0] in "IF" and tag(image, PHOTOMETRIC, 1) == 0:
        grey = 1 - grey  # 0 is white; Pillow inverts 8 bits only
    return grey
