"""Laws of SSIM, and its values where they can be worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from batch_nst.engine.image_metrics import ssim

C1, C2 = 6.5025, 58.5225


def random(*shape: int, seed: int = 0) -> Tensor:
    return 255 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_picture_is_wholly_like_itself() -> None:
    pictures = random(3, 3, 20, 31)
    assert ssim(pictures, pictures).tolist() == [1, 1, 1]


def test_it_is_symmetric_and_a_batch_is_its_pictures_one_by_one() -> None:
    a, b = random(3, 3, 20, 31), random(3, 3, 20, 31, seed=1)
    found = ssim(a, b)
    assert found.dtype == torch.float64
    assert found.tolist() == ssim(b, a).tolist()
    alone = [ssim(a[i : i + 1], b[i : i + 1]).item() for i in range(3)]
    assert found.tolist() == pytest.approx(alone, rel=1e-12)
    assert found.abs().max() < 0.3  # noise has nothing in common with noise


@pytest.mark.parametrize(("a", "b"), [(0.0, 255.0), (100.0, 50.0), (7.0, 8.0)])
def test_flat_pictures_are_compared_by_their_light_alone(a: float, b: float) -> None:
    flat = torch.ones(1, 3, 12, 13)
    expected = (2 * a * b + C1) / (a * a + b * b + C1)
    assert ssim(a * flat, b * flat).item() == pytest.approx(expected, rel=1e-9)


def test_one_window_by_hand() -> None:
    """A flat picture, and the same with one pixel of another value at the window's centre."""
    a = torch.full((1, 3, 11, 11), 100.0)
    b = a.clone()
    b[..., 5, 5] = 200.0
    weight = 1 / sum(math.exp(-(k**2) / 4.5) for k in range(-5, 6)) ** 2
    mean, variance = 100 + 100 * weight, 100**2 * weight * (1 - weight)
    expected = (2 * 100 * mean + C1) / (100**2 + mean**2 + C1) * C2 / (variance + C2)
    assert ssim(a, b).item() == pytest.approx(expected, rel=1e-9)


def test_a_channel_counts_as_much_as_the_eye_sees_of_it() -> None:
    grey = torch.full((1, 3, 11, 11), 100.0)
    for channel, share in enumerate((0.299, 0.587, 0.114)):
        other = grey.clone()
        other[:, channel] += 50
        light = 100 + 50 * share
        expected = (2 * 100 * light + C1) / (100**2 + light**2 + C1)
        assert ssim(grey, other).item() == pytest.approx(expected, rel=1e-9)


def test_a_negative_is_unlike() -> None:
    a = random(1, 3, 24, 24)
    assert ssim(a, 255 - a).item() < -0.5


def test_what_has_no_window_or_no_partner_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 10, 40\)"):
        ssim(random(1, 3, 10, 40), random(1, 3, 10, 40))
    with pytest.raises(ValueError, match=r"one shape"):
        ssim(random(1, 3, 20, 20), random(2, 3, 20, 20))
