"""A picture as a caller in Python gives it: a path or URI, a PIL image, or an array."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from batch_nst.data.images.codec import Pixels, pixels_of
from batch_nst.data.images.reasons import BadImage
from batch_nst.data.images.sandbox import Limits, decoder_for
from batch_nst.data.storage.fetch import fetch

File: TypeAlias = str | os.PathLike[str]
"""A path, or any URI that fsspec knows."""
Picture: TypeAlias = File | Image.Image | npt.NDArray[np.uint8]
"""A file, a PIL image of any mode, or an array: uint8 (H, W), (H, W, 3) or (H, W, 4), 0..255, sRGB."""

LIMITS: Final = Limits(min_side=16, max_bytes=64 << 20, max_pixels=100_000_000, max_seconds=30)
"""Limits of a picture's file: the defaults of a recipe, but for the least side, which is the fast model's."""

_ARRAYS: Final = "uint8, 0..255, of shape (H, W), (H, W, 3) or (H, W, 4)"


def is_several(given: object) -> bool:
    """Whether a caller gave several pictures: an array with one more dimension, or any other iterable."""
    if hasattr(given, "__array__"):
        return getattr(given, "ndim", 0) == 4
    return isinstance(given, Iterable) and not isinstance(
        given, str | bytes | bytearray | os.PathLike | Image.Image
    )


def read_picture(given: object, name: str) -> Pixels:
    """The pixels of a picture, as it should be displayed: transparency over white, and grey as RGB.

    A file and a PIL image are turned upright by their EXIF orientation, and converted to sRGB by their ICC
    profile, as photos of a dataset are. An array is taken as it is.

    read_picture("photo.jpg", "style")
    read_picture(Image.open("photo.jpg"), "style")  # the same
    read_picture(np.zeros((64, 64), np.uint8), "style")

    Args:
        given: see `Picture`.
        name: what messages call it.

    Returns:
        uint8 (H, W, 3), sRGB, H and W at least 1; it may be the given array itself.

    Raises:
        ValueError: it is something else, or the file is no picture that can be read.
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        OutageError: a store did not answer, after retries.
        RecipeError: the protocol of the URI is unknown.
    """
    if isinstance(given, str | os.PathLike):
        return _of_file(os.path.expanduser(os.fsdecode(given)), name)
    if isinstance(given, Image.Image):
        return _of_image(given, name)
    if not hasattr(given, "__array__"):
        raise ValueError(
            f"{name}: given {type(given).__name__}; allowed: a path, a PIL image, or an array, {_ARRAYS}"
        )
    return _of_array(np.asarray(given), name)


def _of_file(uri: str, name: str) -> Pixels:
    if Path(uri).is_dir():
        raise ValueError(f"{name}: {uri} is a folder; allowed: the path of a picture, or a list of them")
    try:
        return decoder_for(LIMITS).picture(fetch(uri, LIMITS.max_bytes))
    except BadImage as error:
        raise ValueError(f"{name}: {uri}: {error}") from error


def _of_image(image: Image.Image, name: str) -> Pixels:
    if not min(image.size):
        raise ValueError(
            f"{name}: given an image of {image.width} x {image.height} pixels; allowed: 1 or more"
        )
    try:
        if isinstance(image, ImageFile.ImageFile) and image.tile and image.fp and image.tell() == 0:
            image.fp.seek(0)  # as a file: Pillow itself reads some of them inexactly
            return decoder_for(LIMITS).picture(image.fp.read())
        image.load()
        return pixels_of(image)
    except (BadImage, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name}: the PIL image cannot be read: {error}") from error


def _of_array(array: npt.NDArray[Any], name: str) -> Pixels:
    channels = array.shape[2:]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in ((), (1,), (3,), (4,)):
        holds = " with NaN" if array.dtype.kind == "f" and np.isnan(array).any() else ""
        raise ValueError(f"{name}: given {array.dtype} {array.shape}{holds}; allowed: {_ARRAYS}")
    if not array.size:
        raise ValueError(f"{name}: given no pixels, {array.shape}; allowed: 1 or more")
    if channels == (3,):
        return array
    return pixels_of(Image.fromarray(array[:, :, 0] if channels == (1,) else array))
