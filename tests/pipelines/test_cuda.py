"""Laws of every device: a unit and a training step are those of fp64 on the CPU, but for rounding."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from batch_nst.data.dataset.sampler import Batch
from batch_nst.data.images.style import StyleImage
from batch_nst.data.vgg_weights import bundled_weights
from batch_nst.engine.device import Precision
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.slow_transfer import losses_of, optimise
from batch_nst.engine.training_loss import GEOMETRIC, training_loss
from batch_nst.engine.vgg import Vgg16
from batch_nst.pipelines.objective import Objectives, optimise_photos, to_tensor
from batch_nst.pipelines.train.trainer import Trainer, weights_at
from batch_nst.recipe import Generate, Loss, Train, Vgg
from tests.support.devices import DEVICES

SIDE, ITERATIONS = 32, 5


def pictures(count: int, seed: int) -> np.ndarray:
    """Smooth ones, uint8: (count, SIDE, SIDE, 3)."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = 255 * torch.nn.functional.interpolate(coarse, SIDE, mode="bicubic").clamp(0, 1)
    return smooth.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


STYLE, PHOTOS, OPTIMISED = pictures(1, 0)[0], pictures(2, 1), pictures(2, 2)


@pytest.fixture(scope="module")
def reference() -> PerceptualLoss:
    vgg = Vgg16(bundled_weights(), PerceptualLoss.layers(Loss())).at("cpu", torch.float64)
    return PerceptualLoss.of_style(vgg, Loss(), to_tensor(STYLE[None]).double())


def objectives_on(device: str, precision: Precision) -> Objectives:
    return Objectives.on(StyleImage.of_pixels(STYLE), Loss(), Vgg(), device, precision, 1)


@pytest.fixture(scope="module")
def least(reference: PerceptualLoss) -> Tensor:
    """The loss of each photo after some iterations in fp64."""
    return optimise(reference, to_tensor(PHOTOS).double(), ITERATIONS).curve.amin(0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_unit_is_as_good_as_in_fp64(
    device: str, precision: Precision, reference: PerceptualLoss, least: Tensor
) -> None:
    """It gets as far, to a tenth; what it says of its pictures is right to a hundred-thousandth."""
    settings = Generate(input="unused", iterations=ITERATIONS, encoding="png")
    objectives = objectives_on(device, precision)
    found = optimise_photos(objectives, PHOTOS, settings)
    assert (objectives.engine, found.curve.device.type) == (f"{device} {precision}", device)
    assert (found.again, found.good) == (frozenset(), [True, True])
    torch.testing.assert_close(found.curve.cpu().amin(0).double(), least, rtol=0.1, atol=0)
    photos, painted = (to_tensor(pixels).double() for pixels in (PHOTOS, found.pictures))
    for part, expected in zip(found.losses, losses_of(reference, painted, photos), strict=True):
        torch.testing.assert_close(part.cpu().double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("precision", "of_losses", "of_gradient"), [("fp32", 1e-4, 1e-3), ("bf16", 0.05, 0.4)]
)
def test_a_training_step_is_that_of_fp64(
    device: str, precision: Precision, of_losses: float, of_gradient: float, reference: PerceptualLoss
) -> None:
    settings = Train(steps=10, batch_size=2, width=8, crop_size=SIDE, optimizer="adam")
    objectives = objectives_on(device, precision)
    torch.manual_seed(0)
    net = TransformerNet(settings.width)
    exact = copy.deepcopy(net).double()
    training = Trainer(settings, objectives, net.to(objectives.device), threads=1, at_once=1)
    parts = training.train_step(Batch(PHOTOS, OPTIMISED))
    # Adam's first moment is a tenth of its first gradient, which is cut to a length of 10.
    moments = [state["exp_avg"] for state in training.state()["optimizer"]["state"].values()]
    found = 10 * torch.cat([moment.flatten() for moment in moments]).cpu().double()

    photos, optimised = (to_tensor(pixels).double() for pixels in (PHOTOS, OPTIMISED))
    loss, expected = training_loss(exact, reference, weights_at(settings, 0.0), photos, optimised)
    gradients = torch.autograd.grad(loss, list(exact.parameters()))
    gradient = torch.cat([each.flatten() for each in gradients])
    gradient *= (10 / gradient.norm()).clamp_max(1)
    assert (found - gradient).norm() < of_gradient * gradient.norm()
    for name, part in expected.items():
        value = part.exp() if name in GEOMETRIC else part
        assert parts[name] == pytest.approx(value.item(), rel=of_losses), name
    assert {weight.device.type for weight in training.state()["net"].values()} == {device}
