"""The report of a run: one HTML file that needs no network, no other file and no JavaScript.

Pictures are data URIs, plots are inline SVG in the page's colours, so that they follow it into dark mode
and onto paper. Nothing in it is trusted: names and reasons come from other people's buckets, and the
template escapes them all. The same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from batch_nst.pipelines.reports.charts import (
    MODEL,
    MUTED,
    OPTIMISED,
    STEPS,
    STYLE,
    floats,
    histogram,
    label,
    plot,
    set_scale,
    svg,
)
from batch_nst.pipelines.reports.html import ENVIRONMENT, data_uri, number


@dataclass(frozen=True)
class Triple:
    """One held-out photo and what was made of it.

    Attributes:
        name: its key, such as `animals/cat.jpg`.
        photo: an encoded picture (JPEG, PNG, WebP, ...), and so are the next two.
        optimised: the photo after the optimisation.
        model: the photo after the fast model.
        losses: for each of `photo`, `optimised`, `published`, `model` its `total`, `content`, `style`, and
            `distance` and `ssim` to the optimised picture. Missing ones are left out.
        larger: at twice the size the photo, and after optimisation and fast model, where they were made.
        id: of the image, hex.
        published: the photo after the model that the gate compared with, where there was one.
    """

    name: str
    photo: bytes
    optimised: bytes
    model: bytes
    losses: Mapping[str, Mapping[str, float]]
    larger: tuple[bytes, bytes, bytes] | None = None
    id: str = ""
    published: bytes | None = None


def render(
    *,
    title: str,
    style: bytes,
    triples: Sequence[Triple],
    evaluation: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    dataset: Mapping[str, Any],
    run: Mapping[str, Any],
    recipe: Mapping[str, Any],
    pairs: Sequence[tuple[str, bytes, bytes]] = (),
    panel: Sequence[tuple[str, bytes]] = (),
    night: Mapping[str, Any] | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The report as the text of an HTML file. What is empty or missing is left out; NaN and None become –.

    Args:
        title: of the page, as plain text.
        style: the painting, an encoded picture of any size.
        triples: held-out photos, of which the first `SHOWN` are shown side by side with the results.
        evaluation: `photos` and their `size` in pixels; `photo`, `optimised`, `model`, each with geometric
            means of `total`, `content`, `style`, `distance`, and means of `ssim` and `checkerboard`; `curve`,
            the objective after 0, 1, 2, ... iterations; `worth_iterations`, `worth_interval` and `verdict`;
            `seconds_per_image` of `model` and `optimised`; `larger`, the same of twice the size,
            and how many photos were `left_out` by reason; `baseline`, on some photos the curves
            of `lbfgs` and `engine`, each with its own `worth_iterations`, and the `model`; `speed`, see
            `measure_speed`.
        history: training's log, oldest first: `step` and any losses.
        dataset: `found` photos, `images`, `counts` by status, `bad` ones (`uri`, `status`, `reason`,
            `detail`), `total_loss` of every pair, `snapshot` and its `digest`.
        run: anything worth keeping, shown as it is; keys that end in `seconds` as a time.
        recipe: the recipe's plain values, shown as YAML.
        pairs: name, photo and optimised picture of some training pairs.
        panel: a name and a column of pictures for the photos, the optimised pictures, and steps of training.
        night: of one that has met the gate `started`; the figures of `publish`, or of its refusal; `dataset`,
            those of `generate`; `cost`, see `night.cost_of`; and `rival`, the evaluation of the model that
            the gate compared with, as it stands in its `model.json`.
        earlier: see `night.earlier_nights`.
    """
    with mpl.style.context(["default", STYLE]):
        plots = {
            "curve": _plot_curve(
                evaluation, "Objective of the optimisation over iterations, and of the fast model"
            ),
            "baseline_curve": _plot_baseline(evaluation.get("baseline") or {}),
            "larger_curve": _plot_curve(evaluation.get("larger") or {}, "The same at twice the size"),
            "training": _plot_history(history),
            "histogram": histogram(floats(dataset.get("total_loss") or ())),
        }
    return _TEMPLATE.render(
        title=title,
        style=data_uri(style, 800),
        triples=[
            {
                "name": triple.name,
                "views": [
                    (
                        kind,
                        _NEW if triple.published and kind == "model" else label,
                        data_uri(getattr(triple, kind), _SIDE),
                        triple.losses.get(kind, {}),
                    )
                    for kind, label in _KINDS.items()
                    if getattr(triple, kind)
                ],
            }
            for triple in triples[:SHOWN]
        ],
        photos=len(triples),
        larger=[
            (
                triple.name,
                {
                    who: data_uri(each, 2 * _SIDE)
                    for who, each in zip(("photo", "optimised", "model"), triple.larger, strict=True)
                },
            )
            for triple in triples
            if triple.larger
        ][:_LARGER],
        kinds=_KINDS,
        evaluation=evaluation,
        speedup=_speedup(evaluation.get("seconds_per_image") or {}),
        dataset=dataset,
        run=run,
        recipe=recipe,
        pairs=[(name, data_uri(photo, 192), data_uri(made, 192)) for name, photo, made in pairs],
        panel=[(name, data_uri(column, 800)) for name, column in panel],
        night=night,
        wins=_wins(evaluation, night["rival"]) if night else 0,
        earlier=earlier,
        **plots,
    )


