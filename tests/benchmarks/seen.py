"""Does a model paint the photos that it learned from better than others? Scores an arm of the ablation.

python tests/benchmarks/seen.py out/ablation/wave-1234abcd/skip-mixed-counted-5678abcd.safetensors \
    --style wave.jpg --photos photos --others others

`--photos` are those that the ablation was given, and `--others` those that it was not. Each photo's objective
is divided by that of the zoo's model of the painting, which learned from none of them or from all alike. So
what makes some photos harder than others is taken out, and a model that knows its photos by heart has a lower
ratio on them. All is painted and measured in fp32.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from batch_nst.data.dataset.records import PhotoRecord
from batch_nst.data.images.codec import Pixels
from batch_nst.data.images.style import read_style
from batch_nst.data.models.files import read_model, zoo_names
from batch_nst.engine.fast_model.model_io import load_net, stylize_image
from batch_nst.engine.fast_model.network import Description
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.slow_transfer import losses_of
from batch_nst.engine.statistics import ratio
from batch_nst.errors import BatchNSTError
from batch_nst.pipelines.benchmark.ablation_arms import ARMS
from batch_nst.pipelines.benchmark.ablation_pairs import read_photos_of, square
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.recipe import Generate, Loss, Style, Vgg

BATCH = 16


def arm_net(weights: Path, name: str) -> TransformerNet:
    """The network that an arm of the ablation kept."""
    train = ARMS[name].train
    card: Description = {"architecture": {"name": train.network, "width": train.width}, "digests": {}}
    return load_net(weights.read_bytes(), card)


def batches(photos: list[PhotoRecord], side: int) -> Iterator[Pixels]:
    """The pictures of photos, uint8 (B, side, side, 3)."""
    for first in range(0, len(photos), BATCH):
        yield np.stack([square(photo.content, side) for photo in photos[first : first + BATCH]])


def objective(net: TransformerNet, objectives: Objectives, photos: Pixels) -> list[float]:
    """The objective of what a network makes of photos."""
    painted = stylize_image(net, torch.from_numpy(photos)).numpy()
    totals: list[float] = losses_of(objectives.exact, to_tensor(painted), to_tensor(photos)).total.tolist()
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="weights that the ablation kept beside an arm's picture")
    parser.add_argument("--style", required=True, type=Path, help="the painting; the zoo has a model of it")
    parser.add_argument("--photos", required=True, help="the photos that the ablation was given")
    parser.add_argument("--others", required=True, help="photos that it was not given")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures (default: %(default)d)")
    options = parser.parse_args()
    names = [name for name in ARMS if options.weights.name.startswith(f"{name}-")]
    if not names or not options.weights.is_file():
        parser.error(f"weights: given {options.weights}; allowed: a file ARM-….safetensors of the ablation")
    if options.size < 32:
        parser.error(f"--size: given {options.size}; allowed: 32 or more")
    if options.style.stem not in zoo_names():
        parser.error(f"--style: given {options.style}; allowed: a file named {', '.join(zoo_names())}")
    zoo = read_model(f"zoo:{options.style.stem}")
    nets = arm_net(options.weights, max(names, key=len)), load_net(zoo.weights, zoo.card)
    painting = read_style(Style(image=str(options.style), size=options.size * 3 // 2))
    objectives = Objectives.on(painting, Loss(), Vgg(), "cpu", "fp32", os.cpu_count() or 1)
    limits = Generate(input=options.photos, image_size=options.size)
    try:
        learned, held_out = read_photos_of(options.photos, limits)
        others = [photo for split in read_photos_of(options.others, limits, "--others") for photo in split]
    except BatchNSTError as error:
        parser.error(str(error))
    print("| photos | number | objective, in times the zoo's | 95 % interval |\n| --- | ---: | ---: | --- |")
    for title, photos in (("learned from", learned), ("held out", held_out), ("never given", others)):
        mine: list[float] = []
        its: list[float] = []
        for pictures in batches(photos, options.size):
            mine += objective(nets[0], objectives, pictures)
            its += objective(nets[1], objectives, pictures)
        found = ratio(mine, its, [photo.uri for photo in photos])
        low, high = found.interval or (found.value, found.value)
        print(f"| {title} | {len(photos)} | {found.value:.3f} | {low:.3f} to {high:.3f} |", flush=True)


if __name__ == "__main__":
    main()
