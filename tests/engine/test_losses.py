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


def test_a_flat_image_has_no_variation_and_a_step_costs_its_square() -> None:
    flat = torch.full((1, 3, 4, 5), 200.0)
    step = flat.clone()
    step[..., 2:] = 210.0  # one edge along 4 rows of 3 channels
    assert total_variation(torch.cat([flat, step])).tolist() == [0, 10**2 * 4 * 3 / (4 * 5 * 3)]


def test_a_gram_matrix_is_symmetric_and_positive_semi_definite() -> None:
    gram = gram_matrix(random(3, 8, 2, 3))  # more channels than positions: rank 6 of 8
    assert torch.equal(gram, gram.mT)
    eigenvalues = torch.linalg.eigvalsh(gram)
    assert eigenvalues.min() > -1e-12
    assert (eigenvalues > 1e-9).sum(1).tolist() == [6, 6, 6]


def test_a_gram_matrix_is_blind_to_a_permutation_of_positions() -> None:
    a = random(2, 5, 4, 6)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    shuffled = a.flatten(2)[:, :, order].view_as(a)
    assert content_loss(a, shuffled).min() > 1  # it did move
    torch.testing.assert_close(gram_matrix(shuffled), gram_matrix(a), rtol=1e-13, atol=1e-13)


def test_a_gram_matrix_is_quadratic() -> None:
    a = random(2, 5, 4, 6)
    torch.testing.assert_close(gram_matrix(-3 * a), 9 * gram_matrix(a), rtol=1e-13, atol=0)


def test_an_image_against_itself_costs_nothing() -> None:
    a = random(2, 5, 4, 6)
    assert content_loss(a, a).tolist() == [0, 0]
    assert style_loss(gram_matrix(a), gram_matrix(a)).tolist() == [0, 0]


def test_both_losses_are_symmetric() -> None:
    a, b = random(2, 5, 4, 6), random(2, 5, 4, 6, seed=1)
    assert content_loss(a, b).min() > 0
    assert torch.equal(content_loss(a, b), content_loss(b, a))
    assert torch.equal(style_loss(gram_matrix(a), gram_matrix(b)), style_loss(gram_matrix(b), gram_matrix(a)))


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


def test_an_image_has_no_gradient_from_its_neighbours() -> None:
    a = random(3, 2, 3, 5).requires_grad_()
    value = content_loss(a, a.detach() + 1) + style_loss(gram_matrix(a), gram_matrix(B.double()))
    (gradient,) = torch.autograd.grad((value + total_variation(a))[1], a)
    assert gradient[1].abs().min() > 0
    assert gradient[[0, 2]].abs().max() == 0


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
