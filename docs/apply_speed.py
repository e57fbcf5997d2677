"""Time `apply` against a plain PyTorch loop in fp32 over the same network; print Markdown tables.

Pictures of 256 px, one at a time, on all cores that torch takes; the two in alternation, in one run. First
from pixels to pixels, then from files to files: there the loop is Pillow, the net, Pillow, and `apply` is its
stages on Ray, timed from the first quarter of their outcomes on: starting actors is no part of it. Last the
whole command, with the start of Python, torch and Ray, against the loop without; more files would share that.

python docs/apply_speed.py [FOLDER] [MODEL]
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from batch_nst.data import images, models
from batch_nst.data.images import Pixels
from batch_nst.data.inputs import list_photos
from batch_nst.data.look import Look
from batch_nst.data.storage import Store
from batch_nst.engine.model_files import model_bytes
from batch_nst.engine.precision import choose_device
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.pipelines import cluster
from batch_nst.pipelines.fast_model import ModelFiles, read_model
from batch_nst.pipelines.paint import chunks_of
from batch_nst.pipelines.painting import paint_photos

SIZE, ROUNDS, FILES = 256, 5, 192


def plain(net: TransformerNet, photo: Pixels) -> Pixels:
    """What anyone would write."""
    with torch.no_grad():
        tensor = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
        painted: Pixels = (net(tensor)[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    return painted


def seconds(action: Callable[..., object], *arguments: object) -> float:
    """Of the clock."""
    start = perf_counter()
    action(*arguments)
    return perf_counter() - start


def pixels_to_pixels(model: ModelFiles, photos: list[Pixels]) -> None:
    """The median of all pictures and rounds."""
    net, painter = model.on(torch.device("cpu")).net, model.painter(choose_device("cpu"))
    loop, ours = [], []
    for turn in range(ROUNDS + 1):
        for photo in photos:
            times = seconds(plain, net, photo), seconds(painter, photo)
            if turn:  # in the first round kernels are chosen
                loop.append(times[0])
                ours.append(times[1])
    report(f"pixels to pixels, {str(painter.dtype).removeprefix('torch.')}", median(loop), median(ours))


def files_to_files(model: ModelFiles, folder: Path) -> None:
    """A picture's share of the time that all take, the median of three turns."""
    net = model.on(torch.device("cpu")).net
    cluster.connect()
    workers = cluster.choose_workers("cpu")
    photos = [(photo, photo.key) for photo in list_photos(str(folder))]
    loop, ours = [], []
    for _ in range(3):
        with TemporaryDirectory() as painted:
            loop.append(seconds(loop_over, net, folder, Path(painted)) / len(photos))
        with TemporaryDirectory() as painted:
            ended = []
            for _ in paint_photos(
                model, chunks_of(photos), Store(painted), Look(), "auto", workers, overwrite=False
            ):
                ended.append(perf_counter())
            begun = len(ended) // 4
            ours.append((ended[-1] - ended[begun]) / (len(ended) - 1 - begun))
    report("files to files (JPEG)", median(loop), median(ours))
    with TemporaryDirectory() as home:
        address = stored(model, home)
        command = [sys.executable, "-m", "batch_nst", "apply", address, folder, f"{home}/out"]
        # A Ray of its own: this process holds the cores of the one above.
        environment = os.environ | {"RAY_ADDRESS": "local"}
        whole = seconds(
            subprocess.run,
            [*command, "--device", "cpu"],
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    report(f"the command, {len(photos)} files", median(loop), whole / len(photos))


def stored(model: ModelFiles, root: str) -> str:
    """A model as `apply` takes it."""
    store = Store(root)
    models.write_part(store, model.version, models.WEIGHTS, model.weights)
    models.write_card(store, model.version, model.card)
    return store.join(f"models/{model.version}")


def loop_over(net: TransformerNet, folder: Path, painted: Path) -> None:
    """Pillow, the net, Pillow."""
    for path in sorted(folder.iterdir()):
        with Image.open(path) as photo:
            Image.fromarray(plain(net, np.array(photo.convert("RGB")))).save(
                painted / path.name, quality=95, subsampling="4:4:4"
            )


def report(what: str, loop: float, ours: float) -> None:
    """A row of the table."""
    print(f"| {what} | {1000 * loop:.1f} | {1000 * ours:.1f} | {loop / ours:.2f} |", flush=True)


def untrained() -> ModelFiles:
    """Weights do not decide the time."""
    card = {"version": "untrained", "architecture": {"name": "johnson", "width": 32}}
    return ModelFiles("untrained", card, model_bytes(TransformerNet(32)))


def main(folder: str, model: ModelFiles) -> None:
    """Measure and print."""
    limits = {"min_side": 64, "max_bytes": 64 << 20, "max_pixels": 100_000_000}
    decoded = [images.decode(path.read_bytes(), **limits) for path in sorted(Path(folder).glob("*.jpg"))]
    photos = [images.crop(picture, SIZE) for picture in decoded]
    print(f"| {SIZE} px, {torch.get_num_threads()} threads | ms, plain loop in fp32 | ms, apply | ratio |")
    print("| --- | --- | --- | --- |")
    pixels_to_pixels(model, photos)
    with TemporaryDirectory() as temporary:
        many = Path(temporary)
        for index, photo in enumerate(photos):
            (many / f"{index:03}.jpg").write_bytes(images.encode(photo, "jpeg"))
        for index in range(len(photos), FILES):
            shutil.copy(many / f"{index % len(photos):03}.jpg", many / f"{index:03}.jpg")
        files_to_files(model, many)


if __name__ == "__main__":
    main(
        sys.argv[1] if len(sys.argv) > 1 else "jobs/samples/content",
        read_model(sys.argv[2]) if len(sys.argv) > 2 else untrained(),
    )
