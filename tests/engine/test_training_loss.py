"""Laws of a step of training: ours, where what weighs nothing need not be measured; and the peers'."""

import pytest
import torch
from torch import Tensor

from batch_nst.data.vgg_weights import bundled_weights
from batch_nst.engine.baselines import plain_activations, train_step
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.training_loss import Weights, training_loss
from batch_nst.engine.vgg import Vgg16
from batch_nst.recipe import Loss

LOSS = Loss(content_layers={"relu2_1": 1.0}, style_layers={"relu1_1": 1.0, "relu2_1": 1.0})


def noise(images: int, seed: int) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(images, 3, 16, 20, dtype=torch.float64, generator=chance)


@pytest.fixture(scope="module")
def objective() -> PerceptualLoss:
    vgg = Vgg16(bundled_weights(), PerceptualLoss.layers(LOSS)).at("cpu", torch.float64)
    return PerceptualLoss.of_style(vgg, LOSS, noise(1, 0))


@pytest.fixture
def net() -> TransformerNet:
    torch.manual_seed(0)
    return TransformerNet(4).double()


@pytest.mark.parametrize(
    ("weights", "measured"),
    [
        (Weights(1.0, 0.0, 0.0, 0.0), {"objective", "content", "style"}),
        (Weights(0.0, 5.0, 0.0, 0.0), {"feature"}),
        (Weights(0.0, 0.0, 2.0, 0.0), {"pixel"}),
        (Weights(0.0, 0.0, 0.0, 0.5), {"checkerboard"}),
        (Weights(1.0, 5.0, 0.0, 0.0), {"objective", "content", "style", "feature"}),
    ],
)
def test_what_weighs_nothing_need_not_be_measured(
    objective: PerceptualLoss, net: TransformerNet, weights: Weights, measured: set[str]
) -> None:
    pairs, parameters = (noise(2, 1), noise(2, 2)), list(net.parameters())
    loss, parts = training_loss(net, objective, weights, *pairs)
    lean_loss, lean_parts = training_loss(net, objective, weights, *pairs, skip_unweighted=True)
    assert parts.keys() == {"loss", "objective", "content", "style", "feature", "pixel", "checkerboard"}
    assert lean_parts.keys() == {"loss", *measured}
    for name, part in lean_parts.items():
        torch.testing.assert_close(part, parts[name], rtol=1e-9, atol=0)
    wanted = torch.autograd.grad(loss, parameters)
    for gradient, lean in zip(wanted, torch.autograd.grad(lean_loss, parameters), strict=True):
        torch.testing.assert_close(lean, gradient, rtol=1e-6, atol=1e-12)


def test_the_content_counts_for_more_in_the_loss_and_not_in_what_is_logged(
    objective: PerceptualLoss, net: TransformerNet
) -> None:
    photos = noise(2, 1)
    each = objective(net(photos / 255) * 255, objective.content_targets(photos))
    weights = Weights(2.0, 0.0, 0.0, 0.0, content_factor=3.0)
    loss, parts = training_loss(net, objective, weights, photos, photos, skip_unweighted=True)
    own = LOSS.content_weight * each.content + LOSS.style_weight * each.style
    torch.testing.assert_close(loss, 2 * (own + 2 * LOSS.content_weight * each.content).log().mean())
    torch.testing.assert_close(parts["objective"], own.log().mean())


@pytest.mark.parametrize("skip", [False, True])
def test_a_photo_without_a_pair_is_taught_by_the_perceptual_loss_alone(
    objective: PerceptualLoss, net: TransformerNet, skip: bool
) -> None:
    weights, parameters = Weights(1.0, 5.0, 2.0, 0.5), list(net.parameters())
    photos, optimised = noise(3, 1), noise(3, 2)
    loss, parts = training_loss(net, objective, weights, photos, optimised, skip, (True, False, True))
    nothing = torch.full_like(photos[1:2], torch.nan)
    alone, _ = training_loss(net, objective, Weights(1.0, 0.0, 0.0, 0.5), photos[1:2], nothing, True)
    pairs, of_pairs = training_loss(net, objective, weights, photos[::2], optimised[::2], skip)
    torch.testing.assert_close(loss, (alone + 2 * pairs) / 3)
    torch.testing.assert_close(parts["feature"], of_pairs["feature"] * 2 / 3)
    torch.testing.assert_close(parts["pixel"], of_pairs["pixel"] * 2 / 3)
    by_hand = torch.autograd.grad((alone + 2 * pairs) / 3, parameters)
    for gradient, wanted in zip(torch.autograd.grad(loss, parameters), by_hand, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-10)


def test_a_step_of_the_peers_goes_along_the_mean_perceptual_loss(
    objective: PerceptualLoss, net: TransformerNet
) -> None:
    photos, rate = noise(2, 1), 1e-7
    losses = objective(net(photos / 255) * 255, objective.content_targets(photos)).total
    parameters = list(net.parameters())
    slopes = torch.autograd.grad(losses.mean(), parameters)
    wanted = [weight.detach() - rate * slope for weight, slope in zip(parameters, slopes, strict=True)]
    optimizer = torch.optim.SGD(parameters, lr=rate)
    loss = train_step(net, objective, plain_activations(objective.vgg), optimizer, photos)
    assert loss == pytest.approx(losses.mean().item(), rel=1e-9)
    for weight, expected in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-9)
    assert max(slope.abs().max().item() for slope in slopes) * rate > 1e-6
