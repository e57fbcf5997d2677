"""Laws of the fast model: same size, one image at a time, Johnson's layers, no zero padding."""

import pytest
import torch

from batch_nst.engine.fast_model.network import weight_shapes
from batch_nst.engine.fast_model.transformer_net import TransformerNet, folded, unfolded
from batch_nst.recipe import NETWORKS, Network

pytestmark = pytest.mark.parametrize("network", NETWORKS)


def make_net(network: Network, width: int) -> TransformerNet:
    torch.manual_seed(0)
    return TransformerNet(width, network)


@pytest.mark.parametrize("size", [(16, 16), (17, 19), (33, 47), (64, 96), (101, 64)])
def test_the_result_has_the_size_of_the_image(network: Network, size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert make_net(network, 4)(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_alone_or_in_a_batch_is_the_same(network: Network) -> None:
    net, images = make_net(network, 8), torch.rand(3, 3, 33, 47)
    images[1] *= 0.1  # another brightness, which statistics over the batch would spread
    with torch.no_grad():
        together = net(images)
        alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_number_of_parameters_worked_out_by_hand(network: Network) -> None:
    def conv_norm(channels_in: int, channels: int, kernel: int) -> int:
        return channels_in * channels * kernel**2 + 2 * channels  # no bias; gain and shift of the norm

    plain = 2 * conv_norm(128, 128, 3)  # 295,424
    bottleneck = conv_norm(128, 64, 1) + conv_norm(64, 64, 3) + conv_norm(64, 128, 1)  # 53,760
    ends = (
        conv_norm(3, 32, 9)  # 7,840
        + conv_norm(32, 64, 3)  # 18,560
        + conv_norm(64, 128, 3)  # 73,984
        + conv_norm(128, 64, 3)  # 73,856
        + conv_norm(64, 32, 3)  # 18,496
        + 32 * 3 * 9**2
        + 3  # 7,779
    )
    half = (
        conv_norm(12, 32, 5)  # 9,664
        + conv_norm(32, 128, 3)  # 37,120
        + 5 * plain
        + conv_norm(128, 64, 3)  # 73,856
        + 64 * 12 * 5**2
        + 12  # 19,212
    )
    skip = (
        conv_norm(3, 32, 5)
        + conv_norm(32, 64, 3)
        + conv_norm(64, 128, 3)
        + 5 * plain
        + conv_norm(128 + 64, 64, 3)
        + conv_norm(64 + 32, 32, 3)
        + 32 * 3 * 5**2
        + 3
    )
    johnson, small = ends + 5 * plain, ends + 5 * bottleneck
    expected = {"johnson": johnson, "small": small, "half": half, "white": half, "skip": skip}[network]
    assert (johnson, small, half, skip) == (1_677_635, 469_315, 1_616_972, 1_712_963)
    assert sum(parameter.numel() for parameter in make_net(network, 32).parameters()) == expected


def test_the_shapes_of_its_weights_are_told_without_torch(network: Network) -> None:
    for width in (4, 5):
        state = make_net(network, width).state_dict()
        assert weight_shapes(network, width) == {name: tuple(found.shape) for name, found in state.items()}


def test_a_flat_image_gets_no_frame(network: Network) -> None:
    """Zero padding would show where the border is; reflection makes a flat image flat everywhere."""
    net = make_net(network, 4)
    with torch.no_grad():
        flat = folded(net(torch.full((1, 3, 40, 52), 0.8)), net.fold)
    torch.testing.assert_close(flat, flat[:, :, :1, :1].expand_as(flat), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 20), (18, 21), (23, 17)])
def test_what_is_folded_unfolds(network: Network, height: int, width: int) -> None:
    image, side = torch.rand(2, 3, height, width), make_net(network, 4).fold
    cells = folded(image, side)
    assert cells.shape == (2, 3 * side**2, -(-height // side), -(-width // side))
    assert torch.equal(unfolded(cells, side, height, width), image)
    if height % 2:  # what is beyond the border is reflected
        whole = unfolded(cells, side, cells.shape[2] * side, cells.shape[3] * side)
        assert torch.equal(whole[:, :, height:, :width], image[:, :, -2 : -2 + whole.shape[2] - height])


def test_untrained_it_is_mid_grey_with_the_contrast_of_a_photo(network: Network) -> None:
    with torch.no_grad():
        result = make_net(network, 32)(torch.rand(2, 3, 64, 64))
    assert result.mean().item() == pytest.approx(0.5, abs=0.15)
    assert 0.05 < result.std().item() < 0.4


def test_bf16_autocast_is_close_and_gives_full_precision_pixels(network: Network) -> None:
    net, image = make_net(network, 8), torch.rand(1, 3, 33, 47)
    exact = net(image)
    with torch.autocast("cpu", torch.bfloat16):
        result = net(image)
    assert result.dtype == torch.float32
    assert (result - exact).abs().mean() < 0.01
    result.square().sum().backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_outside_of_0_to_1_the_gradient_lives(network: Network) -> None:
    net = make_net(network, 4)
    with torch.no_grad():
        net.head.bias.fill_(4)
    result = net(torch.rand(1, 3, 16, 16))
    assert result.min() > 1
    result.sum().backward()
    assert net.head.bias.grad is not None
    assert (net.head.bias.grad != 0).all()


def test_a_side_too_short_to_reflect_is_refused(network: Network) -> None:
    with pytest.raises(RuntimeError, match=r"[Pp]adding size"):
        make_net(network, 4)(torch.rand(1, 3, 4, 32))
