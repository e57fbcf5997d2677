"""Laws of the checkerboard: worked out by hand, of the cell alone, and nothing where nothing repeats."""

import pytest
import torch

from batch_nst.engine.image_metrics import checkerboard


@pytest.mark.parametrize(
    ("cell", "grey_levels"),
    [
        ([[120.0, 130.0], [130.0, 120.0]], 5),  # 5 from their mean, each
        ([[8.0, 0.0, 0.0, 0.0]], 12**0.5),  # from their mean, 2: 6, -2, -2, -2
    ],
    ids=["a board", "one column in four"],
)
def test_what_repeats_is_told_in_grey_levels_by_hand(cell: list[list[float]], grey_levels: float) -> None:
    board = torch.tensor(cell)
    image = board.repeat(16 // len(board), 5).expand(1, 3, -1, -1)
    assert checkerboard(image).tolist() == [pytest.approx(grey_levels, rel=1e-6)]


def test_each_picture_of_a_batch_by_itself() -> None:
    images = 255 * torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([checkerboard(image[None]) for image in images])
    torch.testing.assert_close(checkerboard(images), alone)
    assert len(set(alone.tolist())) == 3


@pytest.mark.parametrize("period", [3, 5, 8])
def test_what_repeats_in_another_step_is_none(period: int) -> None:
    """Of eight columns it is what two cells have in common."""
    wave = torch.cos(2 * torch.pi * torch.arange(240) / period) * 50
    assert checkerboard(wave.expand(1, 3, 240, 240)).item() < 1e-4


def test_where_it_begins_does_not_count() -> None:
    image = 255 * torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    image = image.repeat(1, 1, 2, 2)
    moved = image.roll((1, 3), (2, 3))
    torch.testing.assert_close(checkerboard(moved), checkerboard(image), rtol=1e-4, atol=1e-4)


def test_pixels_beyond_the_last_whole_cell_are_left_out() -> None:
    image = 255 * torch.rand(1, 3, 33, 43, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(checkerboard(image), checkerboard(image[:, :, :32, :40]))


def test_an_even_picture_has_none_and_a_gradient_of_0() -> None:
    image = torch.full((1, 3, 16, 16), 99.0, requires_grad=True)
    found = checkerboard(image)
    found.sum().backward()
    assert found.tolist() == [0.0]
    assert image.grad is not None
    assert (image.grad == 0).all()
