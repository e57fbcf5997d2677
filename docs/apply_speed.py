"""Time `apply` against a plain PyTorch loop in fp32 over the same network; print a Markdown table.

Pictures have 256 px and are stylized one at a time on all cores. The two alternate in one run; the table
shows medians. It has three rows:

1. From pixels to pixels.
2. From files to files. The loop is Pillow, the net, Pillow, in a warm process. `apply` is the command itself,
   on a quarter of the files and on all of them. The difference is the time of the other three quarters in all
   stages, without the start of Python, torch and Ray.
3. The command on all files with its start, which more files would share.

Below it stands what part of its painter's own rate, from pixels to pixels, the command reaches.

python docs/apply_speed.py [--photos FOLDER] [--model MODEL] [--files N] [--rounds N] [--precision P]
"""

import argparse
import datetime
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

from batch_nst.console import log
from batch_nst.data.images import codec
from batch_nst.data.images.codec import Pixels
from batch_nst.data.models.files import ModelFiles, read_model
from batch_nst.engine.device import Precision, choose_device
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.timing import machine_of
from batch_nst.pipelines.benchmark.painting import stored, untrained
from batch_nst.pipelines.inference import exact_model, painter

SIZE = 256
CPU = torch.device("cpu")


def plain(net: TransformerNet, photo: Pixels) -> Pixels:
    """The loop that anyone would write; without `.contiguous()`, which makes it slower."""
    with torch.no_grad():
        tensor = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
        stylized: Pixels = (net(tensor)[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    return stylized


def seconds(action: Callable[..., object], *arguments: object) -> float:
    """Seconds that a call takes."""
    start = perf_counter()
    action(*arguments)
    return perf_counter() - start


def pixels_to_pixels(model: ModelFiles, photos: list[Pixels], rounds: int, precision: Precision) -> float:
    """Print the median over all pictures and rounds; returns the painter's seconds."""
    net, fast = exact_model(model, CPU).net, painter(model, choose_device("cpu"), precision)
    loop, ours = [], []
    for turn in range(rounds + 1):
        log(f"pixels to pixels: round {turn} of {rounds}, {len(photos)} pictures")
        for photo in photos:
            times = seconds(plain, net, photo), seconds(fast, photo)
            if turn:  # in the first one kernels are chosen
                loop.append(times[0])
                ours.append(times[1])
    row(f"pixels to pixels, {str(fast.dtype).removeprefix('torch.')}", median(loop), median(ours))
    return median(ours)


def files_to_files(model: ModelFiles, photos: list[Pixels], files: int, rounds: int, precision: str) -> float:
    """Print the time per picture of many files, the median over the rounds; returns that of `apply`."""
    net = exact_model(model, CPU).net
    loop, ours, whole = [], [], []
    with TemporaryDirectory() as temporary:
        home = Path(temporary)
        few = stored_photos(photos, files // 4, home / "few")
        many = stored_photos(photos, files, home / "many")
        address = stored(model, str(home / "model"))
        for turn in range(1, rounds + 1):
            log(f"files to files: round {turn} of {rounds}: the loop, {files // 4} files")
            loop.append(seconds(loop_over, net, few, home / f"loop-{turn}") / (files // 4))
            times = []
            for source in (few, many):
                log(f"files to files: round {turn} of {rounds}: apply, {source.name}")
                target = home / f"{source.name}-{turn}"
                times.append(seconds(command, address, source, target, precision))
            ours.append((times[1] - times[0]) / (files - files // 4))
            whole.append(times[1] / files)
    row(f"files to files (JPEG), the last {files - files // 4} of {files}", median(loop), median(ours))
    row(f"the same, {files} files and the start of the command", median(loop), median(whole))
    return median(ours)


def command(model: str, source: Path, target: Path, precision: str) -> None:
    """Run the command `apply` with its own Ray."""
    words = ["apply", model, str(source), str(target), "--device", "cpu", "--precision", precision]
    subprocess.run(
        [sys.executable, "-m", "batch_nst", *words],
        env=os.environ | {"RAY_ADDRESS": "local"},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def loop_over(net: TransformerNet, folder: Path, target: Path) -> None:
    """Stylize the files of a folder: Pillow, the net, Pillow."""
    target.mkdir()
    for path in sorted(folder.iterdir()):
        with Image.open(path) as photo:
            Image.fromarray(plain(net, np.array(photo.convert("RGB")))).save(
                target / path.name, quality=95, subsampling="4:4:4"
            )


def stored_photos(photos: list[Pixels], files: int, folder: Path) -> Path:
    """A folder with this many files, the photos repeated."""
    folder.mkdir()
    for index, photo in enumerate(photos[:files]):
        (folder / f"{index:06}.jpg").write_bytes(codec.encode(photo, "jpeg"))
    for index in range(len(photos), files):
        shutil.copy(folder / f"{index % len(photos):06}.jpg", folder / f"{index:06}.jpg")
    return folder


def row(what: str, loop: float, ours: float) -> None:
    """Print a row of the table; times in seconds."""
    print(f"| {what} | {1000 * loop:.1f} | {1000 * ours:.1f} | {loop / ours:.2f} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="apply against a plain loop; 3 to 8 minutes on 2 cores")
    parser.add_argument("--photos", metavar="FOLDER", default="jobs/samples/content", help="JPEG files")
    parser.add_argument(
        "--model", default="", help="address of a model (default: an untrained one of width 32)"
    )
    parser.add_argument(
        "--files", type=int, default=512, help="files that the command stylizes, 4 or more (512)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds, 1 or more (3)")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="precision of apply"
    )
    options = parser.parse_args()
    if options.files < 4 or options.rounds < 1:
        parser.error("--files: 4 or more; --rounds: 1 or more")
    model = read_model(options.model) if options.model else untrained()
    limits = {"min_side": 64, "max_bytes": 64 << 20, "max_pixels": 100_000_000}
    decoded = [
        codec.decode(path.read_bytes(), **limits) for path in sorted(Path(options.photos).glob("*.jpg"))
    ]
    photos = [codec.crop(picture, SIZE) for picture in decoded]
    machine = machine_of(CPU, SIZE)
    print(f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}", end=", ")
    print(f"{datetime.date.today()}\n\n| {SIZE} px | ms, plain loop in fp32 | ms, apply | ratio |")
    print("| --- | --- | --- | --- |", flush=True)
    painting = pixels_to_pixels(model, photos, options.rounds, options.precision)
    command_takes = files_to_files(model, photos, options.files, options.rounds, options.precision)
    print(f"\nFrom files to files: {painting / command_takes:.2f} of the painter's own rate.")


if __name__ == "__main__":
    main()
