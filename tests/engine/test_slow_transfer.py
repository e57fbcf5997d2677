"""Laws of slow transfer: every image by itself, downhill, always a picture, the same bits again."""

from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from batch_nst.data.vgg_weights import bundled_weights
from batch_nst.engine import device
from batch_nst.engine.device import choose_device, choose_dtype
from batch_nst.engine.lbfgs import Lbfgs
from batch_nst.engine.perceptual_loss import Losses, PerceptualLoss
from batch_nst.engine.slow_transfer import PICTURE, Optimised, Optimizer, losses_of, optimise
from batch_nst.engine.vgg import Vgg16
from batch_nst.recipe import Loss
from tests.support.places import SAMPLES

SHALLOW = Loss(content_layers={"relu2_1": 1.0}, style_layers={"relu1_1": 1.0, "relu2_1": 1.0})
ITERATIONS = 20
OPTIMIZERS: tuple[Optimizer, ...] = ("lbfgs", "adam")


def picture(name: str, size: int) -> Tensor:
    """(1, 3, size, size), fp32, 0..255: the middle."""
    with Image.open(SAMPLES / name) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        middle = image.convert("RGB").crop((left, top, left + side, top + side)).resize((size, size))
        return pil_to_tensor(middle)[None].float()


def photos_of(size: int) -> Tensor:
    """Three photos; the panda's black and white meet both ends of 0..255."""
    return torch.cat([picture(f"content/{name}.jpg", size) for name in ("chelsea", "coffee", "panda")])


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return photos_of(48).double()


@pytest.fixture(scope="module")
def objective() -> PerceptualLoss:
    """Shallow and in float64: rounding stays far below what a law allows."""
    vgg = Vgg16(bundled_weights(), PerceptualLoss.layers(SHALLOW)).at("cpu", torch.float64)
    return PerceptualLoss.of_style(vgg, SHALLOW, picture("styles/van_gogh_auvers.jpg", 56).double())


@pytest.fixture(scope="module")
def default_vgg() -> Vgg16:
    return Vgg16(bundled_weights(), PerceptualLoss.layers(Loss()))


@pytest.fixture(scope="module", params=OPTIMIZERS)
def optimizer(request: pytest.FixtureRequest) -> Optimizer:
    return request.param


@pytest.fixture(scope="module")
def together(objective: PerceptualLoss, photos: Tensor, optimizer: Optimizer) -> Optimised:
    return optimise(objective, photos, ITERATIONS, optimizer)


# An image is by itself


def test_alone_is_as_in_a_batch(
    objective: PerceptualLoss, photos: Tensor, optimizer: Optimizer, together: Optimised
) -> None:
    for i in range(3):
        alone = optimise(objective, photos[i : i + 1], ITERATIONS, optimizer)
        assert (alone.images[0] - together.images[i]).abs().max().item() < 1e-6
        torch.testing.assert_close(alone.curve[:, 0], together.curve[:, i], rtol=1e-9, atol=0)


def test_alone_is_as_in_a_batch_within_a_grey_level_in_fp32_with_the_default_layers(
    default_vgg: Vgg16,
) -> None:
    photos = photos_of(64)[1:]
    objective = PerceptualLoss.of_style(default_vgg, Loss(), picture("styles/van_gogh_auvers.jpg", 64))
    batch = optimise(objective, photos, ITERATIONS).images
    alone = torch.cat([optimise(objective, photo[None], ITERATIONS).images for photo in photos])
    assert (batch - photos).abs().mean().item() > 10  # they did move
    difference = (batch.round() - alone.round()).abs()
    assert (difference <= 1).float().mean().item() >= 0.999


@pytest.mark.parametrize("name", ["content", "style"])
@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(0, 3, 32, 32), r"shape \(0, 3, 32, 32\); allowed: \(B, 3, H, W\) with B of 1"),
        (torch.zeros(1, 1, 32, 32), r"shape \(1, 1, 32, 32\)"),
        (torch.zeros(3, 32, 32), r"shape \(3, 32, 32\)"),
        (torch.zeros(1, 3, 7, 90), r"90 x 7 pixels; the deepest layer of the loss needs 8 x 8"),
        (torch.full((2, 3, 8, 8), torch.nan), "pixels of image 0 are NaN or infinite"),
        (torch.full((2, 3, 8, 8), torch.inf), "pixels of image 0 are NaN or infinite"),
    ],
)
def test_what_no_loss_can_be_taken_of_is_refused_before_the_loop(
    default_vgg: Vgg16, name: str, images: Tensor, told: str
) -> None:
    style = images if name == "style" else torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match=f"^{name}: (given )?{told}"):
        optimise(PerceptualLoss.of_style(default_vgg, Loss(), style), images, 5)


