"""Laws of the published weights: exact round trips, bytes that only the weights decide, the faster net."""

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from batch_nst.engine.fast_model.model_io import load_net, model_bytes, one_at_a_time, stylize_image
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.errors import WeightsError
from batch_nst.recipe import NETWORKS

Card = dict[str, Any]


@pytest.fixture(scope="module", params=NETWORKS)
def net(request: pytest.FixtureRequest) -> TransformerNet:
    torch.manual_seed(0)
    net = TransformerNet(4, request.param)
    with torch.no_grad():
        net.head.weight *= 4  # so that black and white are overshot
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net.eval()


@pytest.fixture(scope="module")
def card(net: TransformerNet) -> Card:
    return {"architecture": {"name": net.network, "width": 4}}


def test_weights_come_back_as_halves_and_those_of_version_0_1_0_exactly(
    net: TransformerNet, card: Card
) -> None:
    back, state = load_net(model_bytes(net), card), net.state_dict()
    assert not back.training
    assert back.state_dict().keys() == state.keys()
    assert all(torch.equal(back.state_dict()[name], tensor.half().float()) for name, tensor in state.items())
    full = load_net(save(state), card).state_dict()
    assert all(torch.equal(full[name], tensor) for name, tensor in state.items())
    assert all(parameter.requires_grad for parameter in back.parameters())


def test_the_same_weights_are_the_same_bytes_in_any_layout(net: TransformerNet, card: Card) -> None:
    weights = model_bytes(net)
    other = load_net(weights, card).double().to(memory_format=torch.channels_last)
    assert model_bytes(other) == weights


def test_loading_draws_no_random_numbers_and_shares_no_memory(net: TransformerNet, card: Card) -> None:
    weights = model_bytes(net)
    digest, state = hashlib.sha256(weights).hexdigest(), torch.get_rng_state()
    back = load_net(weights, card | {"digests": {"model.safetensors": digest}})
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        back.head.weight.zero_()
    assert hashlib.sha256(weights).hexdigest() == digest


def test_a_changed_byte_is_found(net: TransformerNet, card: Card) -> None:
    weights = bytearray(model_bytes(net))
    expected = hashlib.sha256(weights).hexdigest()
    weights[-1] ^= 1
    given = hashlib.sha256(weights).hexdigest()
    with pytest.raises(WeightsError, match=rf"sha256 is {given}.* says {expected}"):
        load_net(bytes(weights), card | {"digests": {"model.safetensors": expected}})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "head.bias",
            lambda bias: bias.index_fill(0, torch.tensor(1), torch.nan),
            r"'head\.bias' holds NaN or infinite values",
        ),
        ("head.bias", lambda _: None, r"'head\.bias' is missing, expected: float16 \[(3|12)\]"),
        ("tail.bias", lambda _: torch.zeros(2).half(), r"'tail\.bias' is float16 \[2\], expected: missing"),
        (
            "stem.1.weight",
            lambda _: torch.zeros(7).half(),
            r"'stem\.1\.weight' is float16 \[7\], expected: float16 \[4\]",
        ),
        ("head.bias", Tensor.double, r"'head\.bias' is float64 \[(3|12)\], expected: float16 \[\1\]"),
    ],
    ids=["not finite", "missing", "unknown", "another shape", "another type"],
)
def test_a_wrong_tensor_is_named(
    net: TransformerNet, card: Card, name: str, change: Callable[[Any], Tensor | None], message: str
) -> None:
    tensors = load(model_bytes(net))
    changed = tensors | {name: change(tensors.get(name))}
    with pytest.raises(WeightsError, match=message):
        load_net(save({name: tensor for name, tensor in changed.items() if tensor is not None}), card)


@pytest.mark.parametrize(
    "card",
    [
        {},
        {"architecture": {"name": "unet", "width": 4}},
        {"architecture": {"name": ["johnson"], "width": 4}},
        {"architecture": {"name": "johnson"}},
        {"architecture": {"name": "johnson", "width": 0}},
        {"architecture": {"name": "johnson", "width": "4"}},
    ],
)
def test_an_unknown_architecture_is_refused(net: TransformerNet, card: dict[str, Any]) -> None:
    allowed = "name 'johnson' or 'small' or 'half' or 'white' or 'skip', and"
    with pytest.raises(WeightsError, match=f"architecture is .*; allowed: {allowed}"):
        load_net(model_bytes(net), card)


def test_a_weight_that_no_half_holds_is_refused(net: TransformerNet) -> None:
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.head.bias[0] = 1e5
    with pytest.raises(WeightsError, match=r"'head\.bias' holds values beyond 65,504"):
        model_bytes(other)


def test_something_else_than_safetensors_is_refused(card: Card) -> None:
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_net(b"GIF89a, and not weights at all", card)


def test_stylize_image_is_the_net_clamped_and_rounded(net: TransformerNet) -> None:
    images = torch.randint(0, 256, (2, 21, 35, 3), dtype=torch.uint8)
    result = stylize_image(net, images)
    assert result.dtype == torch.uint8
    assert result.shape == images.shape
    assert result.min() == 0
    assert result.max() == 255
    assert (result.int() - stylize_image(net, images[0]).int())[0].abs().max() <= 1
    with torch.no_grad():
        exact = 255 * net(images.permute(0, 3, 1, 2) / 255).clamp(0, 1).permute(0, 2, 3, 1)
    assert (result - exact).abs().max() < 0.501


@pytest.mark.parametrize(
    "image", [torch.zeros(32, 32, 3), torch.zeros(3, 32, 32, dtype=torch.uint8)], ids=["float", "planar"]
)
def test_stylize_image_refuses_other_forms(net: TransformerNet, image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected: uint8 \(H, W, 3\)"):
        stylize_image(net, image)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_faster_net_is_the_same_for_one_picture_and_leaves_the_other_alone(
    net: TransformerNet, layout: torch.memory_format
) -> None:
    weights, faster = model_bytes(net), one_at_a_time(net)
    assert not any(isinstance(module, torch.nn.InstanceNorm2d) for module in faster.modules())
    assert any(isinstance(module, torch.nn.InstanceNorm2d) for module in net.modules())
    mine, its = dict(net.named_parameters()), dict(faster.named_parameters())
    assert its.keys() == mine.keys() == faster.state_dict().keys()
    assert all(its[name] is parameter for name, parameter in mine.items())
    for size in ((16, 16), (37, 50)):
        picture, slope = torch.rand(2, 1, 3, *size)
        painted, expected = faster(picture.contiguous(memory_format=layout)), net(picture)
        torch.testing.assert_close(painted, expected, rtol=0, atol=1e-4)
        found, wanted = (
            torch.cat([part.flatten() for part in torch.autograd.grad(image, list(mine.values()), slope)])
            for image in (painted, expected)
        )
        assert (found - wanted).norm() <= 1e-4 * wanted.norm()
    assert model_bytes(net) == weights
    assert net.stem[0].weight.is_contiguous()
