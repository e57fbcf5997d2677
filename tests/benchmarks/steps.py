"""How long a training step takes, beside an earlier commit: both alternate, each in a process of its own.

Network (`johnson`, width 32), batch, optimiser (Adam) and pixels are the same. Weights and pixels do not
decide the time. The earlier commit is checked out into a temporary folder and runs in this environment.

python tests/benchmarks/steps.py [--commit 580efb4] [--sizes 96 256] [--rounds 5]
python tests/benchmarks/steps.py --profile --sizes 256

With `--profile` it shows which operations of torch the time goes to, in ms an image, instead.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, sys, time
import numpy as np, torch
try:
    from batch_nst.data.dataset.sampler import Batch
    from batch_nst.engine.fast_model.transformer_net import TransformerNet
    from batch_nst.pipelines.train.trainer import Trainer
    from batch_nst.data.images.style import read_style
    adam = {"optimizer": "adam"}
except ImportError:  # before the rooms of 0.2
    from batch_nst.data.pairs import Batch
    from batch_nst.engine.transformer_net import TransformerNet
    from batch_nst.pipelines.training import Training as Trainer
    from batch_nst.data.style import read_style
    adam = {}

from batch_nst.pipelines.objective import Objectives
from batch_nst.recipe import Loss, Style, Train, Vgg

size, batch, steps, painting = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
threads = torch.get_num_threads()
torch.manual_seed(0)
objectives = Objectives.on(read_style(Style(image=painting)), Loss(), Vgg(), "cpu", "auto", threads)
settings = Train(steps=1000, batch_size=batch, crop_size=size, **adam)
at_once = min(batch, threads)
trainer = Trainer(settings, objectives, TransformerNet(), max(1, threads // at_once), at_once)
step = getattr(trainer, "train_step", None) or trainer.advance
pixels = np.random.default_rng(0).integers(0, 256, (2, batch, size, size, 3), np.uint8)
pairs, took = Batch(*pixels), []
for _ in range(steps + 2):
    start = time.perf_counter()
    step(pairs)
    took.append(time.perf_counter() - start)
found = {"seconds": took[2:], "engine": objectives.engine}  # the first ones choose kernels
if sys.argv[5:]:
    from torch.profiler import ProfilerActivity, _ExperimentalConfig, profile

    threads = _ExperimentalConfig(profile_all_threads=True)
    with profile(activities=[ProfilerActivity.CPU], experimental_config=threads) as profiled:
        for _ in range(steps):
            step(pairs)
    found["operations"] = {
        each.key.removeprefix("aten::"): each.self_cpu_time_total / 1000 / steps / batch
        for each in profiled.key_averages()
    }
print(json.dumps(found))
"""


def measure(checkout: Path, size: int, batch: int, steps: int, *profile: str) -> dict[str, Any]:
    """Seconds of some steps by the code in a checkout, what computed them, and ms of operations."""
    painting = ROOT / "jobs" / "samples" / "styles" / "van_gogh_auvers.jpg"
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(size), str(batch), str(steps), str(painting), *profile],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        cwd=checkout,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Prints a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", default="580efb4")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 256])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if min(options.batch, options.rounds) < 1 or min(options.sizes) < 32:
        parser.error("--batch, --rounds: 1 or more; --sizes: 32 or more")
    with TemporaryDirectory() as folder:
        earlier = Path(folder) / "earlier"
        subprocess.run(
            ["git", "worktree", "add", "-q", "--detach", earlier, options.commit], cwd=ROOT, check=True
        )
        try:
            if options.profile:
                for size in options.sizes:
                    both = [measure(each, size, options.batch, 3, "profile") for each in (earlier, ROOT)]
                    print(operations(options.commit, *(each["operations"] for each in both)))
                return
            print(
                f"| px | {options.commit}: least, median ms | here | times as fast: least, median |\n|"
                + " --- |" * 4
            )
            for size in options.sizes:
                took: dict[Path, list[float]] = {earlier: [], ROOT: []}
                for _ in range(options.rounds):
                    for checkout, seconds in took.items():
                        found = measure(checkout, size, options.batch, max(3, 1200 // size))
                        seconds += found["seconds"]
                print(row(size, took[earlier], took[ROOT], found["engine"]), flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", earlier], cwd=ROOT, check=True)


def operations(commit: str, before: dict[str, float], now: dict[str, float]) -> str:
    """A table of the operations that take most, in ms an image, the sum over all threads."""
    names = sorted({*before, *now}, key=lambda name: -max(before.get(name, 0), now.get(name, 0)))
    sums = f"| all | {sum(before.values()):.0f} | {sum(now.values()):.0f} |"
    rows = [f"| `{name}` | {before.get(name, 0):.0f} | {now.get(name, 0):.0f} |" for name in names[:24]]
    return "\n".join([f"| operation | {commit} | here |", "| --- | ---: | ---: |", sums, *rows])


def row(size: int, before: list[float], now: list[float], engine: str) -> str:
    """A row of the table."""
    told = [f"{1000 * min(each):.0f}, {1000 * median(each):.0f}" for each in (before, now)]
    ratios = f"{min(before) / min(now):.2f}, {median(before) / median(now):.2f}"
    return f"| {size}, {engine} | {' | '.join(told)} | {ratios} |"


if __name__ == "__main__":
    main()
