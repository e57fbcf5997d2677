"""L-BFGS for many images at once, each with a history of its own.

`torch.optim.LBFGS` sees a batch as one vector, so that one image's curvature steers another's step. Here
every inner product is taken inside an image. There is no line search: a step is one evaluation.

The inverse Hessian is applied in the compact form of Byrd, Nocedal and Schnabel (1994, equation 3.1) instead
of the usual recursion of two loops: with S and Y the remembered steps and changes of the gradient as columns,
R the upper triangle of S'Y and D its diagonal,

    H g = gamma g + [S, gamma Y] [[R^-T (D + gamma Y'Y) R^-1, -R^-T], [-R^-1, 0]] [S'g; gamma Y'g].

The history is read twice a step, in two matrix products, where the recursion reads it four times, a vector at
a time; what lies between is a matter of matrices of the history's length. An image is cut into blocks, and a
product is that of each block by itself, so that no neighbour changes a bit of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 4096
"""Numbers of an image that are multiplied at once: 40 remembered vectors of them fit a processor's cache."""


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
        self._seen = 0
        self._previous: tuple[Tensor, Tensor] | None = None

    def step(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The next iterate of each image.

        Args:
            x: (B, N), the point at which `gradient` was taken.
            gradient: (B, N).

        Returns:
            (B, N), a new tensor.
        """
        if self._previous is None:
            self._begin(gradient)
            direction = -gradient * self._gamma[:, None].to(gradient)
        else:
            direction = -self._inverse_hessian_times(gradient, x - self._previous[0], gradient - self._previous[1])
            direction *= (self._longest_step / _rms(direction).clamp_min(1e-20)).clamp_max(1.0)[:, None]
        self._previous = (x, gradient)
        return x + direction

    def _begin(self, gradient: Tensor) -> None:
        images, m = len(gradient), self._history
        blocks = -(-gradient.shape[1] // _BLOCK)
        self._memory = gradient.new_zeros(images, blocks, 2 * m, _BLOCK)  # S' above Y'
        tables = {"dtype": torch.float64, "device": gradient.device}
        self._sy = torch.zeros(images, m, m, **tables)
        self._yy = torch.zeros(images, m, m, **tables)
        self._valid = torch.zeros(images, m, dtype=torch.bool, device=gradient.device)
        self._gamma = self._first_step / _rms(gradient).double().clamp_min(1e-20)

    def _inverse_hessian_times(self, gradient: Tensor, step: Tensor, change: Tensor) -> Tensor:
        """H g, after the newest pair has taken the place of the oldest."""
        m, new = self._history, self._seen % self._history
        self._seen += 1
        newest = torch.stack([_blocks(step), _blocks(change), _blocks(gradient)], 2)
        self._memory[:, :, [new, m + new]] = newest[:, :, :2]
        products = torch.bmm(newest.flatten(0, 1), self._memory.flatten(0, 1).mT)
        products = products.unflatten(0, newest.shape[:2]).double().sum(1)  # (B, 3, 2m)
        (with_s, with_y, with_g) = products.unbind(1)
        self._sy[:, :, new], self._sy[:, new] = with_y[:, :m], with_s[:, m:]
        self._yy[:, :, new] = self._yy[:, new] = with_y[:, m:]
        curvature, size = self._sy[:, new, new], self._yy[:, new, new]
        # A pair without positive curvature would make the estimate indefinite: for that image it counts as absent.
        self._valid[:, new] = curvature > 1e-10 * size
        self._gamma = torch.where(self._valid[:, new], curvature / size.clamp_min(1e-30), self._gamma)

        oldest_first = [slot % m for slot in range(max(0, self._seen - m), self._seen)]
        valid = self._valid[:, oldest_first]
        both = valid[:, :, None] & valid[:, None, :]
        s_y = torch.where(both, self._sy[:, oldest_first][:, :, oldest_first], 0.0)
        y_y = torch.where(both, self._yy[:, oldest_first][:, :, oldest_first], 0.0)
        s_g, y_g = (
            torch.where(valid, half[:, oldest_first], 0.0)[..., None] for half in with_g.split(m, 1)
        )
        diagonal = s_y.diagonal(dim1=1, dim2=2)
        r = s_y.triu() + torch.diag_embed((~valid).to(s_y))
        gamma = self._gamma[:, None, None]
        p = torch.linalg.solve_triangular(r, s_g, upper=True)
        of_s = torch.linalg.solve_triangular(
            r.mT, diagonal[..., None] * p + gamma * (y_y @ p - y_g), upper=False
        )
        factors = products.new_zeros(len(gradient), 2 * m)
        factors[:, oldest_first] = of_s[..., 0]
        factors[:, [m + slot for slot in oldest_first]] = (-gamma * p)[..., 0]
        factors = factors.to(gradient)[:, None, None].expand(-1, newest.shape[1], -1, -1)
        weighted = torch.bmm(factors.flatten(0, 1), self._memory.flatten(0, 1)).view(len(gradient), -1)
        return weighted[:, : gradient.shape[1]].add_(gradient * self._gamma[:, None].to(gradient))


def _blocks(a: Tensor) -> Tensor:
    """(B, N) as (B, ceil(N / _BLOCK), _BLOCK), filled up with zeros."""
    return F.pad(a, (0, -a.shape[1] % _BLOCK)).unflatten(1, (-1, _BLOCK))


def _rms(a: Tensor) -> Tensor:
    return a.square().mean(1).sqrt()
