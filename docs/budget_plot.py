"""Draws how R falls with the photos that a training sees, and prints what R = 1.5 would take.

python docs/budget_plot.py
"""

import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter
from torch.utils.flop_counter import FlopCounterMode

from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.pipelines.benchmark.ablation_arms import ARMS
from batch_nst.pipelines.benchmark.ablation_records import References, Training

DOCS = Path(__file__).resolve().parent
STYLE, ARM, PROCESSOR, SIZE = "kandinsky_composition_viii", "skip-mixed", "AMD EPYC", 128
GOAL = 1.5
VGG_GFLOP, BACK_GFLOP = 36.5, 36.5 + 2.1 + 2.1
"""VGG-16 for a picture of 256 px, and its way back with Gram matrices: docs/engine.md."""
H100_GFLOP = 990_000
"""A second, in bf16, by its data sheet; a third of them is assumed to be reached."""


@dataclass(frozen=True)
class Budget:
    """A training of the arm, measured ten times."""

    minutes: float
    """What it trained for, without its pairs."""
    seen: npt.NDArray[np.float64]
    """Photos that it had seen at each measurement; a photo counts each time that it is seen."""
    objective: npt.NDArray[np.float64]
    """R there."""
    content: npt.NDArray[np.float64]
    """Content there, in times X's."""


def budgets() -> list[Budget]:
    """The trainings of the arm, the shortest first."""
    found: list[Budget] = []
    best: References | None = None
    for line in map(json.loads, (DOCS / "ablation.jsonl").read_text().splitlines()):
        machine, words = line["machine"], line["name"].split()
        if words[0] != STYLE or (machine["processor"], machine["size"]) != (PROCESSOR, SIZE):
            continue
        if "X" in line["value"]:
            best = line["value"]
        elif words[1] == ARM and best is not None:
            found.append(budget(line["value"], best))
    return sorted(found, key=lambda budget: budget.minutes)


def budget(training: Training, best: References) -> Budget:
    """A training as it was measured; its steps take the same time throughout."""
    curve = training["curve"]
    seconds = np.array([point["seconds"] for point in curve])
    part = 1 - (seconds[-1] - seconds) / training["seconds"]
    objective = np.array([point["objective"] for point in curve]) / best["X"]["objective"]
    content = np.array([point["content"] for point in curve]) / best["X"]["content"]
    seen = part * training["steps"] * ARMS[ARM].train.batch_size
    return Budget(training["seconds"] / 60, seen, objective, content)


@dataclass(frozen=True)
class Law:
    """R as a power of the photos seen: log R = `at_one` + `power` log photos, by least squares."""

    title: str
    power: float
    at_one: float

    @property
    def goal(self) -> float:
        """Photos after which R is that of the goal."""
        return float(np.exp((np.log(GOAL) - self.at_one) / self.power))


def law(title: str, found: list[Budget]) -> Law:
    """The law through the ends of trainings."""
    ends = np.log([[each.seen[-1], each.objective[-1]] for each in found])
    return Law(title, *map(float, np.polyfit(ends[:, 0], ends[:, 1], 1)))


def draw(axes: Axes, found: list[Budget], laws: list[Law]) -> None:
    """R of all trainings, and the lines through their ends."""
    for each, colour in zip(
        found, mpl.colormaps["viridis_r"](np.linspace(0.2, 0.9, len(found))), strict=True
    ):
        axes.plot(each.seen, each.objective, color=colour, label=f"{each.minutes:.0f} minutes")
        axes.plot(each.seen[-1], each.objective[-1], "o", color=colour)
    for one, dashes in zip(laws, (":", "--"), strict=True):
        line = np.array([found[0].seen[-1], one.goal])
        reached = np.exp(one.at_one + one.power * np.log(line))
        axes.plot(line, reached, dashes, color="#777777", linewidth=1, label=f"through {one.title}")
    axes.set(xscale="log", yscale="log", ylabel="R", xlabel="photos seen")
    axes.yaxis.set_major_locator(FixedLocator([1.5, 2, 3, 4, 6, 9]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(FixedLocator([]))


def photo_gflop() -> float:
    """What a step computes for a photo of 256 px: network, and VGG-16 for photo, picture and half an X."""
    net = TransformerNet(ARMS[ARM].train.width, ARMS[ARM].train.network)
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 256, 256)).sum().backward()
    return float(counter.get_total_flops()) / 1e9 + 2.5 * VGG_GFLOP + BACK_GFLOP


def main() -> None:
    """Draw, and print the exponent and what follows from it."""
    found = budgets()
    laws = [law("all three", found), law("the last two", found[-2:])]
    with mpl.style.context("default"), mpl.rc_context({"svg.hashsalt": "budgets", "font.size": 8}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw(left, found, laws)
        for each, line in zip(found, left.get_lines()[::2], strict=False):
            right.plot(each.seen, each.content, color=line.get_color())
        right.set(xscale="log", ylabel="content, in times X's", xlabel="photos seen")
        for axes in (left, right):
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.3)
        left.legend()
        figure.savefig(DOCS / "budgets.svg", format="svg", metadata={"Date": None})
    for each in found:
        print(f"{each.minutes:.0f} minutes, {each.seen[-1]:,.0f} photos: R {each.objective[-1]:.2f}")
    for one in laws:
        hours = one.goal / found[-1].seen[-1] * found[-1].minutes / 60
        print(f"through {one.title}: R falls as photos^{one.power:.3f}", end=", ")
        print(f"and is {GOAL} after {one.goal:,.0f} of them, {hours:.0f} hours here", end=", ")
        print(f"{one.goal * photo_gflop() / (H100_GFLOP / 3) / 60:.0f} minutes on an H100 at 256 px")


if __name__ == "__main__":
    main()
