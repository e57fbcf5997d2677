"""The engine against the baseline on the same photos: how long each takes to reach the same loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from batch_nst.engine.baselines import MARKS, Curve
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.slow_transfer import PICTURE, optimise
from batch_nst.engine.statistics import geometric_mean
from batch_nst.engine.timing import wait_for


def run_engine(
    objective: PerceptualLoss,
    photos: Tensor,
    iterations: int,
    bounds: tuple[float, float] | None = PICTURE,
    first_guess: Callable[[Tensor], Tensor] | None = None,
) -> list[Curve]:
    """The engine's curve of each photo, its seconds those of the batch over its photos.

    Args:
        objective: in the precision to measure.
        photos: (B, 3, H, W), RGB, 0..255.
        iterations: steps.
        bounds: of a pixel; None: as the peers', whose loss a picture need not be able to have.
        first_guess: makes the images to start from, in the engine's time; none: the photos.
    """
    wait_for(photos.device)
    start = time.perf_counter()
    guess = first_guess(photos) if first_guess else None
    marks: list[float] = []

    def mark(_: int) -> None:
        wait_for(photos.device)
        marks.append(time.perf_counter() - start)

    found = optimise(objective, photos, iterations, on_iteration=mark, start=guess, bounds=bounds)
    wait_for(photos.device)
    marks.append(time.perf_counter() - start)
    # The loss of an evaluation is known when its step has been taken, and not later than that.
    shares = [seconds / len(photos) for seconds in marks]
    return [list(zip(shares, losses, strict=True)) for losses in found.curve.T.tolist()]


def best_after(curve: Curve, iterations: int) -> float:
    """The least loss of the first evaluations."""
    return min(loss for _, loss in curve[:iterations])


def seconds_to(curve: Curve, loss: float) -> float | None:
    """When a loss was first reached; None: never."""
    return next((seconds for seconds, reached in curve if reached <= loss), None)


def ratios(baseline: Curve, other: Curve, targets: dict[int, float]) -> dict[int, tuple[float, bool]]:
    """How many times sooner `other` reached each target than the baseline's clock said at its mark.

    Args:
        baseline: the clock.
        other: the contender.
        targets: the loss to reach, by the baseline's number of iterations.

    Returns:
        By number of iterations the ratio, and whether the loss was reached: if not, it is what the ratio
        would be at the end of the curve, and so more than the truth.
    """
    found = {}
    for mark, target in targets.items():
        reached = seconds_to(other, target)
        own = seconds_to(baseline, target)
        clock = own if own is not None else baseline[mark - 1][0]
        found[mark] = (clock / (other[-1][0] if reached is None else reached), reached is not None)
    return found


def summary(runs: Sequence[dict[str, Any]], method: str) -> dict[str, Any]:
    """Geometric means over photos of `ratios` of one method to the baseline's losses, with their range."""
    figures: dict[str, Any] = {}
    for mark in MARKS:
        found = [
            ratios(run["lbfgs"], run[method], {mark: best_after(run["lbfgs"], mark)})[mark]
            for run in runs
            if method in run and len(run["lbfgs"]) >= mark
        ]
        values = [ratio for ratio, _ in found]
        figures[str(mark)] = {
            "speedup": geometric_mean(values),
            "least": min(values, default=None),
            "most": max(values, default=None),
            "photos": len(values),
            "not_reached": sum(not reached for _, reached in found),
        }
    return figures


def largest_difference(a: Tensor, b: Tensor) -> dict[str, float]:
    """Of two batches of pictures as stored: in grey levels, and the share that is more than one off."""
    difference = (a.round() - b.round()).abs()
    return {
        "largest": difference.max().item(),
        "beyond_1": (difference > 1).to(torch.float64).mean().item(),
    }


def against_pictures(runs: Sequence[dict[str, Any]], mark: int) -> float | None:
    """How much sooner the engine has the loss of the picture that the baseline stores after `mark` steps."""
    found = []
    for run in runs:
        if str(mark) in run["stored"] and "engine" in run:
            loss = run["stored"][str(mark)]
            end = (run["lbfgs"][mark - 1][0], loss)
            found.append(ratios([end], run["engine"], {1: loss})[1][0])
    return geometric_mean(found)
