"""Draw docs/engine.svg from a results file of `batch-nst benchmark --results FILE`.

python docs/engine_plot.py FILE
"""

import json
import sys
from itertools import accumulate
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

LABELS = {
    "lbfgs": "baseline: torch L-BFGS, fp32",
    "lbfgs_wolfe": "baseline: strong Wolfe",
    "adam": "baseline: Adam",
    "free": "this engine, unbounded pixels",
    "engine": "this engine",
}
COLOURS = {
    "lbfgs": "#c44e52",
    "lbfgs_wolfe": "#dd8452",
    "adam": "#937860",
    "free": "#8fb8de",
    "engine": "#1f5fa8",
}


def main(results: str) -> None:
    """Read the measurements and draw."""
    taken = {
        record["name"]: record["value"] for record in map(json.loads, Path(results).read_text().splitlines())
    }
    figure, (race, sizes, batches) = plt.subplots(
        1, 3, figsize=(11, 3.6), width_ratios=(2, 1, 1), constrained_layout=True
    )
    style, photo = next(name.split()[1:] for name in taken if name.startswith("adam "))
    for method, label in LABELS.items():
        name = next(name for name in taken if name.startswith(f"{method} {style} {photo}"))
        curve = taken[name][0]
        seconds = [second for second, _ in curve]
        race.plot(
            seconds, list(accumulate((loss for _, loss in curve), min)), label=label, color=COLOURS[method]
        )
    race.set(
        xscale="log",
        yscale="log",
        xlabel="seconds of the machine for one image",
        ylabel="least objective so far",
        title=f"{photo} in the style of {style.removesuffix('.jpg')}",
    )
    race.legend(fontsize=7, loc="lower left")
    for axis, kind, title in (
        (sizes, "size", "side of the image, pixels"),
        (batches, "batch", "images in a batch"),
    ):
        cost = {int(name.split()[1]): value for name, value in taken.items() if name.startswith(f"{kind} ")}
        axis.plot(
            list(cost),
            [1e3 * value["iteration"] for value in cost.values()],
            "o-",
            color=COLOURS["engine"],
            label="iteration",
        )
        axis.plot(
            list(cost),
            [1e3 * value["floor"] for value in cost.values()],
            "o--",
            color="#777777",
            label="bare VGG-16",
        )
        axis.set(
            xscale="log",
            xlabel=title,
            ylabel="ms an image and iteration",
            xticks=list(cost),
            xticklabels=list(cost),
        )
        axis.minorticks_off()
        axis.legend(fontsize=7)
    sizes.set(yscale="log")
    batches.set(ylim=(0, None))
    for axis in (race, sizes, batches):
        axis.grid(alpha=0.3)
        axis.title.set_fontsize(9)
    figure.savefig(Path(__file__).with_name("engine.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1])
