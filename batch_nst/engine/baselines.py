"""Baselines: slow and fast transfer as other programs do them, to compare the engine with.

They use fp32, contiguous NCHW tensors, autograd and `torch.optim`, one image at a time, with unbounded
pixels.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.slow_transfer import losses_of
from batch_nst.engine.vgg import Vgg16

Method = Literal["lbfgs", "lbfgs_wolfe", "adam"]
Network = Callable[[Tensor], dict[str, Tensor]]
"""Maps images (B, 3, H, W), RGB, 0..255, to the activations of each layer."""


def optimise_one(
    objective: PerceptualLoss,
    content: Tensor,
    iterations: int,
    method: Method,
    on_loss: Callable[[float, Tensor], bool],
    start: Tensor | None = None,
) -> None:
    """Minimise the objective, with the settings that other programs ship.

    Args:
        objective: in fp32.
        content: one photo (1, 3, H, W), RGB, 0..255.
        iterations: maximum number of evaluations of the loss and its gradient.
        method: L-BFGS with history 100 (neural-style's), the same with torch's strong-Wolfe line search, or
            Adam with style-transfer-pytorch's rate (0.02 of the range of a pixel, betas 0.9 and 0.99).
        on_loss: called after every evaluation with the loss and its unbounded pixels; returns False to stop.
        start: the picture to start from, of the shape and range of `content`; None: the photo.
    """
    network = plain_activations(objective.vgg)
    targets = network(content)
    first = content if start is None else start
    pixels = nn.Parameter(first.clone(memory_format=torch.contiguous_format))
    solver: torch.optim.Optimizer
    if method == "adam":
        solver = torch.optim.Adam([pixels], lr=0.02 * 255, betas=(0.9, 0.99))
    else:
        solver = torch.optim.LBFGS(
            [pixels],
            max_iter=iterations,
            max_eval=iterations,
            history_size=100,
            tolerance_grad=-1,
            tolerance_change=-1,
            line_search_fn="strong_wolfe" if method == "lbfgs_wolfe" else None,
        )
    evaluations = 0

    def closure() -> float:
        nonlocal evaluations
        solver.zero_grad()
        loss = objective.of_activations(pixels, network(pixels), targets).total.sum()
        torch.autograd.backward(loss)
        evaluations += 1
        value = float(loss.detach())
        if not on_loss(value, pixels.detach()) or evaluations >= iterations:
            raise _Enough
        return value

    try:
        while True:
            solver.step(closure)  # type: ignore[no-untyped-call]
    except _Enough:
        return


class _Enough(Exception):  # noqa: N818 - nothing went wrong
    """Raised to leave the loop inside torch's optimiser."""


def train_step(
    net: nn.Module,
    objective: PerceptualLoss,
    network: Network,
    optimizer: torch.optim.Optimizer,
    content: Tensor,
) -> float:
    """One training step on the mean perceptual loss of a batch, as in pytorch/examples.

    It has no pairs, no logarithm, no schedule, no gradient clipping and no average of the weights.

    Args:
        net: maps 0..1 to 0..1, not clamped.
        objective: in fp32.
        network: `plain_activations` of the objective's VGG-16.
        optimizer: updates the weights of `net`.
        content: photos (B, 3, H, W), RGB, 0..255.

    Returns:
        The loss.
    """
    optimizer.zero_grad()
    stylized = net(content / 255) * 255
    with torch.no_grad():
        targets = network(content)
    loss = objective.of_activations(stylized, network(stylized), targets).total.mean()
    torch.autograd.backward(loss)
    optimizer.step()
    return float(loss.detach())


def plain_activations(vgg: Vgg16) -> Network:
    """The activations of `vgg`, computed by `plain_network` in contiguous tensors."""
    stages = plain_network(vgg, torch.contiguous_format)

    def network(image: Tensor) -> dict[str, Tensor]:
        x = vgg.normalised(image).contiguous()
        activations = {}
        for name, stage in stages.items():
            x = activations[name] = stage(x)
        return activations

    return network


def plain_network(vgg: Vgg16, memory_format: torch.memory_format) -> nn.ModuleDict:
    """The same VGG-16 made of torch's modules: one stage per layer, to call in order."""
    stages = nn.ModuleDict()
    for name, conv in vgg.convolutions.items():
        assert isinstance(conv, nn.Conv2d)
        pool = [nn.MaxPool2d(2)] if name.endswith("_1") and name != "relu1_1" else []
        stages[name] = nn.Sequential(*pool, copy.deepcopy(conv), nn.ReLU(inplace=True))
    return stages.requires_grad_(False).to(memory_format=memory_format)


Curve = list[tuple[float, float]]
"""(seconds since the start, loss) of every evaluation for one photo, in order."""

TARGET_ITERATIONS = (50, 100, 300)
"""Iterations of the baseline whose best loss other methods have to reach."""


PEERS_WEIGHTS: Mapping[Literal["content", "style"], float] = {"content": 1.0, "style": 5.0}
"""Weights of the losses in Johnson et al.'s slow_neural_style, which divides them by as much as we do."""


def white_noise(vgg: Vgg16, photo: Tensor) -> Tensor:
    """Where slow_neural_style starts: noise of deviation 1 around the network's mean, shaped like `photo`."""
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    return vgg.mean + noise.to(photo)


def run_baseline(
    objective: PerceptualLoss, photo: Tensor, iterations: int, method: Method, start: Tensor | None = None
) -> tuple[Curve, dict[str, float]]:
    """Run a baseline on one photo.

    curve, stored = run_baseline(objective, photo, 100, "lbfgs")

    Args:
        objective: in fp32.
        photo: (1, 3, H, W), RGB, 0..255.
        iterations: number of evaluations of the loss.
        method: see `optimise_one`; so is `start`.

    Returns:
        The curve, and by `TARGET_ITERATIONS` (as text) the loss of the picture that would be stored then.
    """
    curve: Curve = []
    stored: dict[str, float] = {}
    paused = 0.0
    begun = time.perf_counter()

    def on_loss(loss: float, pixels: Tensor) -> bool:
        nonlocal paused
        now = time.perf_counter()
        curve.append((now - begun - paused, loss))
        if len(curve) in TARGET_ITERATIONS:
            picture = pixels.clamp(0, 255).round()
            stored[str(len(curve))] = losses_of(objective, picture, photo).total.item()
            paused += time.perf_counter() - now
        return True

    optimise_one(objective, photo, iterations, method, on_loss, start)
    return curve, stored
