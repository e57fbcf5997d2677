"""Laws of the raw sums: the mission's formulas, worked out by hand on small activations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from batch_nst.engine.losses import content_loss, gram_matrix, style_loss, total_variation
from batch_nst.engine.perceptual_loss import gram


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Two channels of 1x3 positions; no zeros, no symmetry between channels or positions.
A = torch.tensor([[[[1.0, 2.0, 3.0]], [[4.0, -5.0, 6.0]]]])
B = torch.tensor([[[[2.0, 2.0, -1.0]], [[1.0, -5.0, 8.0]]]])


def test_content_loss_by_hand() -> None:
    # (1-2)^2 + (2-2)^2 + (3+1)^2 + (4-1)^2 + (-5+5)^2 + (6-8)^2
    assert content_loss(A, B).tolist() == [1 + 0 + 16 + 9 + 0 + 4]


def test_gram_matrix_by_hand() -> None:
    # G_11 = 1*1 + 2*2 + 3*3, G_12 = G_21 = 1*4 + 2*(-5) + 3*6, G_22 = 4*4 + 5*5 + 6*6
    assert gram_matrix(A).tolist() == [[[14, 12], [12, 77]]]
    # G_11 = 2*2 + 2*2 + 1*1, G_12 = 2*1 + 2*(-5) + (-1)*8, G_22 = 1*1 + 5*5 + 8*8
    assert gram_matrix(B).tolist() == [[[9, -16], [-16, 90]]]


def test_style_loss_by_hand() -> None:
    # All four entries count, the one off the diagonal twice: (14-9)^2 + 2 * (12+16)^2 + (77-90)^2
    assert style_loss(gram_matrix(A), gram_matrix(B)).tolist() == [25 + 2 * 784 + 169]


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[[[1.0, 3.0, 0.0], [2.0, 7.0, 7.0]], [[0.0, 0.0, 0.0], [0.0, 9.0, 0.0]]]])
    first = (2**2 + 3**2) + (5**2 + 0**2) + (1**2 + 4**2 + 7**2)  # right, right, lower
    second = 9**2 + 9**2 + 9**2
    assert total_variation(image.double()).tolist() == [(first + second) / (2 * 2 * 3)]


def test_the_sums_are_those_of_the_formulas_at_any_size() -> None:
    """So a Gram matrix is symmetric and blind to where things are, and nothing differs from itself."""
    a, b = random(2, 5, 4, 6), random(2, 5, 4, 6, seed=1)
    products = [torch.einsum("bihw,bjhw->bij", each, each) for each in (a, b)]
    torch.testing.assert_close(gram_matrix(a), products[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(style_loss(*products), ((products[0] - products[1]) ** 2).sum((1, 2)))
    torch.testing.assert_close(content_loss(a, b), ((a - b) ** 2).sum((1, 2, 3)))
    assert content_loss(a, a).tolist() == style_loss(products[0], products[0]).tolist() == [0, 0]


@pytest.mark.parametrize(
    "function",
    [
        content_loss,
        lambda a, b: style_loss(gram_matrix(a), gram_matrix(b)),
        lambda a, b: style_loss(gram_matrix(a), gram_matrix(B.double())),
        lambda a, _: total_variation(a),
    ],
    ids=["content", "style", "one style for all", "total variation"],
)
def test_a_batch_is_its_images_one_by_one(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = random(4, 2, 3, 5), random(4, 2, 3, 5, seed=1)
    together = function(a, b)
    assert together.shape == (4,)
    assert len(set(together.tolist())) == 4
    assert together.tolist() == [function(a[i : i + 1], b[i : i + 1]).item() for i in range(4)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_fast_gram_matrix_is_the_gram_matrix(dtype: torch.dtype) -> None:
    """Of the same numbers in fp64: multiplying in half precision loses nothing, they are half already."""
    a = torch.rand(2, 128, 37, 41, generator=torch.Generator().manual_seed(0)).to(dtype)
    a = a.to(memory_format=torch.channels_last)
    found = gram(a)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), gram_matrix(a.double()), rtol=2e-6, atol=0)
    for i in range(2):
        torch.testing.assert_close(gram(a[i : i + 1])[0], found[i], rtol=0, atol=0)
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"  # nobody else's products are touched
