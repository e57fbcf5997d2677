"""What the pipeline costs beside the engine: `generate` against a bare loop on the same images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from batch_nst.data import images
from batch_nst.engine.gatys import optimise
from batch_nst.engine.memory import choose_batch
from batch_nst.engine.timing import Spread, seconds, wait_for
from batch_nst.errors import BatchNSTError
from batch_nst.pipelines.objective import Objectives, to_tensor


def pipeline_tax(
    objectives: Objectives, pictures: list[images.Pixels], unit_images: int, iterations: int
) -> dict[str, Any]:
    """Images a second of `generate`, from its first unit's start to its last one's end, over the loop's.

    Args:
        objectives: the style's, with the default loss.
        pictures: (size, size, 3) each.
        unit_images: of them in a unit; so many images should take 10 s or more.
        iterations: for each image.
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
    bare = Spread.of([before, seconds(loop)])
    return {
        "fraction": bare.median / figures["span_seconds"],
        "images_per_second": len(pictures) / figures["span_seconds"],
        "bare_images_per_second": len(pictures) / bare.median,
        "bare_seconds": bare._asdict(),
        "span_seconds": figures["span_seconds"],
        "unit_seconds": figures["span_seconds"] / len(units),
        "command_seconds": figures["seconds"],
    }


def _generate(
    folder: Path, objectives: Objectives, pictures: list[images.Pixels], unit_images: int, iterations: int
) -> dict[str, Any]:
    """The figures of the command on these pictures, in a process and on a Ray of its own."""
    (folder / "photos").mkdir()
    for index, picture in enumerate(pictures):
        (folder / "photos" / f"{index:03}.png").write_bytes(images.encode(picture, "png"))
    (folder / "style.png").write_bytes(images.encode(objectives.style.pixels, "png"))
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
    figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    if ran.returncode:
        raise BatchNSTError(f"benchmark: generate failed: {figures.get('error')}")
    return figures
