"""L-BFGS (Nocedal and Wright, Algorithm 7.4) for many images at once, each with a history of its own.

`torch.optim.LBFGS` sees a batch as one vector, so that one image's curvature steers another's step. Here
every inner product is taken inside an image. There is no line search: a step is one evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Lbfgs:
    """The state of a batch of minimisations."""

    def __init__(self, history: int = 20, first_step: float = 3.0, longest_step: float = 10.0) -> None:
        """Nothing is remembered yet.

        Args:
            history: pairs (s, y) kept for each image.
            first_step: root mean square of the first step, in grey levels.
            longest_step: cap on that of every later step.
        """
        self._history = history
        self._first_step = first_step
        self._longest_step = longest_step
        self._steps: list[Tensor] = []
        self._changes: list[Tensor] = []
        self._curvatures: list[Tensor] = []
        self._scale: Tensor | None = None
        self._previous: tuple[Tensor, Tensor] | None = None

    def step(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The next iterate of each image.

        Args:
            x: (B, N), the point at which `gradient` was taken.
            gradient: (B, N).

        Returns:
            (B, N), a new tensor.
        """
        if self._previous is not None:
            self._remember(x - self._previous[0], gradient - self._previous[1])
        if self._scale is None:
            direction = -gradient * (self._first_step / _rms(gradient).clamp_min(1e-20))[:, None]
        else:
            direction = -self._inverse_hessian_times(gradient)
            direction *= (self._longest_step / _rms(direction).clamp_min(1e-20)).clamp_max(1.0)[:, None]
        self._previous = (x, gradient)
        return x + direction

    def _remember(self, step: Tensor, change: Tensor) -> None:
        curvature = _dot(step, change)
        # A pair without positive curvature would make the estimate indefinite: for that image it counts as
        # absent, which a reciprocal of 0 expresses in every formula below.
        valid = curvature > 1e-10 * _dot(change, change)
        reciprocal = torch.where(valid, 1.0 / curvature, 0.0)
        if len(self._steps) == self._history:
            self._steps.pop(0), self._changes.pop(0), self._curvatures.pop(0)
        self._steps.append(step)
        self._changes.append(change)
        self._curvatures.append(reciprocal)
        scale = curvature / _dot(change, change).clamp_min(1e-30)
        previous = self._first_step / _rms(self._previous_gradient()).clamp_min(1e-20)
        self._scale = torch.where(valid, scale, previous if self._scale is None else self._scale)

    def _previous_gradient(self) -> Tensor:
        assert self._previous is not None
        return self._previous[1]

    def _inverse_hessian_times(self, gradient: Tensor) -> Tensor:
        assert self._scale is not None
        q = gradient.clone()
        pairs = list(zip(self._steps, self._changes, self._curvatures, strict=True))
        alphas = []
        for s, y, rho in reversed(pairs):
            alpha = rho * _dot(s, q)
            q -= alpha[:, None] * y
            alphas.append(alpha)
        q *= self._scale[:, None]
        for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
            q += (alpha - rho * _dot(y, q))[:, None] * s
        return q


def _dot(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.linalg.vecdot(a, b)
    return product


def _rms(a: Tensor) -> Tensor:
    return a.square().mean(1).sqrt()
