"""L-BFGS for a batch of images, each with a history of its own.

`torch.optim.LBFGS` treats a batch as one vector, so that one image's curvature affects another's step. Here
every inner product is taken within an image. There is no line search: a step is one evaluation.

The inverse Hessian is applied in the compact form of Byrd, Nocedal and Schnabel (1994, equation 3.1) instead
of the two-loop recursion. S and Y hold the remembered steps and changes of the gradient as columns, R is the
upper triangle of S'Y, D its diagonal, and gamma P the initial estimate:

    H g = gamma P g + S R^-T ((D + gamma Y'PY) R^-1 S'g - gamma Y'P g) - gamma PY R^-1 S'g.

Only S and PY are kept. Each step reads them twice, in two matrix products; the recursion would read them four
times, one vector at a time. Everything else works on matrices of the history's length. An image is cut into
blocks that are multiplied separately, so that its result does not depend on its neighbours in the batch.

Departure from common practice: gamma is twice s'y / y'Py of the newest pair. That ratio weighs directions by
the square of their curvature, so it suits stiff directions, and steps fall short of the minimum. There is no
line search to lengthen them. docs/engine.md measures what this gains.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 4096
"""Values of an image in one block: 60 remembered vectors of this length fit into a processor's cache."""

_REACH = 2.0
"""gamma in units of s'y / y'Py."""


class Lbfgs:
    """The state of a batch of minimisations."""

    def __init__(
        self,
        history: int = 30,
        first_step: float = 3.0,
        longest_step: float = 10.0,
        precondition: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Start with an empty history.

        Args:
            history: number of pairs (s, y) kept for each image.
            first_step: root mean square of the first step, in grey levels.
            longest_step: maximum root mean square of every later step, in grey levels.
            precondition: P, a symmetric, positive definite map of gradients (B, N); by default the identity.
        """
        self._history = history
        self._first_step = first_step
        self._longest_step = longest_step
        self._precondition = precondition or (lambda gradient: gradient)
        self._seen = 0
        self._previous: tuple[Tensor, Tensor, Tensor] | None = None

    def step(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The next iterate of each image.

        Args:
            x: (B, N), the point at which `gradient` was taken.
            gradient: (B, N).

        Returns:
            (B, N), a new tensor.
        """
        smooth = self._precondition(gradient)
        if self._previous is None:
            self._begin(smooth)
            direction = smooth * -self._gamma[:, None].to(smooth)
        else:
            direction = self._inverse_hessian_times(smooth, *self._remember(x, gradient, smooth)).neg_()
        if self._previous is not None:
            direction *= (self._longest_step / _rms(direction).clamp_min(1e-20)).clamp_max(1.0)[:, None]
        self._previous = (x, gradient, smooth)
        return direction.add_(x)

    def _begin(self, smooth: Tensor) -> None:
        images, m = len(smooth), self._history
        blocks = -(-smooth.shape[1] // _BLOCK)
        self._memory = smooth.new_zeros(images, blocks, 2 * m, _BLOCK)  # S' above (PY)'
        self._sy = smooth.new_zeros(images, m, m, dtype=torch.float64)
        self._ypy = torch.zeros_like(self._sy)
        self._valid = torch.zeros(images, m, dtype=torch.bool, device=smooth.device)
        self._gamma = self._first_step / _rms(smooth).double().clamp_min(1e-20)

    def _remember(self, x: Tensor, gradient: Tensor, smooth: Tensor) -> tuple[Tensor, Tensor]:
        """Replace the oldest pair by the newest one. Returns S'g and Y'Pg, each (B, history), fp64."""
        assert self._previous is not None
        m, new = self._history, self._seen % self._history
        self._seen += 1
        step, change, smooth_change = (
            now - before for now, before in zip((x, gradient, smooth), self._previous, strict=True)
        )
        self._memory[:, :, new], self._memory[:, :, m + new] = _blocks(step), _blocks(smooth_change)
        of_change, of_gradient = self._products(torch.stack((change, gradient), 1)).unbind(1)
        with_s, with_py = of_change[:, :m], of_change[:, m:]
        self._sy[:, :, new] = with_s
        self._ypy[:, :, new] = self._ypy[:, new] = with_py
        curvature, size = with_s[:, new], with_py[:, new]
        # A pair without positive curvature would make the estimate indefinite: it is ignored for that image.
        self._valid[:, new] = curvature > 1e-10 * size
        gamma = _REACH * curvature / size.clamp_min(1e-30)
        self._gamma = torch.where(self._valid[:, new], gamma, self._gamma)
        return of_gradient[:, :m], of_gradient[:, m:]

    def _products(self, vectors: Tensor) -> Tensor:
        """Products of vectors (B, K, N) with all remembered ones: (B, K, 2 * history), fp64."""
        blocks = _blocks(vectors).transpose(1, 2)
        products = torch.bmm(blocks.flatten(0, 1), self._memory.flatten(0, 1).mT)
        return products.view(*blocks.shape[:3], -1).double().sum(1)

    def _inverse_hessian_times(self, smooth: Tensor, s_g: Tensor, py_g: Tensor) -> Tensor:
        oldest_first = self._slots()
        valid = self._valid[:, oldest_first]
        both = valid[:, :, None] & valid[:, None, :]
        s_y, y_py = (
            torch.where(both, table[:, oldest_first][:, :, oldest_first], 0.0)
            for table in (self._sy, self._ypy)
        )
        s_g, py_g = (
            torch.where(valid, products[:, oldest_first], 0.0)[..., None] for products in (s_g, py_g)
        )
        gamma = self._gamma[:, None, None]
        r = s_y.triu() + torch.diag_embed((~valid).to(s_y))
        p = torch.linalg.solve_triangular(r, s_g, upper=True)
        q = s_y.diagonal(dim1=1, dim2=2)[..., None] * p + gamma * (y_py @ p - py_g)
        factors = torch.zeros_like(self._sy[:, 0]).repeat(1, 2)
        factors[:, oldest_first] = torch.linalg.solve_triangular(r.mT, q, upper=False)[..., 0]
        factors[:, self._history + oldest_first] = (-gamma * p)[..., 0]
        blocks = self._memory.shape[1]
        spread = factors.to(smooth)[:, None].expand(-1, blocks, -1).flatten(0, 1)
        weighted = torch.bmm(spread[:, None], self._memory.flatten(0, 1)).view(len(smooth), -1)
        return weighted[:, : smooth.shape[1]] + smooth * gamma[:, 0].to(smooth)

    def _slots(self) -> Tensor:
        """The slots in use, oldest first. Made on the device: to copy a list there, the host would wait."""
        slots = torch.arange(min(self._seen, self._history), device=self._sy.device)
        return (slots + max(0, self._seen - self._history)) % self._history


def _blocks(a: Tensor) -> Tensor:
    """(..., N) as (..., ceil(N / _BLOCK), _BLOCK), padded with zeros."""
    return F.pad(a, (0, -a.shape[-1] % _BLOCK)).view(*a.shape[:-1], -1, _BLOCK)


def _rms(a: Tensor) -> Tensor:
    # Summed in blocks: threads would split a single row, but take whole rows of a batch, and round
    # differently.
    return (_blocks(a).square().sum(2).sum(1) / a.shape[1]).sqrt()
