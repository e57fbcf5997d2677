"""The section `evaluation` of `model.json`: how a model does on held-out photos, beside the optimisation.

`seconds_per_image` is in the figures of a run only: the section has the same bytes whenever the same scores
are found. Keys that files of older versions lack are not required.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from batch_nst.figures import omitted


class Losses(TypedDict):
    """Figures of a picture, or their means over photos."""

    content: float
    style: float
    total: float
    """The objective: the sum of the parts by the recipe's weights."""
    checkerboard: NotRequired[float]
    """Grey levels of 255."""
    distance: NotRequired[float]
    """To the optimised image, in VGG features; 0 if equal."""
    ssim: NotRequired[float]
    """To the optimised image, of luminance; 1 if equal."""


class Total(TypedDict):
    """The objective alone."""

    total: float


class Seconds(TypedDict):
    """Medians of seconds per image."""

    model: float
    optimised: float
    ratio: float
    """The optimisation's over the model's."""


class Standing(TypedDict, total=False):
    """Where a model stands among the iterations of an optimisation; see `statistics.Equivalence`."""

    curve: list[float]
    worth_iterations: int | None
    worth_interval: list[int | None]
    verdict: str


class Trial(Standing, total=False):
    """One way of optimising the photos."""

    seconds_per_image: float


class Baseline(TypedDict):
    """The baseline and the engine on the same photos."""

    photos: int
    model: Total
    lbfgs: Trial
    engine: Trial


class Comparison(Standing, total=False):
    """Photos, their optimised images and the model's: means over photos."""

    photos: int
    photo: Losses
    optimised: Losses
    model: Losses
    seconds_per_image: Seconds


class Enlarged(Comparison, total=False):
    """The comparison at twice the size; only `photos`, 0, where no photo was left."""

    size: int
    """Side in pixels."""
    left_out: dict[str, int]
    """Number of photos by the reason why they were left out."""


class Evaluation(Comparison, total=False):
    """The whole section."""

    objectives: dict[str, float]
    """The model's objective by image id (hex)."""
    baseline: Baseline
    units: list[str]
    """Names of the units that the photos lie in."""
    size: int
    """Side in pixels."""
    larger: Enlarged


@dataclass(frozen=True)
class SizeTimes:
    """Seconds of one image of a size; without any where memory does not hold it."""

    size: int
    """Side in pixels."""
    iteration: float | None = omitted()
    model: float | None = omitted()
    optimisation: dict[str, float] | None = omitted()
    """By the number of iterations, in decimals as in JSON."""
    speedup: dict[str, float] | None = omitted()
    """The optimisation's seconds over the model's, by the same."""


@dataclass(frozen=True)
class SpeedTable:
    """Johnson's Table 1 on the machine at hand; in the figures of a run only."""

    machine: object
    """See `timing.machine_of`."""
    precision: str
    timed_iterations: int
    """Of which the median is an iteration's time."""
    iterations: list[int]
    """Of the table's columns."""
    sizes: list[SizeTimes]
