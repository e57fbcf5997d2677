"""Times parts of the engine on this device, alternately, so that drift of the machine affects all alike."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from batch_nst.engine.baselines import plain_network
from batch_nst.engine.perceptual_loss import PerceptualLoss, gram
from batch_nst.engine.slow_transfer import ENGINE, optimise
from batch_nst.engine.vgg import Vgg16


class Machine(TypedDict):
    """What a measurement is true of."""

    processor: str
    threads: int
    device: str
    """Name of the GPU, or `cpu`."""
    torch: str
    engine: str
    """See `slow_transfer.ENGINE`."""
    size: NotRequired[int]
    """Side of the images in pixels."""


def machine_of(device: torch.device, size: int) -> Machine:
    """This machine with a device, the versions of torch and the engine, and the side of the images."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "engine": ENGINE,
        "size": size,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


_WARM_UP = 12
"""Iterations before the timed ones: by then the history of L-BFGS is full, and memory no longer grows."""
_TIMED = 10


class Spread(TypedDict):
    """A median and the range around it."""

    median: float
    least: float
    most: float


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of one or more values."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def bare_pass(vgg: Vgg16, image: Tensor) -> Callable[[], None]:
    """The floor: VGG-16 to its deepest layer and the gradient of the pixels, by autograd, without a loss.

    Args:
        vgg: on the image's device, its convolutions in the dtype to time.
        image: (B, 3, H, W), RGB, 0..255.
    """
    stages = plain_network(vgg, torch.channels_last)
    pixels = vgg.normalised(image).requires_grad_()

    def run() -> None:
        x = pixels
        for stage in stages.values():
            x = stage(x)
        torch.autograd.grad(x, pixels, torch.ones_like(x))
        wait_for(image.device)

    return run


def fraction_of_floor(
    objective: PerceptualLoss, content: Tensor, rounds: int
) -> tuple[Spread, Spread, Spread]:
    """Times the floor and a whole iteration of `optimise`.

    Returns:
        The seconds per image of the floor and of the iteration, and the first over the second.
    """
    floor = bare_pass(objective.vgg, content)
    floors, iterations, fractions = [], [], []
    for _ in range(rounds):
        floor()
        floors.append(statistics.median(seconds(floor) for _ in range(_TIMED)) / len(content))
        iterations.append(iteration_seconds(objective, content))
        fractions.append(floors[-1] / iterations[-1])
    return spread_of(floors), spread_of(iterations), spread_of(fractions)


def iteration_seconds(
    objective: PerceptualLoss, content: Tensor, warm_up: int = _WARM_UP, timed: int = _TIMED
) -> float:
    """Seconds per image of an iteration of `optimise`: the median of `timed` ones after the warm-up."""
    ends: list[float] = []

    def on_iteration(_: int) -> None:
        wait_for(content.device)
        ends.append(time.perf_counter())

    optimise(objective, content, warm_up + timed, on_iteration=on_iteration)
    steps = [after - before for before, after in pairwise(ends)]
    return statistics.median(steps[-timed:]) / len(content)


def parts(objective: PerceptualLoss, content: Tensor) -> dict[str, float]:
    """Where the time of a gradient is spent, in seconds per image.

    Returns:
        `forward`, the network; `gram`, the Gram matrices; `back`, its backward pass; `gradient`, all
        of it. The rest of `gradient` is the losses and their own derivatives.
    """
    targets = objective.content_targets(content)
    recorded = objective.vgg.record(content)
    runs: dict[str, Callable[[], object]] = {
        "forward": lambda: objective.vgg.record(content),
        "gram": lambda: [gram(recorded.activations[name]) for name in objective.loss.style_layers],
        "back": lambda: objective.vgg.pull_back(recorded, lambda name, gradient: None),
        "gradient": lambda: objective.value_and_gradient(content, targets),
    }

    def timed(run: Callable[[], object]) -> float:
        def whole() -> None:
            run()
            wait_for(content.device)

        whole()
        return seconds(whole)

    return {
        name: statistics.median(timed(run) for _ in range(_TIMED)) / len(content)
        for name, run in runs.items()
    }


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """Floating-point operations per second of a product of two (side, side) matrices.

    A CPU that only emulates the type would take minutes: its rate is measured at an eighth of the side.
    """
    small = _matmul_rate(device, dtype, side // 8)
    return small if 2 * side**3 / small > 1 else _matmul_rate(device, dtype, side)


def _matmul_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    a = torch.rand(side, side, device=device).to(dtype)

    def run() -> None:
        torch.mm(a, a)
        wait_for(device)

    run()
    return 2 * side**3 / min(seconds(run) for _ in range(7))


def seconds(run: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done its queued work; a CPU has no queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
