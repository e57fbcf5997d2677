"""Laws of the objective: the raw sums over their sizes, weighted as the recipe says."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from batch_nst.data.vgg_weights import bundled_weights
from batch_nst.engine.losses import content_loss, gram_matrix, style_loss, total_variation
from batch_nst.engine.perceptual_loss import PerceptualLoss, gram
from batch_nst.engine.vgg import Vgg16
from batch_nst.recipe import Loss
from tests.support.places import SAMPLES

LOSS = Loss(
    content_layers={"relu2_1": 1.0, "relu2_2": 0.5},
    style_layers={"relu1_2": 1.0, "relu2_1": 0.25},
    content_weight=3.0,
    style_weight=7.0,
)


def picture(name: str, width: int, height: int) -> Tensor:
    """(1, 3, height, width), float64, 0..255."""
    with Image.open(SAMPLES / name) as image:
        return pil_to_tensor(image.convert("RGB").resize((width, height)))[None].double()


@pytest.fixture(scope="module")
def vgg() -> Vgg16:
    return Vgg16(bundled_weights(), PerceptualLoss.layers(LOSS)).at("cpu", torch.float64)


@pytest.fixture(scope="module")
def painting() -> Tensor:
    return picture("styles/van_gogh_auvers.jpg", 40, 28)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return torch.cat([picture(f"content/{name}.jpg", 32, 24) for name in ("chelsea", "coffee", "panda")])


@pytest.fixture(scope="module")
def images(photos: Tensor) -> Tensor:
    noise = torch.randn(photos.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (photos + 20 * noise).clamp(0, 255)


def with_weights(**weights: float) -> Loss:
    return LOSS.model_copy(update=weights)


def test_it_looks_at_the_layers_of_both_losses() -> None:
    assert PerceptualLoss.layers(LOSS) == {"relu1_2", "relu2_1", "relu2_2"}


def test_the_divisors_by_hand(vgg: Vgg16, painting: Tensor, photos: Tensor, images: Tensor) -> None:
    """Photos are 24 x 32, the painting is 28 x 40; the second block has 128 channels at half of that."""
    losses = PerceptualLoss.of_style(vgg, with_weights(tv_weight=0.125), painting)(images, vgg(photos))
    x, c, s = vgg(images), vgg(photos), vgg(painting)
    content = 1.0 * content_loss(x["relu2_1"], c["relu2_1"]) / (128 * 12 * 16)
    content += 0.5 * content_loss(x["relu2_2"], c["relu2_2"]) / (128 * 12 * 16)
    grams = gram_matrix(x["relu1_2"]) / (64 * 24 * 32), gram_matrix(s["relu1_2"]) / (64 * 28 * 40)
    style = 1.0 * style_loss(*grams) / (64 * 64)
    grams = gram_matrix(x["relu2_1"]) / (128 * 12 * 16), gram_matrix(s["relu2_1"]) / (128 * 14 * 20)
    style += 0.25 * style_loss(*grams) / (128 * 128)
    variation = total_variation(images)
    assert min(*content.tolist(), *style.tolist(), *variation.tolist()) > 1
    torch.testing.assert_close(losses.content, content, rtol=1e-12, atol=0)
    torch.testing.assert_close(losses.style, style, rtol=1e-12, atol=0)
    total = 3 * content + 7 * style + 0.125 * variation
    torch.testing.assert_close(losses.total, total, rtol=1e-12, atol=0)


def test_the_painting_itself_has_no_style_loss(vgg: Vgg16, painting: Tensor) -> None:
    objective = PerceptualLoss.of_style(vgg, LOSS, painting)
    losses = objective(painting, objective.content_targets(torch.zeros_like(painting)))
    assert losses.style.tolist() == [0]
    assert losses.content.item() > 1
    assert torch.equal(losses.total, 3 * losses.content)


def test_a_painting_and_two_of_it_side_by_side_are_one_style(vgg: Vgg16) -> None:
    """Another size, the same Gram matrices but for the seam; next to what another painting costs, nothing."""
    auvers, wave = (picture(f"styles/{name}.jpg", 40, 28) for name in ("van_gogh_auvers", "great_wave"))
    objective = PerceptualLoss.of_style(vgg, LOSS, torch.cat([auvers, auvers], 3))
    same, other = objective(
        torch.cat([auvers, wave]), objective.content_targets(torch.cat([auvers, wave]))
    ).style
    assert 0 < same < 0.01 * other


def test_one_value_an_image_whatever_its_neighbours(
    vgg: Vgg16, painting: Tensor, photos: Tensor, images: Tensor
) -> None:
    objective = PerceptualLoss.of_style(vgg, with_weights(tv_weight=1.0), painting)
    together = objective(images, objective.content_targets(photos))
    for i in range(3):
        one = slice(i, i + 1)
        alone = objective(images[one], objective.content_targets(photos[one]))
        for part, all_parts in zip(alone, together, strict=True):
            assert all_parts.shape == (3,)
            torch.testing.assert_close(part, all_parts[one], rtol=1e-12, atol=0)


def test_the_gradient_flows_to_the_pixels_and_to_nothing_else(
    vgg: Vgg16, painting: Tensor, photos: Tensor, images: Tensor
) -> None:
    style = painting.clone().requires_grad_()
    content = photos.clone().requires_grad_()
    pixels = images.clone().requires_grad_()
    objective = PerceptualLoss.of_style(vgg, with_weights(tv_weight=1.0), style)
    targets = objective.content_targets(content)
    objective(pixels, targets).total[1].backward()
    assert pixels.grad is not None
    assert pixels.grad[1].abs().max() > 0
    assert pixels.grad[[0, 2]].abs().max() == 0
    assert style.grad is None
    assert content.grad is None
    assert not any(tensor.requires_grad for tensor in (*targets.values(), *objective.style_grams.values()))
    assert all(parameter.grad is None for parameter in vgg.parameters())


@pytest.mark.parametrize("tv_weight", [0.0, 0.7])
def test_value_and_gradient_are_those_of_autograd(
    vgg: Vgg16, painting: Tensor, photos: Tensor, images: Tensor, tv_weight: float
) -> None:
    """Through three poolings, at a size that they do not divide."""
    loss = Loss(
        content_layers={"relu2_2": 2.0, "relu4_1": 1.0},
        style_layers={"relu1_1": 1.0, "relu2_2": 0.5, "relu4_1": 3.0},
        tv_weight=tv_weight,
    )
    deep = Vgg16(bundled_weights(), PerceptualLoss.layers(loss)).at("cpu", torch.float64)
    objective = PerceptualLoss.of_style(deep, loss, painting)
    photos, images = photos[..., :23, :31], images[..., :23, :31]
    targets = objective.content_targets(photos)
    pixels = images.clone().requires_grad_()
    expected = objective(pixels, targets).total
    (slope,) = torch.autograd.grad(expected.sum(), pixels)
    total, gradient = objective.value_and_gradient(images, targets)
    torch.testing.assert_close(total, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-12 * slope.abs().max().item())


def test_in_bf16_losses_and_gradient_are_near_in_fp32_and_no_bit_depends_on_the_neighbours(
    painting: Tensor, photos: Tensor, images: Tensor
) -> None:
    loss, photos, images = Loss(), photos.float(), images.float()
    exact, fast = (
        PerceptualLoss.of_style(
            Vgg16(bundled_weights(), PerceptualLoss.layers(loss)).at("cpu", dtype), loss, painting.float()
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    found = []
    for objective in (exact, fast):
        assert {gram.dtype for gram in objective.style_grams.values()} == {torch.float32}
        targets = objective.content_targets(photos)
        found.append((*objective(images, targets), *objective.value_and_gradient(images, targets)))
    for part, half in zip(*found, strict=True):
        assert part.dtype == half.dtype == torch.float32
        if part.dim() == 1:
            torch.testing.assert_close(half, part, rtol=0.03, atol=0)
    (*_, total, gradient), (*_, half_total, half_gradient) = found
    torch.testing.assert_close(half_total, total, rtol=0.02, atol=0)
    assert (half_gradient - gradient).norm().item() < 0.1 * gradient.norm().item()
    for i in range(len(photos)):
        one = slice(i, i + 1)
        _, alone = fast.value_and_gradient(images[one], fast.content_targets(photos[one]))
        assert torch.equal(alone[0], half_gradient[i])


def test_sums_beyond_half_precision_are_exact_to_fp32() -> None:
    """A sum of 4096 squares of 304 is beyond float16's range, and beyond bf16's digits from the 2nd on."""
    activation = torch.full((1, 2, 64, 64), 304.0)
    loss = Loss(content_layers={"relu1_1": 1.0}, style_layers={"relu1_1": 1.0})
    vgg = Vgg16(bundled_weights(), ["relu1_1"])
    objective = PerceptualLoss(vgg, loss, {"relu1_1": torch.zeros(2, 2)})
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        losses = objective.of_activations(
            torch.zeros(1, 3, 64, 64),
            {"relu1_1": activation.to(dtype)},
            {"relu1_1": torch.zeros_like(activation, dtype=dtype)},
        )
        assert losses.content.tolist() == [304**2]  # 304 has 5 significant bits: exact in every dtype
        assert losses.style.tolist() == [(304**2 / 2) ** 2]  # a Gram entry is 304^2 * 4096 over 2 * 4096


def test_threads_leave_the_precision_of_products_as_it_was() -> None:
    """Else a process would round to bf16 all that it multiplies from then on, on CPUs that have it."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    activation = torch.rand(1, 8, 16, 16).bfloat16().contiguous(memory_format=torch.channels_last)
    with ThreadPoolExecutor(8) as pool:
        grams = list(pool.map(gram, [activation] * 2000))
    assert matmul.fp32_precision == before
    assert all(torch.equal(each, grams[0]) for each in grams)
