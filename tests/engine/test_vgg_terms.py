"""Laws of a training's terms over VGG-16: the values and gradients of autograd."""

import pytest
import torch
from torch import Tensor

from batch_nst.data.vgg_weights import bundled_weights
from batch_nst.engine.image_metrics import feature_distance
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.vgg import Vgg16
from batch_nst.engine.vgg_terms import Terms, vgg_terms
from batch_nst.recipe import Loss

LOSS = Loss(
    content_layers={"relu1_2": 0.5, "relu2_2": 2.0},
    style_layers={"relu1_1": 1.0, "relu2_1": 3.0, "relu2_2": 0.7},
)


def noise(seed: int, side: int = 20) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(2, 3, side, side + 3, generator=draw, dtype=torch.float64)


@pytest.fixture(scope="module")
def objective() -> PerceptualLoss:
    vgg = Vgg16(bundled_weights(), PerceptualLoss.layers(LOSS)).at("cpu", torch.float64)
    return PerceptualLoss.of_style(vgg, LOSS, noise(0)[:1])


def by_autograd(objective: PerceptualLoss, image: Tensor, photo: Tensor, optimised: Tensor) -> Terms:
    activations = objective.vgg(image)
    losses = objective.of_activations(image, activations, objective.content_targets(photo))
    with torch.no_grad():
        wanted = objective.vgg(optimised)
    return Terms(losses.content, losses.style, feature_distance(activations, wanted))


@pytest.mark.parametrize("left_out", ["nothing", "targets", "wanted"])
def test_values_and_gradients_are_those_of_autograd(objective: PerceptualLoss, left_out: str) -> None:
    image, photo, optimised = (noise(seed) for seed in (1, 2, 3))
    targets = {} if left_out == "targets" else objective.content_targets(photo)
    wanted = {} if left_out == "wanted" else objective.vgg(optimised)
    # Another weight for each term and each image.
    weights = torch.tensor([[1.0, -2.0], [3e-3, 5e-3], [700.0, 1100.0]], dtype=torch.float64)
    weights[:2] *= left_out != "targets"
    weights[2] *= left_out != "wanted"
    found = []
    for terms in (
        lambda x: vgg_terms(objective, x, targets, wanted),
        lambda x: by_autograd(objective, x, photo, optimised),
    ):
        pixels = image.clone().requires_grad_()
        values = torch.stack([*terms(pixels)]) * (weights != 0)
        (gradient,) = torch.autograd.grad((weights * values.log1p()).sum(), pixels)
        found.append((values.detach(), gradient))
    (values, gradient), (exact, slope) = found
    precise = 1e-10 if left_out == "wanted" else 1e-6  # `feature_distance` is of fp32
    torch.testing.assert_close(values, exact, rtol=precise, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=precise, atol=precise * slope.abs().max().item())
    assert slope.abs().max() > 0
