"""Slow transfer (Gatys, Ecker and Bethge 2016): minimise the perceptual loss over the pixels of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from batch_nst.engine.lbfgs import Lbfgs
from batch_nst.engine.perceptual_loss import Losses, PerceptualLoss, check_images

ENGINE = "gatys-4"
"""Version of the results, stored with every image; it changes with every change of pixels."""

PICTURE = (0.0, 255.0)
"""Range of a pixel that an image can store."""

Optimizer = Literal["lbfgs", "adam"]


class Optimised(NamedTuple):
    """The result of `optimise`."""

    images: Tensor
    """(B, 3, H, W), RGB, 0..255, not rounded: the iterate of lowest loss of each image."""
    curve: Tensor
    """(iterations + 1, B), fp32: the loss after 0, 1, 2, ... iterations."""


def optimise(
    objective: PerceptualLoss,
    content: Tensor,
    iterations: int,
    optimizer: Optimizer = "lbfgs",
    on_iteration: Callable[[int], None] | None = None,
    start: Tensor | None = None,
    bounds: tuple[float, float] | None = PICTURE,
) -> Optimised:
    """Minimise the objective over the pixels of a batch; no image depends on its neighbours.

    optimised = optimise(objective, photos, iterations=100).images

    Args:
        objective: the objective of the style.
        content: photos (B, 3, H, W), RGB, 0..255.
        iterations: number of steps; the loss is evaluated once more, for the result of the last step.
        optimizer: `lbfgs` (with a history for each image) or `adam`.
        on_iteration: called with the number of steps done.
        start: images to start from, of the shape and range of `content`; by default the photos.
        bounds: lowest and highest value of a pixel; None: unbounded, to compare with programs without bounds.

    Returns:
        The best iterate of each image, and its losses. A loss that was NaN is NaN in the curve.

    Raises:
        ValueError: `content` is empty, too small for the deepest layer, or has NaN or infinite pixels.
    """
    check_images("content", content, objective.least_side)
    targets = objective.content_targets(content)
    step = new_step(optimizer)
    x = best = content if start is None else start
    least = content.new_full((len(content),), torch.inf)
    curve = []
    for iteration in range(iterations + 1):
        losses, gradient = objective.value_and_gradient(x, targets)
        curve.append(losses)
        better = losses < least
        least = torch.where(better, losses, least)
        best = torch.where(better[:, None, None, None], x, best)
        if iteration < iterations:
            # Departure from the paper: every iterate is projected onto the range of an image. Clamping only
            # the last one, as is common, loses part of what the iterations gained.
            x = step(x, gradient)
            if bounds:
                x = x.clamp(*bounds)
            if on_iteration is not None:
                on_iteration(iteration + 1)
    return Optimised(best, torch.stack(curve))


def losses_of(objective: PerceptualLoss, image: Tensor, content: Tensor) -> Losses:
    """The losses of images for photos, both (B, 3, H, W), RGB, 0..255, without gradients."""
    with torch.no_grad():
        return objective(image, objective.content_targets(content))


Step = Callable[[Tensor, Tensor], Tensor]
"""Maps images (B, 3, H, W) and their gradients to the next images, and keeps the optimiser's state."""


def new_step(optimizer: Optimizer) -> Step:
    """The step of a new optimisation of one batch."""
    return _lbfgs_step() if optimizer == "lbfgs" else _adam_step()


def _lbfgs_step() -> Step:
    solver: list[Lbfgs] = []

    def step(x: Tensor, gradient: Tensor) -> Tensor:
        if not solver:
            solver.append(Lbfgs(precondition=_smoother(x)))
        return solver[0].step(x.flatten(1), gradient.flatten(1)).view_as(x)

    return step


def _smoother(like: Tensor) -> Callable[[Tensor], Tensor]:
    """The preconditioner of L-BFGS: an initial inverse Hessian with lower curvature for long waves.

    A wave of f cycles per pixel is divided by 1 + 20 f. This departs from the paper and its followers; it was
    found by trial, and docs/engine.md measures what it gains.
    """
    height, width = like.shape[2:]
    rows = torch.fft.fftfreq(height, device=like.device, dtype=like.dtype)
    columns = torch.fft.rfftfreq(width, device=like.device, dtype=like.dtype)
    gain = 1 / (1 + 20 * torch.hypot(rows[:, None], columns))

    def smooth(gradient: Tensor) -> Tensor:
        waves = torch.fft.rfft2(gradient.view(like.shape)) * gain
        smoothed: Tensor = torch.fft.irfft2(waves, s=(height, width)).flatten(1)
        return smoothed

    return smooth


def _adam_step(learning_rate: float = 16.0) -> Step:
    """Adam (Kingma and Ba 2015) with a learning rate in grey levels; `torch.optim` keeps the moments."""
    pixels: list[Tensor] = []
    solver: list[torch.optim.Adam] = []

    def step(x: Tensor, gradient: Tensor) -> Tensor:
        if not solver:
            pixels.append(torch.nn.Parameter(x.clone()))
            solver.append(torch.optim.Adam(pixels, lr=learning_rate))
        with torch.no_grad():
            pixels[0].copy_(x)
        pixels[0].grad = gradient
        solver[0].step()
        return pixels[0].detach().clone()

    return step
