"""Slow transfer as the usual programs do it, to be measured beside `gatys`: nothing in a pipeline uses it.

One image at a time, fp32, contiguous NCHW tensors, autograd, `torch.optim`, pixels that nothing bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from batch_nst.engine.perceptual_loss import PerceptualLoss

Method = Literal["lbfgs", "lbfgs_wolfe", "adam"]


def optimise_one(
    objective: PerceptualLoss,
    content: Tensor,
    iterations: int,
    method: Method,
    on_loss: Callable[[float], bool],
) -> None:
    """Minimise from the photo, with the settings that the peers ship.

    Args:
        objective: in fp32.
        content: one photo (1, 3, H, W), RGB, 0..255.
        iterations: evaluations of the loss and its gradient, at most.
        method: L-BFGS with history 100 (neural-style's), the same with torch's strong-Wolfe line search, or
            Adam with style-transfer-pytorch's rate (0.02 of the range of a pixel, betas 0.9 and 0.99).
        on_loss: called with the loss of every evaluation; says whether to go on.
    """
    network = _Plain(objective)
    targets = {name: activation.contiguous() for name, activation in network(content).items()}
    pixels = nn.Parameter(content.clone(memory_format=torch.contiguous_format))
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
        value = float(loss)
        if not on_loss(value) or evaluations >= iterations:
            raise _Enough
        return value

    try:
        while True:
            solver.step(closure)
    except _Enough:
        return


class _Enough(Exception):
    """Leaves the loop inside torch's optimiser."""


class _Plain(nn.Module):
    """The same VGG-16, contiguous, layer after layer."""

    def __init__(self, objective: PerceptualLoss) -> None:
        super().__init__()
        self.normalise = objective.vgg.normalised
        self.wanted = objective.vgg.layers
        self.stages = nn.ModuleDict()
        for name, conv in objective.vgg.convolutions.items():
            assert isinstance(conv, nn.Conv2d)
            copy = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, device=conv.weight.device)
            copy.weight.data = conv.weight.contiguous()
            copy.bias.data = conv.bias.data  # type: ignore[union-attr]
            pool = [nn.MaxPool2d(2)] if name.endswith("_1") and name != "relu1_1" else []
            self.stages[name] = nn.Sequential(*pool, copy, nn.ReLU(inplace=True))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.normalise(image).contiguous()
        activations = {}
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self.wanted:
                activations[name] = x
        return activations
