"""The records of the command `benchmark`: its scale, its measurements, and its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from batch_nst.engine.timing import Machine, Spread
from batch_nst.pipelines.benchmark.measure import Overhead, PeakMemory
from batch_nst.pipelines.benchmark.painting import Alone, Painting
from batch_nst.pipelines.benchmark.race import Difference, Speedup
from batch_nst.pipelines.benchmark.training import TrainingSpeed


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    size: int = 256
    """Side of the photos, and short side of the style images, in pixels."""
    photos: int = 16
    styles: int = 2
    baseline: int = 300
    """Evaluations of the baseline on each photo."""
    free: int = 450
    """Iterations of the engine with unbounded pixels, as the baselines have."""
    bounded: int = 150
    """Iterations of the engine as `generate` uses it, with pixels in 0..255."""
    others: int = 1
    """Photos on which the other baselines run as well."""
    precise: int = 100
    """Iterations after which bf16 is compared with fp32, on the first batch of each style image."""
    rounds: int = 5
    """Number of times that floor and engine alternate."""
    invariance: int = 20
    """Iterations after which pixels are compared."""
    batches: tuple[int, ...] = (1, 2, 4, 8)
    """Batch sizes whose cost and peak memory are measured."""
    sizes: tuple[int, ...] = (128, 256, 512)
    """Sides whose cost is measured, in the batches that the engine chooses."""
    painted: tuple[int, ...] = (256, 512, 1024)
    """Sides of pictures that the fast model paints."""
    alone: tuple[tuple[int, int], ...] = ((256, 256), (1600, 1250), (4000, 3000))
    """Width and height of photos that a command of its own paints."""
    trained: tuple[int, ...] = (96, 128, 256)
    """Sides of the crops of training steps."""
    unit: int = 4
    """Images in a unit of the pipeline."""
    units: int = 2
    unit_iterations: int = 150


class Floor(TypedDict):
    """An iteration of the engine against the bare VGG-16, in seconds per image."""

    floor: Spread
    iteration: Spread
    fraction: Spread
    """The floor over the iteration."""
    batch: int
    matmul_fp32: float
    """Floating-point operations per second of a matrix product."""
    matmul_bf16: float


class Cost(TypedDict):
    """Cost of an iteration in seconds per image."""

    batch: int
    iteration: float
    floor: float
    pairs_1000_hours: float
    """Device-hours of 1,000 pairs with the default number of iterations."""


class PrecisionLoss(TypedDict):
    """Losses of images optimised in bf16 over those of fp32, both measured in fp32."""

    ratios: list[float]
    iterations: int


class Invariance(TypedDict):
    """How far pixels depend on what they are computed with."""

    iterations: int
    differences: dict[str, Difference]
    """Difference to the whole batch, by what was changed."""


@dataclass(frozen=True)
class Details:
    """All measurements of `benchmark`."""

    scale: Scale
    floor: Floor
    parts: dict[str, float]
    """See `timing.parts`."""
    race: dict[str, dict[str, Speedup]]
    """Speedup by method and iterations of the baseline."""
    precision: list[PrecisionLoss]
    invariance: Invariance
    memory: dict[str, PeakMemory]
    """Peak memory by batch size."""
    sizes: dict[str, Cost]
    batches: dict[str, Cost]
    painting: list[Painting]
    alone: list[Alone]
    training: list[TrainingSpeed]
    pipeline: Overhead


@dataclass(frozen=True)
class BenchmarkFigures:
    """The figures of `benchmark`; None was not measured. Speedups are against L-BFGS of torch."""

    speedup_cold_50: float | None
    """Unbounded pixels; the number is that of the baseline's iterations."""
    speedup_cold_100: float | None
    speedup_cold_300: float | None
    speedup_bounded_100: float | None
    """Pixels in 0..255."""
    speedup_stored_100: float | None
    """Against the picture that the baseline would store."""
    speedup_warm_100: float | None
    """Started from the pictures of a model."""
    vgg_fraction: float
    """Share of an iteration that the bare VGG-16 takes."""
    pipeline_fraction: float
    painting_ratio: float | None
    """The faster of ONNX Runtime and OpenVINO over the painter in seconds, the least of all sizes."""
    train_fraction: float
    """Share of a training step that its parts take, by the largest crops; see `TrainingSpeed`."""
    bf16_loss_ratio: float | None
    iteration_seconds: float
    """Seconds per image."""
    floor_seconds: float
    photos: int
    batch: int
    engine: str
    date: str
    """Day in UTC, YYYY-MM-DD."""
    machine: Machine
    details: Details
