"""Laws of the checkerboard: worked out by hand, of the cell alone, and nothing where nothing repeats."""

import pytest
import torch
from torch import Tensor

from batch_nst.engine.image_metrics import checkerboard


def repeated(cell: Tensor, rows: int, columns: int) -> Tensor:
    """(1, 3, 4 rows, 4 columns)."""
    return cell.repeat(rows, columns).expand(1, 3, -1, -1)


def test_a_board_by_hand() -> None:
    board = torch.tensor([[120.0, 130.0], [130.0, 120.0]])  # 5 from their mean, each
    [found] = checkerboard(repeated(board, 8, 10)).tolist()
    assert found == pytest.approx(5.0, rel=1e-6)


def test_one_column_in_four_by_hand() -> None:
    column = torch.tensor([[8.0, 0.0, 0.0, 0.0]])  # from their mean, 2: 6, -2, -2, -2
    [found] = checkerboard(repeated(column, 16, 5)).tolist()
    assert found == pytest.approx(12**0.5, rel=1e-6)


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
