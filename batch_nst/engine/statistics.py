"""Statistics over photos: geometric means, and how many iterations a model is worth (bootstrap)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Values: TypeAlias = npt.NDArray[np.float64]

_LEAST = 1e-12
"""Smallest loss in a logarithm, because a loss may be 0."""
_RESAMPLES, _CUT = 2000, 50
"""Number of bootstrap resamples, and of those cut off at either end: 95 % lie between."""
_ADDITIVE = frozenset({"ssim", "checkerboard"})
"""Figures with an arithmetic mean, since SSIM may be below 0."""


def geometric_mean(values: Iterable[float]) -> float | None:
    """The geometric mean: None without values, 0 if a value is 0 or below, else NaN if one is NaN."""
    known = list(values)
    if not known:
        return None
    if any(value <= 0 for value in known):
        return 0.0
    return math.exp(sum(map(math.log, known)) / len(known))


def mean_figure(name: str, values: Sequence[float]) -> float:
    """The mean of a figure over photos: geometric for losses and distances, else arithmetic.

    Args:
        name: `total`, `content`, `style`, `distance`, `ssim` or `checkerboard`.
        values: one per photo, at least one.
    """
    found = sum(values) / len(values) if name in _ADDITIVE else geometric_mean(values)
    if found is None:
        raise ValueError(f"{name}: no values")
    return found


@dataclass(frozen=True)
class Equivalence:
    """The number of iterations of an optimisation that a model is worth."""

    curve: list[float]
    """Geometric mean over images of the running minima after 0, 1, 2, ... iterations."""
    worth_iterations: int | None
    """Most iterations that the model is at least as good as; None: it is worse than the photos."""
    worth_interval: tuple[int | None, int | None]
    """Both ends of the 95 % interval of `worth_iterations`; None as there."""
    verdict: str
    """The same in words."""


def equivalent_iterations(
    curves: Sequence[Sequence[float]],
    objectives: Sequence[float],
    photos: Sequence[str],
    way: str = "the optimisation",
) -> Equivalence:
    """The number of iterations of an optimisation that a model is worth; equal input gives equal results.

    equivalent_iterations([[4.0, 2.0, 1.0]], [1.5], ["a.jpg"]).worth_iterations  # 1

    Args:
        curves: losses of each image after 0, 1, 2, ... iterations, all of the same length.
        objectives: loss of the stylized image of each.
        photos: the photo that each image is a crop of.
        way: name of the optimisation, for the verdict.
    """
    # The running minimum of each image first: early steps of an optimiser may overshoot. Iterates whose loss
    # is NaN are ignored, as in `optimise`.
    least = np.fmin.accumulate(np.array(curves, np.float64), axis=1)
    heights = np.log2(np.maximum(least, _LEAST))
    with np.errstate(invalid="ignore"):  # a model whose loss is NaN is never ahead
        ahead = heights - np.log2(np.maximum(np.array(objectives, np.float64), _LEAST))[:, None]
        total = ahead.sum(0)
        worth, interval = worth_iterations(total.tolist(), 0.0), _interval(ahead, photos)
    return Equivalence(
        curve=np.exp2(heights.mean(0)).tolist(),
        worth_iterations=worth,
        worth_interval=interval,
        verdict=_verdict(total, worth, interval if len(set(photos)) > 1 else None, way),
    )


def worth_iterations(curve: Sequence[float], objective: float) -> int | None:
    """The most iterations that an objective is at least as good as; None: it is worse than the photo."""
    reached = [iteration for iteration, loss in enumerate(curve) if objective <= loss]
    return max(reached) if reached else None


def _interval(ahead: Values, photos: Sequence[str]) -> tuple[int | None, int | None]:
    """The 95 % interval, by bootstrap over photos: crops of one photo are not independent."""
    names, numbers = np.unique(np.array(photos), return_inverse=True)
    by_photo = np.zeros((len(names), ahead.shape[1]))
    np.add.at(by_photo, numbers, ahead)
    chance = np.random.default_rng(0)
    found = []
    for _ in range(_RESAMPLES):
        reached = np.flatnonzero(by_photo[chance.integers(len(names), size=len(names))].sum(0) >= 0)
        found.append(int(reached[-1]) if len(reached) else -1)
    found.sort()
    low, high = (None if end < 0 else end for end in (found[_CUT], found[-1 - _CUT]))
    return low, high


def _verdict(
    ahead: Values, worth: int | None, interval: tuple[int | None, int | None] | None, way: str
) -> str:
    """The result in words; None as interval: there is only one photo."""
    last = len(ahead) - 1
    if worth is None:
        verdict = "worse than the photo"
    else:
        more, number = ("more than ", last) if ahead[-1] > 0 else ("", worth)
        verdict = f"worth {more}{number} iteration{'s' if number != 1 else ''} of {way}"
    if interval is None or interval == (None, None):
        return verdict
    low, high = (
        "worse than the photo" if end is None else f"{end} or more" if end == last else str(end)
        for end in interval
    )
    return f"{verdict} (95 % interval: {low} to {high})"