def test_without_bounds_pixels_leave_the_picture_and_the_loss_falls_further() -> None:
    found = optimise(bowl(400), GREY, 60, bounds=None)
    torch.testing.assert_close(found.images, GREY + 400, rtol=0, atol=1e-3)


def test_it_starts_where_it_is_told_to(objective: PerceptualLoss, photos: Tensor) -> None:
    guess = (photos + 30).clamp(0, 255)
    found = optimise(objective, photos, 0, start=guess)
    assert torch.equal(found.images, guess)
    # Two ways to add up the same numbers.
    torch.testing.assert_close(found.curve[0], losses_of(objective, guess, photos).total, rtol=1e-12, atol=0)


def test_the_curve_starts_with_the_photos_own_losses(
    objective: PerceptualLoss, photos: Tensor, together: Optimised
) -> None:
    assert together.curve.shape == (ITERATIONS + 1, 3)
    start = losses_of(objective, photos, photos)
    assert start.content.tolist() == [0, 0, 0]
    torch.testing.assert_close(together.curve[0], start.total, rtol=1e-12, atol=0)


def test_the_least_of_the_curve_is_the_loss_of_what_is_returned(
    objective: PerceptualLoss, photos: Tensor, together: Optimised
) -> None:
    found = losses_of(objective, together.images, photos).total
    torch.testing.assert_close(found, together.curve.amin(0), rtol=1e-12, atol=0)


def test_the_loss_falls_to_a_tenth(together: Optimised) -> None:
    assert (together.curve.amin(0) < 0.1 * together.curve[0]).all()


def test_fewer_iterations_are_the_start_of_more(
    objective: PerceptualLoss, photos: Tensor, optimizer: Optimizer, together: Optimised
) -> None:
    few = optimise(objective, photos, 3, optimizer)
    assert torch.equal(few.curve, together.curve[:4])


def test_the_same_bits_twice_in_fp32(optimizer: Optimizer) -> None:
    vgg = Vgg16(bundled_weights(), PerceptualLoss.layers(SHALLOW))
    objective = PerceptualLoss.of_style(vgg, SHALLOW, picture("styles/great_wave.jpg", 48))
    one, other = (optimise(objective, photos_of(48), 6, optimizer) for _ in range(2))
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.curve, other.curve)


# On objectives whose minimum is known


