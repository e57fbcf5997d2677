"""Statistics over photos: means, ratios, and how many iterations of an optimisation a model is worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Values: TypeAlias = npt.NDArray[np.float64]

_LEAST = 1e-12
"""Lower bound of a loss, so that a loss of 0 has a logarithm."""
_RESAMPLES, _CUT = 2000, 50
"""Resamples of the bootstrap, and how many are cut off at each end: 95 % lie between."""
_ADDITIVE = frozenset({"ssim", "checkerboard"})
"""Figures with an arithmetic mean: SSIM may be below 0."""


def geometric_mean(values: Iterable[float]) -> float | None:
    """The geometric mean of losses: 0 if one is 0 or less, otherwise NaN if one is NaN; None of no values.

    geometric_mean([2.0, 8.0])  # 4.0
    """
    known = list(values)
    if not known:
        return None
    if any(value <= 0 for value in known):
        return 0.0
    return math.exp(sum(map(math.log, known)) / len(known))


def mean_figure(name: str, values: Sequence[float]) -> float:
    """The mean of a figure over photos: geometric for losses and distances, arithmetic for the others.

    Args:
        name: `total`, `content`, `style`, `distance`, `ssim` or `checkerboard`.
        values: one per photo; at least one.
    """
    found = sum(values) / len(values) if name in _ADDITIVE else geometric_mean(values)
    if found is None:
        raise ValueError(f"{name}: no values")
    return found


@dataclass(frozen=True)
class Ratio:
    """One figure divided by another, over photos."""

    value: float
    """The geometric mean of the photos' ratios."""
    interval: tuple[float, float] | None
    """Both ends of its 95 % interval, by the bootstrap over photos; None of one photo."""


def ratio(values: Sequence[float], others: Sequence[float], photos: Sequence[str]) -> Ratio:
    """How many times another figure a figure is; the same input gives the same output.

    ratio([2.0, 8.0], [1.0, 1.0], ["a", "b"]).value  # 4.0

    Args:
        values: a loss of each image.
        others: the loss that it is divided by.
        photos: the photo that each image is a crop of.
    """
    with np.errstate(invalid="ignore"):  # a loss that is NaN makes a ratio that is NaN
        above, below = (np.log2(np.maximum(np.array(each, np.float64), _LEAST)) for each in (values, others))
    logs = above - below
    sums, sizes = _by_photo(logs[:, None], photos)[:, 0], _by_photo(np.ones((len(logs), 1)), photos)[:, 0]
    interval = None
    if len(sums) > 1:
        drawn = _draws(len(sums))
        found = np.sort(sums[drawn].sum(1) / sizes[drawn].sum(1))
        interval = float(np.exp2(found[_CUT])), float(np.exp2(found[-1 - _CUT]))
    return Ratio(float(np.exp2(logs.mean())), interval)


@dataclass(frozen=True)
class Equivalence:
    """The number of iterations of an optimisation that a model is worth."""

    curve: list[float]
    """Objective after 0, 1, 2, ... iterations: the geometric mean of the images' running minima."""
    worth_iterations: int | None
    """The most iterations that the model is at least as good as; None if it is worse than the photos."""
    worth_interval: tuple[int | None, int | None]
    """Both ends of its 95 % interval, by the bootstrap over photos."""
    verdict: str
    """The same in words."""


def equivalent_iterations(
    curves: Sequence[Sequence[float]],
    objectives: Sequence[float],
    photos: Sequence[str],
    way: str = "the optimisation",
) -> Equivalence:
    """How many iterations of an optimisation a model is worth; the same input gives the same output.

    Args:
        curves: losses of each image after 0, 1, 2, ... iterations; all of one length.
        objectives: the loss of each image's stylized image.
        photos: the photo that each image is a crop of.
        way: name of the optimisation in the verdict.
    """
    # The running minimum of each image first: an optimiser's early steps overshoot on some of them. Losses
    # that are NaN are ignored, here as in `optimise`.
    least = np.fmin.accumulate(np.array(curves, np.float64), axis=1)
    heights = np.log2(np.maximum(least, _LEAST))
    with np.errstate(invalid="ignore"):  # a model whose loss is NaN is ahead of nothing
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
    """The most iterations of the optimisation that an objective is at least as good as; None: not even 0."""
    reached = [iteration for iteration, loss in enumerate(curve) if objective <= loss]
    return max(reached) if reached else None


def _interval(ahead: Values, photos: Sequence[str]) -> tuple[int | None, int | None]:
    """The 95 % interval by the bootstrap over photos, whose crops are drawn together."""
    by_photo = _by_photo(ahead, photos)
    found = []
    for drawn in _draws(len(by_photo)):
        reached = np.flatnonzero(by_photo[drawn].sum(0) >= 0)
        found.append(int(reached[-1]) if len(reached) else -1)
    found.sort()
    low, high = (None if end < 0 else end for end in (found[_CUT], found[-1 - _CUT]))
    return low, high


def _by_photo(rows: Values, photos: Sequence[str]) -> Values:
    """The sums of the rows of each photo."""
    names, numbers = np.unique(np.array(photos), return_inverse=True)
    found = np.zeros((len(names), rows.shape[1]))
    np.add.at(found, numbers, rows)
    return found


def _draws(photos: int) -> npt.NDArray[np.int64]:
    """The photos of each resample."""
    chance = np.random.default_rng(0)
    return np.stack([chance.integers(photos, size=photos) for _ in range(_RESAMPLES)])


def _verdict(
    ahead: Values, worth: int | None, interval: tuple[int | None, int | None] | None, way: str
) -> str:
    """The result in words; without an interval if there is one photo, which says nothing about others."""
    last = len(ahead) - 1
    if worth is None:
        words = "worse than the photo"
    else:
        more, number = ("more than ", last) if ahead[-1] > 0 else ("", worth)
        words = f"worth {more}{number} iteration{'s' if number != 1 else ''} of {way}"
    if interval is None or interval == (None, None):
        return words
    low, high = (
        "worse than the photo" if end is None else f"{end} or more" if end == last else str(end)
        for end in interval
    )
    return f"{words} (95 % interval: {low} to {high})"
