"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): steps in which all directions count.

A few directions dominate the gradient of a convolution. Muon takes its moving average as a matrix, with a row
for each output channel, and sets all singular values to about 1. Each direction then moves by as much.

`torch.optim.Muon` does the same in bf16, which many CPUs only emulate. Here the products are computed in the
type of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import torch
import torch.distributed
from torch import Tensor, nn

_LEAST: Final = 16
"""Rows and columns of the smallest matrix; smaller ones have too few directions to be worth it."""
_MOMENTUM: Final = 0.95
_RATE: Final = 2.0
"""Change of a weight, as a root mean square, at a learning rate of 1. That of Adam is below 1."""
_ITERATIONS: Final = 5
_QUINTIC: Final = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x^3 and x^5. Five iterations take singular values from 0.01 to 1 into 0.68 to 1.14."""


def matrices(net: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon moves: those of convolutions with at least 16 output channels and 16 inputs."""
    return [
        weight for weight in net.parameters() if weight.ndim == 4 and min(_as_matrix(weight).shape) >= _LEAST
    ]


class Muon(torch.optim.Optimizer):
    """Moves the weights of convolutions; where several processes train together, all by the same bits."""

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float,
        across: Callable[[Callable[[Tensor], Tensor], list[Tensor]], Iterator[Tensor]] = map,
    ) -> None:
        """Start without momentum.

        Args:
            weights: of shape (output channels, input channels, height, width).
            lr: learning rate; a weight moves by twice as much, as a root mean square.
            across: as `map`; may call the function on several threads.
        """
        super().__init__(weights, {"lr": lr})
        self._across = across

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all weights along their gradients."""
        for group in self.param_groups:
            weights: list[nn.Parameter] = group["params"]
            averages = [self._average(weight) for weight in weights]
            for weight, direction in zip(weights, self._same_everywhere(averages), strict=True):
                # The entries of an orthogonal matrix are 1 / sqrt(longer side), as a root mean square.
                size = _RATE * max(direction.shape) ** 0.5
                weight.add_(direction.view_as(weight), alpha=-group["lr"] * size)

    def _average(self, weight: nn.Parameter) -> Tensor:
        """The gradient's moving average, and a step of it ahead (Nesterov), as a matrix."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["average"] = torch.zeros_like(weight)
        average: Tensor = state["average"].lerp_(weight.grad, 1 - _MOMENTUM)
        return _as_matrix(weight.grad.lerp(average, _MOMENTUM))

    def _same_everywhere(self, averages: list[Tensor]) -> list[Tensor]:
        """Orthogonalised; by the first process alone, since products differ in rounding between machines."""
        if not torch.distributed.is_initialized():
            return list(self._across(orthogonalised, averages))
        if torch.distributed.get_rank() == 0:
            averages = list(self._across(orthogonalised, averages))
        flat = torch.cat([each.flatten() for each in averages])
        torch.distributed.broadcast(flat, 0)
        parts = flat.split_with_sizes([each.numel() for each in averages])
        return [part.view_as(each) for part, each in zip(parts, averages, strict=True)]


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix with its singular vectors and singular values near 1, by a Newton-Schulz iteration.

    Args:
        matrix: of any shape (rows, columns); its length does not matter.

    Returns:
        Of the same shape. Singular values of at least a hundredth of the matrix' norm end in 0.68 to 1.14,
        smaller ones below.
    """
    linear, cubic, quintic = _QUINTIC
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=cubic, alpha=quintic), x, beta=linear)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def _as_matrix(weight: Tensor) -> Tensor:
    """(output channels, the rest), whatever the memory format."""
    return weight.reshape(len(weight), -1)
