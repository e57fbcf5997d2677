"""Measurements of the benchmark: peak memory, pipeline overhead, and results cached in a file."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar, cast

import numpy as np
import torch

from batch_nst.console import log
from batch_nst.data.images import codec
from batch_nst.data.images.style import StyleImage
from batch_nst.engine.device import choose_batch
from batch_nst.engine.slow_transfer import optimise
from batch_nst.engine.timing import Machine, Spread, seconds, spread_of, wait_for
from batch_nst.errors import BatchNSTError
from batch_nst.figures import JsonValue
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.recipe import Loss, Vgg

T = TypeVar("T")


class PeakMemory(TypedDict):
    """Peak memory of an optimisation in bytes; None where the system does not report it."""

    before: int | None
    """Peak of the process before it, with the network loaded."""
    process: int | None
    """Peak of the process at the end."""
    device: int | None
    """Peak of torch's tensors on a GPU."""
    out_of_memory: bool
    """Whether the batch did not fit."""


class Overhead(TypedDict):
    """The speed of `generate` against the bare loop of `optimise` over the same images."""

    fraction: float
    """Images per second of `generate` over those of the loop."""
    images_per_second: float
    bare_images_per_second: float
    bare_seconds: Spread
    span_seconds: float
    """Seconds of `generate` from the start of its first unit to the end of its last."""
    unit_seconds: float
    command_seconds: float
    """Seconds of the whole command."""


class _Generated(TypedDict):
    """What is used of the figures of `generate`."""

    span_seconds: float
    seconds: float
    error: NotRequired[str]


def peak_memory(batch: int, side: int, device: str) -> PeakMemory:
    """Optimise `batch` images of `side` pixels in a new process, and return its peak memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory, batch, side, device).result()


def _peak_memory(batch: int, side: int, device: str) -> PeakMemory:
    grey = np.full((batch, side, side, 3), 128, np.uint8)
    style = StyleImage.of_pixels(np.full((64, 64, 3), 128, np.uint8))
    objectives = Objectives.on(style, Loss(), Vgg(), device, "auto", os.cpu_count() or 1)
    content, objective = to_tensor(grey, objectives.device), objectives.fast
    before = peak_in(_STATUS)
    try:
        optimise(objective, content, 3)
    except torch.OutOfMemoryError:
        return {"before": before, "process": None, "device": None, "out_of_memory": True}
    on_gpu = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {"before": before, "process": peak_in(_STATUS), "device": on_gpu, "out_of_memory": False}


_STATUS = Path("/proc/self/status")
"""What Linux says of this process."""


def peak_in(status: Path) -> int | None:
    """Peak resident memory in a process's status. `getrusage` would count its parent's peak as well."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def pipeline_overhead(
    objectives: Objectives, pictures: list[codec.Pixels], unit_images: int, iterations: int
) -> Overhead:
    """Measure the overhead of `generate` over a loop without Ray.

    Args:
        objectives: the style's, with the default loss.
        pictures: (size, size, 3) each.
        unit_images: images in a unit, which should take 10 s or more.
        iterations: iterations for each image.
    """
    side, device = pictures[0].shape[0], objectives.device
    batch = min(unit_images, choose_batch(side, device))
    units = [pictures[first : first + unit_images] for first in range(0, len(pictures), unit_images)]

    def loop() -> None:
        for unit in units:
            for part in torch.split(torch.cat([to_tensor(picture[None], device) for picture in unit]), batch):
                optimise(objectives.fast, part, iterations)
        wait_for(device)

    before = seconds(loop)
    with tempfile.TemporaryDirectory() as folder:
        figures = _generate(Path(folder), objectives, pictures, unit_images, iterations)
    bare = spread_of([before, seconds(loop)])
    return {
        "fraction": bare["median"] / figures["span_seconds"],
        "images_per_second": len(pictures) / figures["span_seconds"],
        "bare_images_per_second": len(pictures) / bare["median"],
        "bare_seconds": bare,
        "span_seconds": figures["span_seconds"],
        "unit_seconds": figures["span_seconds"] / len(units),
        "command_seconds": figures["seconds"],
    }


def _generate(
    folder: Path, objectives: Objectives, pictures: list[codec.Pixels], unit_images: int, iterations: int
) -> _Generated:
    """The figures of `generate` for these pictures, run as a command with its own Ray."""
    (folder / "photos").mkdir()
    for index, picture in enumerate(pictures):
        (folder / "photos" / f"{index:03}.png").write_bytes(codec.encode(picture, "png"))
    (folder / "style.png").write_bytes(codec.encode(objectives.style.pixels, "png"))
    recipe = {
        "output": "out",
        "style": {"image": "style.png", "size": min(objectives.style.pixels.shape[:2])},
        "generate": {
            "input": "photos",
            "image_size": pictures[0].shape[0],
            "iterations": iterations,
            "unit_images": unit_images,
            "device": objectives.device.type,
        },
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    ran = subprocess.run(
        [sys.executable, "-m", "batch_nst", "generate", "recipe.yaml"],
        cwd=folder,
        env={**os.environ, "RAY_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        text=True,
    )
    figures: _Generated = json.loads(ran.stdout.splitlines()[-1])
    if ran.returncode:
        raise BatchNSTError(f"benchmark: generate failed: {figures.get('error')}")
    return figures


class ResultCache:
    """Measurements by name in a file; each is taken once per machine, engine and size.

    cache = ResultCache("results.jsonl", machine_of(device, 256))
    floor = cache.measure("floor", lambda: measure_floor())

    Attributes:
        taken: the measurements by name, as JSON.
    """

    def __init__(self, results: str, machine: Machine) -> None:
        """Read the measurements of this machine.

        Args:
            results: a local file with a JSON object per line, created if missing; empty: nothing is stored.
            machine: what a measurement is true of, see `machine_of`.
        """
        self._file = Path(results) if results else None
        self._machine = machine
        self.taken: dict[str, JsonValue] = {}
        if self._file and self._file.exists():
            for line in self._file.read_text().splitlines():
                if not line.endswith("}"):
                    continue  # the process was killed while it wrote
                record = json.loads(line)
                if record["machine"] == machine:
                    self.taken[record["name"]] = record["value"]

    def measure(self, name: str, run: Callable[[], T]) -> T:
        """The measurement of this name: from the file, or what `run` returns as JSON, written at once."""
        if name not in self.taken:
            log(f"measuring {name}")
            record = {"name": name, "machine": self._machine, "value": run()}
            line = json.dumps(record)
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a") as file:
                    file.write(f"{line}\n")
            self.taken[name] = json.loads(line)["value"]
        return cast(T, self.taken[name])
