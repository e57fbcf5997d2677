"""The report of a run: one HTML file that needs no network and no other file.

The page of a training that is under way has one script, to load itself again; no other has any.

Pictures are data URIs, plots are inline SVG. No text in it is trusted: names and reasons come from other
people's buckets, and the template escapes them all. The same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import matplotlib as mpl
import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from batch_nst.data.dataset.records import BadPhoto
from batch_nst.data.models.evaluation import Baseline, Comparison, Evaluation, Losses, SpeedTable
from batch_nst.data.models.registry import CurvePoint
from batch_nst.figures import as_json
from batch_nst.pipelines.cost.requests import Requests
from batch_nst.pipelines.generate.run import GenerateFigures
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
    """One held-out photo with its optimised and stylized images.

    Attributes:
        name: its key, such as `animals/cat.jpg`.
        photo: an encoded picture (JPEG, PNG, WebP, ...), and so are the next two.
        optimised: the optimised image.
        model: the stylized image.
        losses: the losses of `photo`, `optimised` and `model`. Missing ones are left out.
        larger: photo, optimised image and stylized image at twice the size, if they were made.
        id: image id, hex.
        published: the stylized image of the published model that the gate compared with, if there is one.
        published_objective: the objective of `published`, if that model was scored on this photo.
    """

    name: str
    photo: bytes
    optimised: bytes
    model: bytes
    losses: Mapping[str, Losses]
    larger: tuple[bytes, bytes, bytes] | None = None
    id: str = ""
    published: bytes | None = None
    published_objective: float | None = None


@dataclass(frozen=True)
class ScoredModel:
    """A model with its scores on held-out photos."""

    version: str
    evaluation: Evaluation
    """Scores, with `seconds_per_image`."""
    triples: Sequence[Triple]
    speed: SpeedTable | None = None


@dataclass(frozen=True)
class DeviceHours:
    """Device-hours of the steps that need devices."""

    pairs: float
    """Time that devices were busy."""
    training: float
    """Time that devices were held, as in the next field."""
    scoring: float


@dataclass(frozen=True)
class Cost:
    """What a run of `nightly` cost."""

    device_hours: DeviceHours
    requests: Requests
    """Requests to object stores for pairs, by the formula of `plan`."""
    bytes_read: int
    """Bytes of photos."""
    bytes_written: int
    """Bytes of units."""
    step_seconds: dict[str, float]


@dataclass(frozen=True)
class Night:
    """A run of `nightly` that was judged by the gate."""

    dataset: GenerateFigures
    gate: object
    """Figures of the gate, which publishes or refuses; None before it judges."""
    cost: Cost


@dataclass(frozen=True)
class EarlierNight:
    """An earlier run of `nightly`."""

    link: str
    """Path of its report, relative to the folder of a run."""
    started: datetime
    """Start of the run, UTC."""
    outcome: str
    objective: float | None = None
    """Objective of the model that was judged by the gate."""


@dataclass(frozen=True)
class DatasetFacts:
    """The snapshot that a model was trained on."""

    images: int
    counts: Mapping[str, int]
    """Number of images by status."""
    bad: Sequence[BadPhoto]
    """Some photos without a pair."""
    total_loss: Sequence[float | None]
    """Total losses of some pairs."""
    snapshot: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The contents of the page. Empty fields and None are left out; NaN is shown as –."""

    title: str
    """Title as plain text."""
    style: bytes
    """The style image, encoded, of any size."""
    triples: Sequence[Triple] = ()
    """Held-out photos; the page shows the first `SHOWN`."""
    evaluation: Evaluation | None = None
    speed: SpeedTable | None = None
    history: Sequence[CurvePoint] = ()
    """Log of the training, oldest first: `step` and any losses."""
    dataset: DatasetFacts | None = None
    run: object
    """Facts about the run, as a dataclass or mapping; keys that end in `seconds` are shown as a duration."""
    recipe: str
    """Recipe as YAML."""
    model: str = ""
    """The model's folder as a shell takes it."""
    page: str | None = None
    """Address of a page that paints in the browser."""
    pairs: Sequence[tuple[str, bytes, bytes]] = ()
    """Name, photo and optimised image of some training pairs."""
    panel: Sequence[tuple[str, bytes]] = ()
    """Columns of pictures with their names: photos, optimised images, and steps of the training."""
    night: Night | None = None
    started: datetime | None = None
    """Start of the run, UTC."""
    under_way: bool = False
    """Whether the training has not ended: the page loads itself again while its box is ticked."""
    ends: datetime | None = None
    """When the training will have ended, UTC, by its speed so far; None where that is not known."""
    rival: Evaluation | None = None
    """Evaluation of the model that the gate compared with, from its card."""
    earlier: Sequence[EarlierNight] = ()
    """Earlier runs, the latest first."""


