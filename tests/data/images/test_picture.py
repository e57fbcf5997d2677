"""Laws of `images.picture`: however a picture is given, its pixels are the same; all else is a ValueError."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batch_nst.data.images.codec import decode
from batch_nst.data.images.picture import is_several, read_picture
from tests.support.photos import JPEG, KINDS, LIMITS, RGB, turned

REFUSED_BY_PILLOW = "PNG, a text of 80 MB when inflated"
SHOWN = [name for name, kind in KINDS.items() if kind.looks is not None and name != REFUSED_BY_PILLOW]


@pytest.mark.parametrize("name", SHOWN)
def test_a_pil_image_of_a_file_has_the_pixels_of_the_file(name: str) -> None:
    data = KINDS[name].data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow says of metadata is said by `Image.open`
        shown = read_picture(Image.open(io.BytesIO(data)), "picture")
    np.testing.assert_array_equal(shown, decode(data, **LIMITS))


def test_a_path_in_any_form_is_the_picture_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upright = decode(turned(6), **LIMITS)
    path = tmp_path / "a photo without a suffix?#%20"
    path.write_bytes(turned(6))
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (path, str(path), f"file://{path}", f"~/{path.name}"):
        np.testing.assert_array_equal(read_picture(given, "picture"), upright)


def test_the_channels_of_an_array_are_grey_colour_or_colour_and_alpha() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert read_picture(colour, "picture") is colour
    grey, alpha = colour[:, :, 0], colour[:, :, 1]
    for given in (grey, grey[:, :, None], grey.T.copy().T):
        np.testing.assert_array_equal(read_picture(given, "picture"), np.dstack([grey] * 3))
    over_white = read_picture(np.dstack([colour, alpha]), "picture")
    share = alpha[:, :, None] / 255
    assert np.abs(over_white - (share * colour + (1 - share) * 255)).max() <= 1
    every_second = colour[::2, ::-1]
    np.testing.assert_array_equal(read_picture(every_second, "picture"), every_second)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"])
def test_a_pil_image_of_any_mode_is_shown(mode: str) -> None:
    shown = read_picture(RGB.convert("RGBA" if mode == "RGBa" else "RGB").convert(mode), "picture")
    assert (shown.dtype, shown.shape) == (np.uint8, np.asarray(RGB).shape)


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (None, "given NoneType; allowed: a path, a PIL image, or an array, uint8"),
    "a number": (3, "given int; allowed"),
    "the bytes of a file": (JPEG, "given bytes; allowed"),
    "a list": ([[0, 0], [0, 0]], "given list; allowed"),
    "floats": (np.zeros((20, 30, 3)), r"given float64 \(20, 30, 3\); allowed: uint8, 0\.\.255"),
    "NaN": (np.full((20, 30), np.nan), r"given float64 \(20, 30\) with NaN; allowed"),
    "16 bits": (np.zeros((20, 30), np.uint16), "given uint16"),
    "truths": (np.zeros((20, 30), bool), "given bool"),
    "texts": (np.array(["a"]), r"given <U1 \(1,\)"),
    "objects": (np.array([None]), r"given object \(1,\)"),
    "a number as an array": (np.uint8(3), r"given uint8 \(\)"),
    "channels first": (np.zeros((3, 20, 30), np.uint8), r"given uint8 \(3, 20, 30\)"),
    "two channels": (np.zeros((20, 30, 2), np.uint8), r"given uint8 \(20, 30, 2\)"),
    "several": (np.zeros((1, 20, 30, 3), np.uint8), r"given uint8 \(1, 20, 30, 3\)"),
    "no rows": (np.zeros((0, 30, 3), np.uint8), r"given no pixels, \(0, 30, 3\)"),
    "an image without pixels": (Image.new("RGB", (0, 4)), "given an image of 0 x 4 pixels"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_picture_is_one_clear_value_error(wrong: str) -> None:
    given, told = WRONG[wrong]
    with pytest.raises(ValueError, match=f"^style: {told}"):
        read_picture(given, "style")


@pytest.mark.parametrize(
    "name", ["an empty file", "a text", "HEIC", "JPEG, cut at 50 %", "PNG, wrong checksum"]
)
def test_a_file_that_is_no_picture_is_a_value_error_with_the_reason(name: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(KINDS[name].data)
    with pytest.raises(ValueError, match=rf"^style: .*photo\.jpg: {KINDS[name].reason}: "):
        read_picture(path, "style")


def test_a_pil_image_of_a_file_that_ends_early_is_a_value_error() -> None:
    image = Image.open(io.BytesIO(KINDS["JPEG, cut at 50 %"].data))
    with pytest.raises(ValueError, match=r"^style: the PIL image cannot be read: truncated: JPEG"):
        read_picture(image, "style")


def test_a_file_that_is_not_there_is_called_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        read_picture(tmp_path / "nowhere.jpg", "style")
    with pytest.raises(ValueError, match=r"^style: .* is a folder; allowed: the path of a picture"):
        read_picture(tmp_path, "style")


def test_several_are_any_iterable_but_a_name_an_image_and_an_array_of_one() -> None:
    one = np.zeros((20, 30, 3), np.uint8)
    for given in ([one], (one,), iter([one]), {"a.jpg"}, one[None], []):
        assert is_several(given)
    for given in (one, one[:, :, 0], "a.jpg", Path("a.jpg"), b"x", RGB, None, 3):
        assert not is_several(given)
