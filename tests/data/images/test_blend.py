"""Laws of `batch_nst.data.images.blend`: exact at both ends, and the photo's colours where they are kept."""

import numpy as np
import pytest

from batch_nst.data.images.blend import Blend
from batch_nst.data.images.codec import Pixels


def noise(seed: int, low: int = 0, high: int = 256) -> Pixels:
    """More rows than are computed at once."""
    return np.random.default_rng(seed).integers(low, high, (300, 20, 3), np.uint8)


PHOTO, PAINTING = noise(1), noise(2)


def test_strength_is_exact_at_both_ends() -> None:
    np.testing.assert_array_equal(Blend(strength=1).of(PHOTO, PAINTING), PAINTING)
    np.testing.assert_array_equal(Blend(strength=0).of(PHOTO, PAINTING), PHOTO)
    np.testing.assert_array_equal(Blend(keep_colors=True, strength=0).of(PHOTO, PAINTING), PHOTO)


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.9])
def test_between_the_ends_pixels_are_mixed_and_rounded(strength: float) -> None:
    shown = Blend(strength=strength).of(PHOTO, PAINTING)
    assert shown.dtype == np.uint8
    exact = (1 - strength) * PHOTO.astype(float) + strength * PAINTING
    assert np.abs(shown - exact).max() <= 0.501


def test_colours_are_the_photos_and_light_is_the_paintings() -> None:
    photo, painting = noise(1, 100, 156), noise(2, 100, 156)  # nothing leaves 0..255
    shown = Blend(keep_colors=True).of(photo, painting).astype(float)
    luminance = np.array([0.299, 0.587, 0.114])
    assert np.abs(shown @ luminance - painting @ luminance).max() <= 0.51
    for part in ([-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]):  # Cb and Cr
        assert np.abs(shown @ np.array(part) - photo @ np.array(part)).max() <= 0.51


def test_a_pixel_worked_out_by_hand() -> None:
    photo = np.array([[[200, 100, 50]]], np.uint8)  # Y = 59.8 + 58.7 + 5.7 = 124.2
    for level, expected in ((150, [226, 126, 76]), (255, [255, 231, 181])):  # by 25.8, by 130.8 and clipped
        painting = np.full((1, 1, 3), level, np.uint8)
        assert Blend(keep_colors=True).of(photo, painting).tolist() == [[expected]]
    half = Blend(keep_colors=True, strength=0.5).of(photo, np.full((1, 1, 3), 150, np.uint8))
    assert half.tolist() == [[[213, 113, 63]]]  # by 12.9


def test_grey_stays_grey_under_a_painting_of_any_colour() -> None:
    grey = np.repeat(noise(3)[:, :, :1], 3, 2)
    shown = Blend(keep_colors=True).of(grey, PAINTING)
    np.testing.assert_array_equal(shown[..., 0], shown[..., 1])
    np.testing.assert_array_equal(shown[..., 0], shown[..., 2])
