"""The section `evaluation` of `model.json`: scores of a model and of the optimisation on held-out photos.

`seconds_per_image` occurs in the figures of a run only, so that the same scores always give the same bytes in
`model.json`. Keys that files of older versions lack are not required.
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
    """The objective: the weighted sum of the parts."""
    checkerboard: NotRequired[float]
    """Checkerboard artefact in grey levels, 0..255."""
    distance: NotRequired[float]
    """Distance to the optimised image in VGG features; 0 if equal."""
    ssim: NotRequired[float]
    """SSIM to the optimised image (luminance); 1 if equal."""


class Total(TypedDict):
    """The objective alone."""

    total: float


class Seconds(TypedDict):
    """Medians of seconds per image."""

    model: float
    optimised: float
    ratio: float
    """Seconds of the optimisation divided by those of the model."""


class Independent(TypedDict):
    """Content and style by a network that no training saw, of a picture or as ratios."""

    content: float
    """Distance to the photo in its features."""
    style: float
    """Distance to the style image in Gram matrices of its features, relative to their length."""


class Ratios(TypedDict):
    """The model's figures divided by those of the optimisation after all of its iterations."""

    total: float
    """R: of the objective, the geometric mean over photos."""
    interval: list[float] | None
    """Both ends of R's 95 % interval; None of one photo."""
    content: float
    style: float
    distance: float
    """The distance to the optimised image, divided by the photo's own."""
    iterations: int
    verdict: str
    independent: NotRequired[Independent]
    """By EfficientNet-Lite0, where its packages are installed."""


class Standing(TypedDict, total=False):
    """The number of iterations that a model is worth; see `statistics.Equivalence`."""

    curve: list[float]
    worth_iterations: int | None
    worth_interval: list[int | None]
    verdict: str


class Trial(Standing, total=False):
    """One optimiser on the photos."""

    seconds_per_image: float


class Baseline(TypedDict):
    """The baseline and the engine on the same photos."""

    photos: int
    model: Total
    lbfgs: Trial
    engine: Trial
    noise: NotRequired[Trial]
    """L-BFGS from white noise on the first of them, at the weights 1 to 5 of slow_neural_style."""


class Comparison(Standing, total=False):
    """Means over photos: of the photos, their optimised images and their stylized images."""

    photos: int
    ratios: Ratios
    photo: Losses
    optimised: Losses
    model: Losses
    seconds_per_image: Seconds


class Enlarged(Comparison, total=False):
    """The comparison at twice the size; without losses if `photos` is 0."""

    size: int
    """Side in pixels."""
    left_out: dict[str, int]
    """Number of photos that were left out, by reason."""


class Evaluation(Comparison, total=False):
    """The whole section."""

    objectives: dict[str, float]
    """The model's objective by image id (hex)."""
    painter: str
    """What made the model's images, and in which precision: `openvino fp32`."""
    engine: str
    """Device and precision of the optimisation: `cpu bf16`."""
    baseline: Baseline
    units: list[str]
    """Names of the units that hold the photos."""
    size: int
    """Side in pixels."""
    larger: Enlarged


@dataclass(frozen=True)
class SizeTimes:
    """Seconds per image at one size; without seconds if the size does not fit into memory."""

    size: int
    """Side in pixels."""
    iteration: float | None = omitted()
    model: float | None = omitted()
    optimisation: dict[str, float] | None = omitted()
    """Seconds by number of iterations, whose keys are text as in JSON."""
    speedup: dict[str, float] | None = omitted()
    """Seconds of the optimisation divided by those of the model, with the same keys."""


@dataclass(frozen=True)
class SpeedTable:
    """Table 1 of Johnson et al. (2016) on this machine; in the figures of a run only."""

    machine: object
    """See `timing.machine_of`."""
    precision: str
    timed_iterations: int
    """Number of iterations whose median is the time of an iteration."""
    iterations: list[int]
    """Numbers of iterations of the table's columns."""
    sizes: list[SizeTimes]
