"""The engine against the baseline on the same photos: how long each takes to reach the same loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from batch_nst.engine.baselines import TARGET_ITERATIONS, Curve
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.slow_transfer import PICTURE, optimise
from batch_nst.engine.statistics import geometric_mean
from batch_nst.engine.timing import wait_for


@dataclass
class PhotoRace:
    """The curves of all methods on one photo."""

    curves: dict[str, Curve]
    """Curve by method; `lbfgs` is the baseline that the others are compared with."""
    stored: dict[str, float]
    """Losses of the pictures that the baseline would store, see `run_baseline`."""

    @property
    def baseline(self) -> Curve:
        """The curve of L-BFGS."""
        return self.curves["lbfgs"]


@dataclass(frozen=True)
class Speedup:
    """How many times sooner a method reaches the baseline's losses; None if no photo was measured so far."""

    speedup: float | None
    """Geometric mean over the photos."""
    least: float | None
    most: float | None
    photos: int
    not_reached: int
    """Photos on which the method never reached the loss."""


class Difference(TypedDict):
    """How far two batches of pictures are apart as stored."""

    largest: float
    """Grey levels."""
    beyond_1: float
    """Share of the values that differ by more than one grey level."""


def run_engine(
    objective: PerceptualLoss,
    photos: Tensor,
    iterations: int,
    bounds: tuple[float, float] | None = PICTURE,
    first_guess: Callable[[Tensor], Tensor] | None = None,
) -> list[Curve]:
    """The engine's curve of each photo; its seconds are those of the batch divided by its photos.

    Args:
        objective: in the precision to measure.
        photos: (B, 3, H, W), RGB, 0..255.
        iterations: number of steps.
        bounds: least and greatest value of a pixel; None: unbounded as in the baselines, whose least loss
            may be one that no picture has.
        first_guess: makes the images to start from, in the engine's time; None: the photos.
    """
    wait_for(photos.device)
    start = time.perf_counter()
    guess = first_guess(photos) if first_guess else None
    ends: list[float] = []

    def on_iteration(_: int) -> None:
        wait_for(photos.device)
        ends.append(time.perf_counter() - start)

    found = optimise(objective, photos, iterations, on_iteration=on_iteration, start=guess, bounds=bounds)
    wait_for(photos.device)
    ends.append(time.perf_counter() - start)
    # The loss of an evaluation is known, at the latest, when its step has been taken.
    shares = [seconds / len(photos) for seconds in ends]
    return [list(zip(shares, losses, strict=True)) for losses in found.curve.T.tolist()]


def best_after(curve: Curve, iterations: int) -> float:
    """The least loss of the first evaluations."""
    return min(loss for _, loss in curve[:iterations])


def seconds_to(curve: Curve, loss: float) -> float | None:
    """Seconds until a loss was first reached; None: never.

    seconds_to([(1.0, 100.0), (2.0, 60.0)], 70)  # 2.0
    """
    return next((seconds for seconds, reached in curve if reached <= loss), None)


def speedup_to(baseline: Curve, other: Curve, iterations: int, loss: float) -> tuple[float, bool]:
    """How many times sooner `other` reaches a loss than the baseline.

    Args:
        baseline: its seconds are compared with.
        other: the contender.
        iterations: evaluations of the baseline whose time counts if it never has the loss itself.
        loss: the loss to reach.

    Returns:
        The ratio, and whether `other` reached the loss. If not, the ratio is an upper bound, as if the end of
        its curve had reached it.
    """
    own, reached = seconds_to(baseline, loss), seconds_to(other, loss)
    clock = own if own is not None else baseline[iterations - 1][0]
    return clock / (other[-1][0] if reached is None else reached), reached is not None


def summary(races: Sequence[PhotoRace], method: str) -> dict[str, Speedup]:
    """The speedup of a method by iterations of the baseline (as text), over the photos it ran on."""
    return {str(iterations): _speedup(races, method, iterations) for iterations in TARGET_ITERATIONS}


def _speedup(races: Sequence[PhotoRace], method: str, iterations: int) -> Speedup:
    found = [
        speedup_to(race.baseline, race.curves[method], iterations, best_after(race.baseline, iterations))
        for race in races
        if method in race.curves and len(race.baseline) >= iterations
    ]
    values = [ratio for ratio, _ in found]
    return Speedup(
        speedup=geometric_mean(values),
        least=min(values, default=None),
        most=max(values, default=None),
        photos=len(values),
        not_reached=sum(not reached for _, reached in found),
    )


def largest_difference(a: Tensor, b: Tensor) -> Difference:
    """The difference of two batches of images (B, 3, H, W), 0..255, as stored."""
    difference = (a.round() - b.round()).abs()
    return {
        "largest": difference.max().item(),
        "beyond_1": (difference > 1).to(torch.float64).mean().item(),
    }


def against_pictures(races: Sequence[PhotoRace], iterations: int) -> float | None:
    """How many times sooner the engine reaches the loss of the picture that the baseline would store."""
    found = []
    for race in races:
        if str(iterations) in race.stored and "engine" in race.curves:
            loss = race.stored[str(iterations)]
            end = (race.baseline[iterations - 1][0], loss)
            found.append(speedup_to([end], race.curves["engine"], 1, loss)[0])
    return geometric_mean(found)
