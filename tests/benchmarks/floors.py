"""How near training and the slow way come to what they are made of: `train_fraction` and `vgg_fraction`.

python tests/benchmarks/floors.py [--sizes 96 256] [--batch 4] [--rounds 5]

The two figures of `batch-nst benchmark`, on noise, as pixels do not decide the time. It takes minutes.
"""

import argparse
from pathlib import Path

import torch

from batch_nst.data.images.style import read_style
from batch_nst.engine.timing import fraction_of_floor, matmul_rate
from batch_nst.pipelines.benchmark.training import measure_training
from batch_nst.pipelines.objective import Objectives
from batch_nst.recipe import Loss, Style, Vgg

PAINTING = Path(__file__).resolve().parents[2] / "jobs" / "samples" / "styles" / "van_gogh_auvers.jpg"


def main() -> None:
    """Prints a row for each size and figure; medians in ms an image."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 256])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if min(options.batch, options.rounds) < 1 or min(options.sizes) < 32:
        parser.error("--batch, --rounds: 1 or more; --sizes: 32 or more")
    threads, style = torch.get_num_threads(), read_style(Style(image=str(PAINTING)))
    objectives = Objectives.on(style, Loss(), Vgg(), "cpu", "auto", threads)
    rates = [matmul_rate(objectives.device, kind) / 1e12 for kind in (torch.float32, torch.bfloat16)]
    print(f"{objectives.engine}, {threads} threads; a product of matrices: ", end="")
    print("{:.2f} TFLOP/s in fp32, {:.2f} in bf16\n".format(*rates))
    print("| px | step | its parts: forward | back | network | all | train_fraction |", flush=True)
    print(f"|{' --- |' * 7}")
    for size in options.sizes:
        found = measure_training(objectives, size, options.batch, options.rounds)
        medians = [part["median"] for part in (found["step"], found["record"], found["pull_back"])]
        print(row(size, [*medians, found["network"], found["floor"]], found["fraction"]), flush=True)
    print(f"\n| px | iteration | bare VGG-16 | vgg_fraction |\n|{' --- |' * 4}", flush=True)
    for size in options.sizes:
        noise = 255 * torch.rand((options.batch, 3, size, size), generator=torch.Generator().manual_seed(0))
        bare, iteration, fraction = fraction_of_floor(objectives.fast, noise, options.rounds)
        print(row(size, [iteration["median"], bare["median"]], fraction["median"]), flush=True)


def row(size: int, seconds: list[float], fraction: float) -> str:
    """A row of a table."""
    return f"| {size} | {' | '.join(f'{1000 * each:.0f}' for each in seconds)} | {fraction:.2f} |"


if __name__ == "__main__":
    main()
