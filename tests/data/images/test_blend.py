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


def smooth(height: int, width: int) -> Pixels:
    """Waves so long that a third of the size holds them."""
    rows, columns = np.mgrid[:height, :width] / 60
    shades = 128 + 60 * np.sin(rows)[..., None] * np.cos(columns[..., None] + np.arange(3))
    return shades.astype(np.uint8)


@pytest.mark.parametrize("size", [None, 300])
def test_painted_at_its_own_size_it_is_the_models_picture(size: int | None) -> None:
    photo = smooth(300, 330)
    shown = Blend(size=size).paint(photo, lambda picture: 255 - picture)
    np.testing.assert_array_equal(shown, 255 - photo)


@pytest.mark.parametrize("size", [100, 450])
def test_painted_at_another_size_the_model_sees_that_size_and_the_picture_has_the_photos(size: int) -> None:
    seen: list[tuple[int, ...]] = []

    def model(picture: Pixels) -> Pixels:
        seen.append(picture.shape)
        return 255 - picture

    photo = smooth(300, 330)
    shown = Blend(size=size).paint(photo, model)
    assert seen == [(size, round(330 * size / 300), 3)]
    assert shown.shape == photo.shape
    assert np.abs(shown.astype(int) - (255 - photo))[9:-9, 9:-9].max() <= 2


def test_painted_smaller_the_photos_detail_comes_back_in_its_light_alone() -> None:
    """A model that gives an even grey leaves what the smaller photo had lost."""
    photo = smooth(320, 320)
    photo[::2, ::2] += 40  # finer than a third of the size can hold
    painted = np.full((320, 320, 3), 100, np.uint8)
    shown = Blend(size=100).paint(photo, lambda picture: np.full_like(picture, 100)).astype(int)
    np.testing.assert_array_equal(shown[..., 0], shown[..., 1])
    inside = (slice(16, -16), slice(16, -16))
    # The mean of what was added stays in the smaller photo.
    detail = photo[inside].astype(float) - smooth(320, 320)[inside] - 10
    assert np.abs(shown[inside] - painted[inside] - detail).max() <= 3