_TOLD: Final = "Objective of the optimisation over iterations, and of the fast model"

SHOWN: Final = 8
"""Held-out photos that are shown, so that a report stays a file of 3 MB at most."""

_LARGER: Final = 2
"""Photos that are shown at twice the size."""

_SIDE: Final = 384
"""Most pixels of a picture's side; a phone shows two in a row, with two or three for a CSS pixel."""

_KINDS: Final = {
    "photo": "Photo",
    "optimised": "Optimised",
    "published": "Published model",
    "model": "Fast model",
}
_NEW: Final = "New model"
"""Where the one that was published before is beside it."""


def _speedup(seconds: Mapping[str, Any]) -> float:
    model, optimised = floats([seconds.get("model"), seconds.get("optimised")])
    return float(optimised / model) if model > 0 else math.nan


def _wins(evaluation: Mapping[str, Any], rival: Mapping[str, Any]) -> int:
    """Photos on which the first objective is the lower one."""
    mine, theirs = (each.get("objectives", {}) for each in (evaluation, rival))
    return sum(mine[photo] < theirs[photo] for photo in mine.keys() & theirs.keys())


_TEMPLATE: Final = ENVIRONMENT.get_template("report.html.j2")


def _plot_curve(figures: Mapping[str, Any], told: str) -> Markup | None:
    """The optimisation's objective over iterations, and where the fast model lies on that way."""
    curve = floats(figures.get("curve") or ())
    if np.isfinite(curve).sum() < 2:
        return None
    model, worth = floats([(figures.get("model") or {}).get("total"), figures.get("worth_iterations")])
    last = len(curve) - 1
    figure, axes = _iterations(last)
    axes.plot(curve, color=OPTIMISED)
    set_scale(axes.yaxis, np.append(curve, model), axes.set_yscale)
    axes.margins(y=0.14)
    finite = curve[np.isfinite(curve)]
    better = model < finite[-1]
    if better:  # all of the curve lies above the model's line; only at its start is there room for a name
        label(axes, 0, finite[0], "optimisation", OPTIMISED, "left", "bottom")
    else:
        label(axes, last, finite[-1], "optimisation", OPTIMISED, "right", "top")
    if math.isfinite(model):
        axes.axhline(model, color=MODEL)
        label(axes, last, model, "fast model", MODEL, "right", "top" if better else "bottom")
    low, high = floats([end or 0 for end in figures.get("worth_interval") or (0, 0)])
    if high > low:
        axes.axvspan(low, high, color=MODEL, alpha=0.12, linewidth=0)
    _mark(axes, worth, model, last)
    return svg(figure, told)