def render(report: Report) -> str:
    """The text of the HTML file."""
    return _TEMPLATE.render(
        title=report.title,
        style=data_uri(report.style, 800),
        triples=[_shown(triple) for triple in report.triples[:SHOWN]],
        photos=len(report.triples),
        larger=_larger(report.triples),
        kinds=_KINDS,
        evaluation=report.evaluation or {},
        speed=report.speed,
        speedup=_speedup(report.evaluation),
        dataset=report.dataset,
        run=as_json(report.run),
        recipe=report.recipe,
        model=report.model,
        page=report.page,
        pairs=[(name, data_uri(photo, 192), data_uri(made, 192)) for name, photo, made in report.pairs],
        panel=[(name, data_uri(column, 800)) for name, column in report.panel],
        night=report.night,
        gate=as_json(report.night.gate) if report.night else {},
        started=report.started,
        under_way=report.under_way,
        ends=report.ends,
        rival=report.rival,
        wins=_wins(report.evaluation, report.rival),
        earlier=report.earlier,
        plots=_plots(report),
    )


SHOWN: Final = 8
"""Maximum number of held-out photos shown, so that a report stays below 3 MB."""

_LARGER: Final = 2
"""Maximum number of photos shown at twice the size."""

_SIDE: Final = 384
"""Maximum side of a picture in pixels; a phone shows two per row, at two or three pixels per CSS pixel."""

_KINDS: Final = {
    "photo": "Photo",
    "optimised": "Optimised",
    "published": "Published model",
    "model": "Fast model",
}
_NEW: Final = "New model"
"""Label of the fast model if the published model is shown beside it."""

_TEMPLATE: Final = ENVIRONMENT.get_template("report.html.j2")


class _View(NamedTuple):
    """A picture of a triple, as the page shows it."""

    kind: str
    label: str
    picture: str
    """Data URI."""
    losses: Losses | dict[str, float | None]


class _ShownTriple(NamedTuple):
    name: str
    views: list[_View]


def _shown(triple: Triple) -> _ShownTriple:
    """The pictures of a triple in the order of `_KINDS`, without missing ones."""
    pictures = {
        "photo": triple.photo,
        "optimised": triple.optimised,
        "published": triple.published,
        "model": triple.model,
    }
    losses: dict[str, Losses | dict[str, float | None]] = {
        **triple.losses,
        "published": {"total": triple.published_objective},
    }
    labels = {**_KINDS, "model": _NEW} if triple.published else _KINDS
    return _ShownTriple(
        triple.name,
        [
            _View(kind, labels[kind], data_uri(picture, _SIDE), losses.get(kind, {}))
            for kind, picture in pictures.items()
            if picture
        ],
    )


def _larger(triples: Sequence[Triple]) -> list[tuple[str, dict[str, str]]]:
    """Names and pictures of the first photos that exist at twice the size."""
    found = [(triple.name, triple.larger) for triple in triples if triple.larger][:_LARGER]
    kinds = ("photo", "optimised", "model")
    return [
        (name, {kind: data_uri(each, 2 * _SIDE) for kind, each in zip(kinds, larger, strict=True)})
        for name, larger in found
    ]


@dataclass(frozen=True)
class _Plots:
    curve: Markup | None
    baseline: Markup | None
    larger: Markup | None
    training: list[_TrainingPlot]
    histogram: Markup | None


