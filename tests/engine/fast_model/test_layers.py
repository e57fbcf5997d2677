"""Laws of the layers: a convolution has torch's values and gradients, whitening makes a covariance 1."""

import pytest
import torch
from torch import Tensor, nn

from batch_nst.engine.fast_model.layers import Convolution, Whitening, inverse_root


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (9, 1)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_values_and_gradients_are_those_of_torch(
    images: int, kernel: int, stride: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    ours = Convolution(5, 7, kernel, stride=stride)
    reach = kernel // 2
    mode = "reflect" if reach else "zeros"
    exact = nn.Conv2d(5, 7, kernel, stride, reach, padding_mode=mode).double()
    exact.load_state_dict(ours.state_dict())
    image = torch.randn(images, 5, 16, 19).contiguous(memory_format=layout)
    found = []
    for conv, dtype in ((ours, torch.float32), (exact, torch.float64)):
        pixels = image.to(dtype).requires_grad_()
        made = conv(pixels)
        found.append([made.detach(), *torch.autograd.grad(made.sin().sum(), [pixels, *conv.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def mixed() -> Tensor:
    """Maps of two images whose channels depend on each other and have means."""
    torch.manual_seed(0)
    mix = torch.eye(6) + 0.1 * torch.randn(6, 6)
    return torch.einsum("ij,bjhw->bihw", mix, torch.randn(2, 6, 24, 31)) + 5


def covariance(x: Tensor) -> Tensor:
    rows = x.flatten(2)
    rows = rows - rows.mean(2, keepdim=True)
    return rows @ rows.mT / rows.shape[2]


def test_each_image_has_mean_0_and_covariance_1_and_then_gains_and_shifts() -> None:
    norm = Whitening(6)
    x = mixed()
    assert (covariance(x) - torch.eye(6)).abs().max() > 0.3
    torch.testing.assert_close(covariance(norm(x)), torch.eye(6).expand(2, 6, 6), rtol=0, atol=0.02)
    torch.testing.assert_close(norm(x).mean((2, 3)), torch.zeros(2, 6), rtol=0, atol=1e-5)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(6.0))
        norm.bias.copy_(torch.arange(6.0) - 3)
    wanted = torch.arange(6.0).diag() ** 2
    torch.testing.assert_close(covariance(norm(x)), wanted.expand(2, 6, 6), rtol=0, atol=0.2)
    torch.testing.assert_close(norm(x).mean((2, 3)), (torch.arange(6.0) - 3).expand(2, 6), rtol=0, atol=1e-4)


def test_brightness_and_contrast_of_a_map_do_not_matter_and_turned_channels_turn_the_result() -> None:
    norm, x = Whitening(6), mixed()
    torch.testing.assert_close(norm(100 * x - 7), norm(x), rtol=0, atol=1e-3)
    turn, _ = torch.linalg.qr(torch.randn(6, 6))
    turned = torch.einsum("ij,bjhw->bihw", turn, x)
    wanted = torch.einsum("ij,bjhw->bihw", turn, norm(x))
    torch.testing.assert_close(norm(turned), wanted, rtol=0, atol=1e-3)


def test_a_flat_image_is_its_shift_and_has_a_gradient() -> None:
    norm, x = Whitening(6), torch.full((1, 6, 8, 8), 3.0, requires_grad=True)
    result = norm(x)
    torch.testing.assert_close(result, torch.zeros_like(result))
    torch.autograd.backward(result.square().sum() + result.sum())
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_root_of_a_diagonal_by_hand() -> None:
    values = torch.tensor([4.0, 2.0, 1.0])
    torch.testing.assert_close(inverse_root(values.diag()[None])[0], (values**-0.5).diag(), rtol=0.01, atol=0)
    shares = (
        inverse_root(torch.tensor([[0.9, 0.1], [0.99, 0.01]]).diag_embed()).square().diagonal(dim1=1, dim2=2)
    )
    assert shares[0, 1] * 0.1 == pytest.approx(0.99, abs=0.01)
    assert shares[1, 1] * 0.01 < 0.5
    # Where there is next to no variance, five steps enlarge by 1.5 each.
    least = inverse_root(torch.tensor([[1.0, 0.0], [0.0, 1e-9]])[None])[0, 1, 1]
    assert least == pytest.approx(1.5**5, rel=0.01)