@dataclass(frozen=True)
class Bowl(PerceptualLoss):
    """`sum (x - photo - shift)^2` of each image; not a number where the first pixel is above `edge`."""

    shift: float = 0.0
    edge: float = torch.inf

    least_side = 1

    def content_targets(self, content: Tensor) -> dict[str, Tensor]:
        return {"": content + self.shift}

    def __call__(self, image: Tensor, targets: dict[str, Tensor]) -> Losses:
        losses = (image - targets[""]).square().flatten(1).sum(1)
        losses = torch.where(image[:, 0, 0, 0] > self.edge, torch.nan, losses)
        return Losses(losses, torch.zeros_like(losses), losses)

    def value_and_gradient(self, image: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self(image, targets).total, 2 * (image - targets[""])


def bowl(shift: float, edge: float = torch.inf) -> Bowl:
    return Bowl(vgg=None, loss=Loss(), style_grams={}, shift=shift, edge=edge)  # type: ignore[arg-type]


GREY = torch.full((2, 3, 4, 4), 100.0)


def test_the_first_step_has_its_length_in_grey_levels() -> None:
    for optimizer, length in (("lbfgs", 3.0), ("adam", 16.0)):
        found = optimise(bowl(50), GREY, 1, optimizer)
        torch.testing.assert_close(found.images, GREY + length, rtol=0, atol=1e-4)
        expected = torch.tensor([[50.0**2 * 48], [(50 - length) ** 2 * 48]]).expand(2, 2)
        torch.testing.assert_close(found.curve, expected, rtol=1e-5, atol=0)


def test_the_bottom_is_found(optimizer: Optimizer) -> None:
    found = optimise(bowl(50), GREY, 60, optimizer)
    tolerance = 1e-3 if optimizer == "lbfgs" else 1.0
    torch.testing.assert_close(found.images, GREY + 50, rtol=0, atol=tolerance)


def test_a_bottom_that_no_picture_can_reach_is_met_at_the_bound(optimizer: Optimizer) -> None:
    assert torch.equal(optimise(bowl(400), GREY, 60, optimizer).images, torch.full_like(GREY, 255))
    assert torch.equal(optimise(bowl(-400), GREY, 60, optimizer).images, torch.zeros_like(GREY))


def test_an_image_that_meets_a_nan_on_its_way_keeps_the_best_before_it(optimizer: Optimizer) -> None:
    photos = GREY.clone()
    photos[1] = 20
    found = optimise(bowl(50, edge=130), photos, 40, optimizer)
    assert found.curve[:, 0].isnan().any()
    assert found.curve[:, 1].isfinite().all()
    assert found.images.isfinite().all()
    assert 100 < found.images[0].max() <= 130
    torch.testing.assert_close(
        (found.images[0] - 150).square().sum(), found.curve[:, 0].nan_to_num(torch.inf).min()
    )
    alone = optimise(bowl(50, edge=130), photos[1:], 40, optimizer)
    assert torch.equal(found.images[1:], alone.images)


def test_progress_is_called_once_an_iteration_in_order(optimizer: Optimizer) -> None:
    steps: list[int] = []
    optimise(bowl(50), GREY, 7, optimizer, steps.append)
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_the_photos_are_left_as_they_are(optimizer: Optimizer) -> None:
    photos = GREY.clone()
    optimise(bowl(50), photos, 3, optimizer)
    assert torch.equal(photos, GREY)


# L-BFGS, N values an image


def test_lbfgs_converges_on_quadratics_of_any_conditioning_and_scale() -> None:
    """`sum curvatures/2 (x - minimum)^2` of four images, of conditions 1 to 1000 and of other scales."""
    generator = torch.Generator().manual_seed(0)
    minimum = 255 * torch.rand(4, 12, dtype=torch.float64, generator=generator)
    exponents = torch.linspace(0, 1, 12, dtype=torch.float64)
    scales = torch.tensor([[1e-6], [1.0], [1e6], [1e-2]], dtype=torch.float64)
    curvatures = torch.stack([10.0 ** (k * exponents) for k in range(4)]) * scales
    solver, x = Lbfgs(history=20), torch.full_like(minimum, 128)  # longer than there are dimensions
    assert (x - minimum).abs().amax(1).min().item() > 50
    for _ in range(100):
        x = solver.step(x, curvatures * (x - minimum))
    torch.testing.assert_close(x, minimum, rtol=0, atol=1e-6)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_lbfgs_steps_as_the_dense_formula_says(preconditioned: bool) -> None:
    """Nocedal and Wright (2006), 7.19: H := (I - r s y') H (I - r y s') + r s s' with r = 1 / s'y for each of
    the last `history` pairs, from 2 s'y / y'Py times P on."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    hessian = root @ root.T + torch.eye(6, dtype=torch.float64)
    start = torch.eye(6, dtype=torch.float64)
    if preconditioned:
        root = torch.randn(6, 6, dtype=torch.float64, generator=generator)
        start = root @ root.T + start
    solver = Lbfgs(history=3, longest_step=1e9, precondition=lambda gradient: gradient @ start)
    points, gradients = [], []
    x = 100 * torch.randn(6, dtype=torch.float64, generator=generator)
    for _ in range(8):
        points.append(x)
        gradients.append(hessian @ x)
        x = solver.step(x[None], gradients[-1][None])[0]
    first = start @ gradients[0]
    torch.testing.assert_close(points[1], points[0] - 3 * first / first.square().mean().sqrt())
    identity = torch.eye(6, dtype=torch.float64)
    for k in range(1, 7):
        pairs = [
            (points[i + 1] - points[i], gradients[i + 1] - gradients[i]) for i in range(max(0, k - 3), k)
        ]
        s, y = pairs[-1]
        inverse = 2 * (s @ y) / (y @ start @ y) * start
        for s, y in pairs:
            left = identity - torch.outer(s, y) / (s @ y)
            inverse = left @ inverse @ left.T + torch.outer(s, s) / (s @ y)
        torch.testing.assert_close(points[k + 1], points[k] - inverse @ gradients[k], rtol=1e-8, atol=1e-8)


def test_where_it_curves_downwards_lbfgs_goes_straight_downhill() -> None:
    """On -x^2/2 every pair has s'y < 0; without pairs the step is along the gradient, capped at 10 rms."""
    solver = Lbfgs()
    x = torch.tensor([[3.0, -4.0], [0.1, 0.0]], dtype=torch.float64)
    lengths = []
    for _ in range(12):
        step = solver.step(x, -x) - x
        cosine = torch.nn.functional.cosine_similarity(step, x)  # downhill is away from 0
        torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-12)
        lengths.append(step.square().mean(1).sqrt())
        x = x + step
    torch.testing.assert_close(lengths[0], torch.full((2,), 3.0, dtype=torch.float64))
    assert torch.stack(lengths).max().item() <= 10 + 1e-9
    torch.testing.assert_close(lengths[-1], torch.full((2,), 10.0, dtype=torch.float64))


