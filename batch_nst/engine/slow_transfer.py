"""Slow transfer (Gatys, Ecker and Bethge 2016): minimise the perceptual loss over the pixels of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from batch_nst.engine.lbfgs import Lbfgs
from batch_nst.engine.perceptual_loss import Losses, PerceptualLoss, check_images

ENGINE = "gatys-4"
"""Changes with every change of results, here, in `lbfgs` or in the gradient; stored with every image."""

PICTURE = (0.0, 255.0)
"""What a pixel of a picture can be."""

Optimizer = Literal["lbfgs", "adam"]


class Optimised(NamedTuple):
    """What `optimise` found."""

    images: Tensor
    """(B, 3, H, W), RGB, 0..255, not rounded: for each image the iterate of least loss."""
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
    """Minimise the objective from the photos; every image by itself, whatever its neighbours are.

    Args:
        objective: the style's.
        content: photos (B, 3, H, W), RGB, 0..255.
        iterations: steps; the loss is evaluated once more, for the last step's result.
        optimizer: `lbfgs` keeps a history for each image; `adam` is elementwise anyway.
        on_iteration: called with the number of steps done.
        start: where to begin instead of at the photos; the same shape and range.
        bounds: least and greatest value of a pixel; None is for comparisons with programs that have none.

    Returns:
        The best iterate of each image and its losses. An image that met a NaN has it in its curve.

    Raises:
        ValueError: no photos, too small ones for the deepest layer, or pixels that are no numbers.
    """
    check_images("content", content, objective.least_side)
    targets = objective.content_targets(content)
    step = _lbfgs_step() if optimizer == "lbfgs" else _adam_step()
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
            # Departure from the paper: every iterate is projected onto what a picture can hold. Clamping
            # only the last one, as is usual, throws away part of what the iterations won.
            x = step(x, gradient)
            if bounds:
                x = x.clamp(*bounds)
            if on_iteration is not None:
                on_iteration(iteration + 1)
    return Optimised(best, torch.stack(curve))


def losses_of(objective: PerceptualLoss, image: Tensor, content: Tensor) -> Losses:
    """The losses of images against photos, both (B, 3, H, W), RGB, 0..255, without gradients."""
    with torch.no_grad():
        return objective(image, objective.content_targets(content))


Step = Callable[[Tensor, Tensor], Tensor]


def _lbfgs_step() -> Step:
    solver: list[Lbfgs] = []

    def step(x: Tensor, gradient: Tensor) -> Tensor:
        if not solver:
            solver.append(Lbfgs(precondition=_smoother(x)))
        return solver[0].step(x.flatten(1), gradient.flatten(1)).view_as(x)

    return step


def _smoother(like: Tensor) -> Callable[[Tensor], Tensor]:
    """What L-BFGS takes the inverse Hessian for before it has seen any: long waves bend less than short.

    A wave of f cycles a pixel is divided by 1 + 20 f. Departure from the paper and its followers, found by
    trial; docs/engine.md says what it is worth.
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
    """Kingma and Ba (2015) with a rate in grey levels; `torch.optim` holds the moments."""
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