def _plots(report: Report) -> _Plots:
    evaluation, dataset = report.evaluation, report.dataset
    baseline, larger = (evaluation.get("baseline"), evaluation.get("larger")) if evaluation else (None, None)
    with mpl.style.context(["default", STYLE]):
        return _Plots(
            curve=_plot_curve(
                evaluation, "Objective of the optimisation over iterations, and of the fast model"
            ),
            baseline=_plot_baseline(baseline),
            larger=_plot_curve(larger, "The same at twice the size"),
            training=_plot_history(report.history),
            histogram=histogram(floats(dataset.total_loss if dataset else ())),
        )


def _speedup(evaluation: Evaluation | None) -> float:
    """Seconds of the optimisation divided by those of the model; NaN if unknown."""
    seconds = evaluation.get("seconds_per_image") if evaluation else None
    if not seconds:
        return math.nan
    model, optimised = floats([seconds["model"], seconds["optimised"]])
    return float(optimised / model) if model > 0 else math.nan


def _wins(evaluation: Evaluation | None, rival: Evaluation | None) -> int:
    """Number of photos on which the first evaluation has the lower objective."""
    mine, theirs = (each.get("objectives", {}) if each else {} for each in (evaluation, rival))
    return sum(mine[photo] < theirs[photo] for photo in mine.keys() & theirs.keys())


def _plot_curve(figures: Comparison | None, title: str) -> Markup | None:
    """Plot the objective of the optimisation over iterations, and the fast model on that curve."""
    curve = floats(figures.get("curve") or () if figures else ())
    if not figures or np.isfinite(curve).sum() < 2:
        return None
    model, worth = floats([figures["model"]["total"], figures.get("worth_iterations")])
    last = len(curve) - 1
    figure, axes = _iterations(last)
    axes.plot(curve, color=OPTIMISED)
    set_scale(axes.yaxis, np.append(curve, model), axes.set_yscale)
    axes.margins(y=0.14)
    finite = curve[np.isfinite(curve)]
    better = model < finite[-1]
    if better:  # the whole curve lies above the line of the model; only its start leaves room for a label
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
    return svg(figure, title)


def _plot_baseline(figures: Baseline | None) -> Markup | None:
    """Plot the baseline (dashed) and the optimisation on the same photos, and the fast model on both."""
    if not figures:
        return None
    ways = [figures["lbfgs"], figures["engine"]]
    curves = [floats(way.get("curve") or ()) for way in ways]
    if not all(np.isfinite(curve).sum() >= 2 for curve in curves):
        return None
    usual, own = curves
    (model,) = floats([figures["model"]["total"]])
    last = len(usual) - 1
    figure, axes = _iterations(last)
    axes.plot(usual, color=MUTED, linestyle=(0, (4, 2)))
    axes.plot(own, color=OPTIMISED)
    middle = math.isqrt(last)  # of a logarithmic axis
    heights = [curve[np.isfinite(curve)][: middle + 1][-1] for curve in curves]
    label(axes, middle, heights[0], "L-BFGS baseline", MUTED, "left", "bottom")
    label(axes, middle, heights[1], "optimisation", OPTIMISED, "right", "top")
    set_scale(axes.yaxis, np.concatenate([*curves, [model]]), axes.set_yscale)
    axes.margins(y=0.14)
    if math.isfinite(model):
        axes.axhline(model, color=MODEL)
        label(axes, last, model, "fast model", MODEL, "right", "bottom")
    for worth in floats([way.get("worth_iterations") for way in ways]):
        _mark(axes, worth, model, last)
    return svg(figure, "Objectives of the optimisation and of the L-BFGS baseline over iterations")


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
    """Mark where the line of the fast model crosses a curve, if it does."""
    if not (math.isfinite(model) and 0 <= worth <= last):
        return
    bottom, top = axes.get_ylim()
    axes.vlines(worth, bottom, model, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_ylim(bottom, top)
    axes.plot(worth, model, "o", color=MODEL, markersize=7, clip_on=False, zorder=3)


class _TrainingPlot(NamedTuple):
    """A loss of the training log over steps."""

    name: str
    first: float
    """First value of the running mean; `last` is its last value."""
    last: float
    plot: Markup


def _plot_history(history: Sequence[CurvePoint]) -> list[_TrainingPlot]:
    """A plot for each loss in the training log."""
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
        title = f"{name} over training steps, from {number(first)} to {number(last)}"
        plots.append(_TrainingPlot(name, first, last, svg(figure, title)))
    return plots
