"""Commands for what is not known before a first run: `init`, `zoo` and `benchmark`, with their options."""

from __future__ import annotations

import argparse
from pathlib import Path

from batch_nst.arguments import Commands, add_command, amount, takes_device

SAMPLES = Path(__file__).parent / "samples"
"""Photos and style images that are shipped, for commands that are given none."""


def add_init(commands: Commands) -> None:
    """Add `init`."""
    text = "write a recipe whose first run fits this machine into a given time"
    command = add_command(
        commands, _init, "init", text, "--photos holiday/ --style starry_night.jpg --hours 2"
    )
    add = command.add_argument
    add("folder", metavar="FOLDER", nargs="?", default=".", help="look here for photos and painting (.)")
    add("--photos", metavar="IN", help="a folder of photos, or what else generate.input may be")
    add("--style", metavar="IMAGE", help="the painting")
    add("--hours", type=amount, metavar="H", help="time for the first run (asked; else 1 for 100 photos)")
    add("--out", metavar="FILE", help="the recipe (recipe.yaml in FOLDER); it must not exist")
    takes_device(command)


def _init(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.init import init

    return init(
        options.folder, options.photos, options.style, options.hours, options.out, device=options.device
    )


def add_zoo(commands: Commands) -> None:
    """Add `zoo`."""
    text = "list the models that ship, which `apply NAME` paints with"
    add_command(commands, _zoo, "zoo", text, "")


def _zoo(_: argparse.Namespace) -> object:
    from batch_nst.pipelines.zoo import list_zoo

    return list_zoo()


def add_benchmark(commands: Commands) -> None:
    """Add `benchmark`."""
    text = "measure the engine on this machine, next to the baseline"
    command = add_command(commands, _benchmark, "benchmark", text, "--quick")
    add = command.add_argument
    add("--images", metavar="GLOB", default=str(SAMPLES / "content"), help="photos (those that are shipped)")
    add("--styles", metavar="GLOB", default=str(SAMPLES / "styles"), help="style images (the shipped ones)")
    add("--quick", action="store_true", help="2 photos and 1 style image at 128 px; takes minutes")
    add("--model", default="", help="a trained model: how much sooner when starting from its images")
    add("--results", metavar="FILE", default="", help="append measurements here; do not repeat those in it")
    takes_device(command)


def _benchmark(options: argparse.Namespace) -> object:
    from batch_nst.pipelines.benchmark.engine import benchmark

    return benchmark(
        options.images,
        options.styles,
        device=options.device,
        quick=options.quick,
        model=options.model,
        results=options.results,
    )