def test_lbfgs_crosses_negative_curvature_into_the_well_on_its_side() -> None:
    """x^4/4 - 50 x^2 of each image: wells at -10 and 10, a hill between them; one starts far outside."""
    solver, x = Lbfgs(), torch.tensor([[0.5], [-0.5], [60.0], [-5.0]], dtype=torch.float64)
    for _ in range(60):
        following = solver.step(x, x**3 - 100 * x)
        assert following.isfinite().all()
        assert (following - x).abs().max().item() <= 10 + 1e-9
        x = following
    torch.testing.assert_close(x.abs(), torch.full_like(x, 10), rtol=0, atol=1e-6)
    assert x[:3].sign().flatten().tolist() == [1, -1, 1]


def test_a_saddle_in_one_image_does_not_bend_the_others_way() -> None:
    def path(x: Tensor, curvatures: Tensor) -> Tensor:
        solver = Lbfgs()
        for _ in range(15):
            x = solver.step(x, curvatures * x)
        return x

    start = torch.tensor([[20.0, -30.0], [20.0, -30.0]], dtype=torch.float64)
    curvatures = torch.tensor([[1.0, 7.0], [1.0, -7.0]], dtype=torch.float64)
    both = path(start, curvatures)
    torch.testing.assert_close(both[:1], path(start[:1], curvatures[:1]), rtol=0, atol=1e-12)
    assert both[0].abs().max().item() < 1e-6
    assert both[1, 1].item() < -100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_bottom_lbfgs_stays(dtype: torch.dtype) -> None:
    solver, x = Lbfgs(), torch.full((2, 5), 7.0, dtype=dtype)
    for _ in range(3):
        assert torch.equal(solver.step(x, torch.zeros_like(x)), x)


# Precision


def test_a_precision_that_is_named_is_taken() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype(cpu, "fp32") == torch.float32
    assert choose_dtype(cpu, "bf16") == torch.bfloat16
    assert choose_dtype(cpu, "auto") in {torch.float32, torch.bfloat16}


def test_bf16_must_win_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: 1.0}
    monkeypatch.setattr(device, "_convolution_seconds", seconds.__getitem__)
    monkeypatch.setattr(device, "_faster_on_cpu", device._faster_on_cpu.__wrapped__)  # measures each time
    for bf16, chosen in ((2.0, torch.float32), (0.95, torch.float32), (0.5, torch.bfloat16)):
        seconds[torch.bfloat16] = bf16
        assert choose_dtype(torch.device("cpu")) == chosen


def test_a_gpu_is_taken_where_there_is_one_and_demanded_where_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [setting.allow_tf32 for setting in settings]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(name).type for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    # Where they contradict each other, reading one is an error, and so torch would export no graph.
    assert [setting.allow_tf32 for setting in settings] == [False, False]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(name).type for name in ("auto", "cpu")] == ["cpu", "cpu"]
    for setting, value in zip(settings, before, strict=True):
        setting.allow_tf32 = value
    with pytest.raises(RuntimeError, match="device: cuda was requested, but torch sees no GPU"):
        choose_device("cuda")


# The departure from the paper


def test_projecting_every_iterate_leaves_a_better_picture_than_clamping_the_last(
    objective: PerceptualLoss, photos: Tensor
) -> None:
    free, bounded = (
        optimise(objective, photos, 2 * ITERATIONS, bounds=bounds).images for bounds in (None, PICTURE)
    )
    clamped, projected = (losses_of(objective, x.clamp(*PICTURE), photos).total for x in (free, bounded))
    assert (projected < clamped).all()
