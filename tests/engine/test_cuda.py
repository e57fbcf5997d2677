"""Laws of every device: losses, gradients and optimisations are those of fp64 on the CPU, but for rounding.

fp32 on a CPU is right to a ten-millionth in losses and a millionth in gradients. A GPU may be a hundred times
worse, as its kernels add up in other orders. TF32 would be worse than that.
"""

import pytest
import torch
from torch import Tensor

from batch_nst.data.vgg_weights import bundled_weights
from batch_nst.engine.device import choose_device
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.slow_transfer import losses_of, optimise
from batch_nst.engine.vgg import Vgg16
from batch_nst.recipe import Loss
from tests.support.devices import DEVICES

SIDE = 32
LOSS = Loss(tv_weight=0.01)
LOSS_TOLERANCE = 1e-5


def pictures(count: int, seed: int) -> Tensor:
    """Smooth ones, 0..255, fp64: (count, 3, SIDE, SIDE)."""
    coarse = torch.rand(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return 255 * torch.nn.functional.interpolate(coarse, SIDE, mode="bicubic").clamp(0, 1)


def objective_on(device: str, dtype: torch.dtype) -> PerceptualLoss:
    vgg = Vgg16(bundled_weights(), PerceptualLoss.layers(LOSS)).at(device, dtype)
    style = pictures(1, 0).to(device, torch.float64 if dtype == torch.float64 else torch.float32)
    return PerceptualLoss.of_style(vgg, LOSS, style)


@pytest.fixture(scope="module")
def reference() -> PerceptualLoss:
    return objective_on("cpu", torch.float64)


def distance(found: Tensor, expected: Tensor) -> float:
    """Of each image the length of the difference, in lengths of what is expected; the greatest."""
    error = (found.cpu().double() - expected).flatten(1).norm(dim=1)
    return float((error / expected.flatten(1).norm(dim=1)).max())


PHOTOS, IMAGES = pictures(2, 1), pictures(2, 2)


def gradient_of(objective: PerceptualLoss, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    targets = objective.content_targets(PHOTOS.to(device, dtype))
    return objective.value_and_gradient(IMAGES.to(device, dtype), targets)[1]


@pytest.mark.parametrize("device", DEVICES)
def test_losses_are_those_of_fp64_to_a_hundred_thousandth(device: str, reference: PerceptualLoss) -> None:
    choose_device(device)
    found = losses_of(
        objective_on(device, torch.float32), *(each.to(device).float() for each in (IMAGES, PHOTOS))
    )
    expected = losses_of(reference, IMAGES, PHOTOS)
    for part, wanted in zip(found, expected, strict=True):
        assert part.device.type == device
        torch.testing.assert_close(part.cpu().double(), wanted, rtol=LOSS_TOLERANCE, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_gradients_are_those_of_fp64(
    device: str, dtype: torch.dtype, tolerance: float, reference: PerceptualLoss
) -> None:
    choose_device(device)
    found = gradient_of(objective_on(device, dtype), device)
    assert (found.device.type, found.dtype) == (device, torch.float32)
    assert distance(found, gradient_of(reference, dtype=torch.float64)) < tolerance


@pytest.mark.parametrize("device", DEVICES)
def test_an_optimisation_is_that_of_fp64(device: str, reference: PerceptualLoss) -> None:
    """Its first iterations, to a thousandth of the loss and a twentieth of a grey level (rms).

    Later ones go apart through the kinks of ReLU, in fp32 on a CPU too: by 0.1 grey levels after 8.
    """
    choose_device(device)
    found = optimise(objective_on(device, torch.float32), PHOTOS.to(device).float(), 3)
    expected = optimise(reference, PHOTOS, 3)
    error = (found.images.cpu().double() - expected.images).square().mean().sqrt()
    torch.testing.assert_close(found.curve.cpu().double(), expected.curve, rtol=1e-3, atol=0)
    assert error < 0.05


def test_tf32_would_be_seen(reference: PerceptualLoss, monkeypatch: pytest.MonkeyPatch) -> None:
    """It rounds what is multiplied to 10 bits of mantissa; the bundled weights have no more."""

    def round_input(_module: torch.nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return ((inputs[0].view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    monkeypatch.setattr("batch_nst.engine.vgg._can_fuse", lambda _: False)  # a fused layer calls no hook
    objective = objective_on("cpu", torch.float32)
    for conv in objective.vgg.convolutions.values():
        conv.register_forward_pre_hook(round_input)
    found = losses_of(objective, IMAGES.float(), PHOTOS.float())
    for part, expected in zip(found, losses_of(reference, IMAGES, PHOTOS), strict=True):
        assert ((part / expected - 1).abs() > LOSS_TOLERANCE).all()
