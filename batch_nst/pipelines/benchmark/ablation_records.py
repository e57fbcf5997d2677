"""The records of the ablation: its scale, what it measures, and its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict, get_args

from batch_nst.engine.timing import Machine
from batch_nst.recipe import Generate

Account = Literal["counted", "free"]
"""Whether making the pairs uses up training time of an arm. `free`: a nightly dataset is paid once."""
ACCOUNTS: tuple[Account, ...] = get_args(Account)


@dataclass(frozen=True)
class Scale:
    """Duration and sizes of the ablation."""

    minutes: float = 10.0
    """Duration of an arm."""
    size: int = 96
    """Side of the pictures in pixels."""
    iterations: int = 60
    """Iterations of the optimisation that makes a pair."""
    best: int = int(Generate.model_fields["iterations"].default)
    """Iterations for the optimised images of held-out photos, which no arm pays for."""
    looks: int = 10
    """Number of times that an arm is measured."""

    @property
    def seconds(self) -> float:
        """Duration of an arm."""
        return 60 * self.minutes


class Metrics(TypedDict):
    """Means over the held-out photos; geometric ones except for `ssim` and `checkerboard`."""

    objective: float | None
    content: float | None
    style: float | None
    distance: float | None
    """Distance to the optimised image in VGG features."""
    ssim: float | None
    """SSIM to the optimised image."""
    checkerboard: NotRequired[float | None]
    """Grey levels; results of earlier versions lack it."""


class Point(Metrics):
    """Metrics of an arm at one moment."""

    seconds: float
    """Time of the arm that was spent, pairs included if they are counted."""


class References(TypedDict):
    """Metrics of pictures that no arm made."""

    photo: Metrics
    """Metrics of the photos themselves."""
    X: Metrics
    """Metrics of their optimised images."""


class Training(TypedDict):
    """The measured training of an arm, a line in the file of results."""

    steps: int
    """Steps taken."""
    skipped: int
    """Steps skipped because a gradient was NaN or infinite."""
    seconds: float
    parameters: int
    precision: str
    curve: list[Point]


@dataclass(frozen=True)
class Run:
    """The result of one arm for one style image and one account."""

    style: str
    arm: str
    title: str
    account: Account
    photos: int
    left_out: int
    """Pairs that the quality filter removed."""
    pairs_seconds: float
    """Seconds that its pairs took, counted or not."""
    charged_seconds: float
    """Seconds for its pairs that were taken from its training time."""
    training: Training | None
    """None if its pairs took all its time."""
    picture: str | None
    """File with the last stylized images of the held-out photos, side by side."""

    @property
    def curve(self) -> list[Point]:
        """Metrics over time; empty if it was not trained."""
        return self.training["curve"] if self.training else []


@dataclass
class Study:
    """All results of the ablation so far."""

    scale: Scale
    machine: Machine
    date: str
    """Day in UTC, YYYY-MM-DD."""
    photos: int
    """Photos to train on."""
    held_out: int
    references: dict[str, References]
    """Metrics of photos and optimised images by style image."""
    runs: list[Run]
    files: list[str]
    """Files written for people."""