def _plot_baseline(figures: Mapping[str, Any]) -> Markup | None:
    """Two ways to optimise the same photos, the usual one dashed, and the fast model on both."""
    ways = [figures.get(name) or {} for name in ("lbfgs", "engine")]
    curves = [floats(way.get("curve") or ()) for way in ways]
    if not all(np.isfinite(curve).sum() >= 2 for curve in curves):
        return None
    usual, own = curves
    (model,) = floats([(figures.get("model") or {}).get("total")])
    last = len(usual) - 1
    figure, axes = _iterations(last)
    axes.plot(usual, color=MUTED, linestyle=(0, (4, 2)))
    axes.plot(own, color=OPTIMISED)
    middle = math.isqrt(last)  # of a logarithmic axis
    heights = [curve[np.isfinite(curve)][: middle + 1][-1] for curve in curves]
    label(axes, middle, heights[0], "usual L-BFGS", MUTED, "left", "bottom")
    label(axes, middle, heights[1], "optimisation", OPTIMISED, "right", "top")
    set_scale(axes.yaxis, np.concatenate([*curves, [model]]), axes.set_yscale)
    axes.margins(y=0.14)
    if math.isfinite(model):
        axes.axhline(model, color=MODEL)
        label(axes, last, model, "fast model", MODEL, "right", "bottom")
    for worth in floats([way.get("worth_iterations") for way in ways]):
        _mark(axes, worth, model, last)
    return svg(figure, "Objectives of the optimisation and of the usual L-BFGS over iterations")


def _iterations(last: int) -> tuple[Figure, Axes]:
    """An empty plot over iterations from 0 to `last`."""
    figure, axes = plot(4.6, 3.1)
    axes.set_xscale("symlog", linthresh=1, linscale=0.3)
    axes.set_xlim(0, last)
    ticks = [tick for power in range(9) for tick in (10**power, 3 * 10**power) if tick <= last]
    axes.xaxis.set_major_locator(FixedLocator([0, *ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_xlabel("iterations")
    return figure, axes


def _mark(axes: Axes, worth: float, model: float, last: int) -> None:
    """Where the fast model's line meets a curve, if it does."""
    if not (math.isfinite(model) and 0 <= worth <= last):
        return
    bottom, top = axes.get_ylim()
    axes.vlines(worth, bottom, model, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_ylim(bottom, top)
    axes.plot(worth, model, "o", color=MODEL, markersize=7, clip_on=False, zorder=3)


def _plot_history(history: Sequence[Mapping[str, float]]) -> list[tuple[str, float, float, Markup]]:
    """For each loss in the log its name, the ends of its running mean, and its plot over steps."""
    plots = []
    all_steps = floats([entry.get("step") for entry in history])
    for name in dict.fromkeys(key for entry in history for key in entry if key != "step"):
        values = floats([entry.get(name) for entry in history])
        known = np.isfinite(all_steps) & np.isfinite(values)
        if known.sum() < 2:
            continue
        steps, values = all_steps[known], values[known]
        window = max(1, len(values) // 25)
        means = np.convolve(values, np.full(window, 1 / window), "valid")
        middles = steps[(window - 1) // 2 :][: len(means)]
        figure, axes = plot(3.6, 2.0)
        axes.margins(x=0.01)
        axes.plot(steps, values, color=MODEL, linewidth=0.8, alpha=0.35)
        axes.plot(middles, means, color=MODEL)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        set_scale(axes.yaxis, values, axes.set_yscale)
        first, last = float(means[0]), float(means[-1])
        told = f"{name} over training steps, from {number(first)} to {number(last)}"
        plots.append((name, first, last, svg(figure, told)))
    return plots
