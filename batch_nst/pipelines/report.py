"""The report that a run leaves: one HTML file that needs no network, no other file and no JavaScript.

Pictures are data URIs, plots are inline SVG whose colours are the page's, so that they follow it into
dark mode and onto paper. Nothing in it is trusted: names and reasons come from other people's buckets,
and the template escapes them all. The same input gives the same bytes.
"""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from numbers import Integral, Real
from typing import Any, Final, Literal, TypeAlias

import matplotlib as mpl
import matplotlib.style
import numpy as np
import numpy.typing as npt
import yaml
from jinja2 import ChainableUndefined, Environment, PackageLoader
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image, ImageOps

from batch_nst.data import images

Values: TypeAlias = npt.NDArray[np.float64]
"""Numbers of one curve, shape (N,); what was missing or no number is NaN."""


@dataclass(frozen=True)
class Triple:
    """One held-out photo and what was made of it.

    Attributes:
        name: its key, such as `animals/cat.jpg`.
        photo: an encoded picture (JPEG, PNG, WebP, ...), and so are the next two.
        optimised: the photo after the optimisation.
        model: the photo after the fast model.
        losses: for each of `photo`, `optimised`, `model` its `total`, `content`, `style` and, but for the
            photo, `distance` to the optimised picture. Missing ones are left out.
    """

    name: str
    photo: bytes
    optimised: bytes
    model: bytes
    losses: Mapping[str, Mapping[str, float]]


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
) -> str:
    """The report as the text of an HTML file. What is empty or missing is left out; NaN and None become –.

    Args:
        title: of the page, as plain text.
        style: the painting, an encoded picture of any size.
        triples: held-out photos, shown side by side with both results.
        evaluation: `photos` and their `size` in pixels; `photo`, `optimised`, `model`, each with geometric
            means of `total`, `content`, `style`, `distance`; `curve`, the objective after 0, 1, 2, ...
            iterations; `verdict` and `worth_iterations`; `seconds_per_image` of `model` and `optimised`.
        history: training's log, oldest first: `step` and any losses.
        dataset: `found` photos, `images`, `counts` by status, `bad` ones (`uri`, `status`, `reason`,
            `detail`), `total_loss` of every pair, `snapshot` and its `digest`.
        run: anything worth keeping, shown as it is; keys that end in `seconds` as a time.
        recipe: the recipe's plain values, shown as YAML.
        pairs: name, photo and optimised picture of some training pairs.
    """
    with mpl.style.context(["default", _PLOT_STYLE]):
        plots = {
            "curve": _plot_curve(evaluation),
            "training": _plot_history(history),
            "histogram": _plot_histogram(_floats(dataset.get("total_loss") or ())),
        }
    return _TEMPLATE.render(
        title=title,
        style=_data_uri(style, 1024),
        triples=[
            {
                "name": triple.name,
                "views": [
                    (kind, label, _data_uri(getattr(triple, kind), 512), triple.losses.get(kind, {}))
                    for kind, label in _KINDS.items()
                ],
            }
            for triple in triples
        ],
        kinds=_KINDS,
        evaluation=evaluation,
        speedup=_speedup(evaluation.get("seconds_per_image") or {}),
        dataset=dataset,
        run=run,
        recipe=yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True) if recipe else "",
        pairs=[(name, _data_uri(photo, 256), _data_uri(made, 256)) for name, photo, made in pairs],
        **plots,
    )


def contact_sheet(rows: Sequence[Sequence[bytes]], side: int = 256) -> bytes:
    """A sheet of square pictures: one row for each photo, in it photo, optimised picture, fast model's.

    Args:
        rows: encoded pictures, at least one; what does not fit a square is cut off evenly.
        side: of each picture, in pixels; between two of them lie `max(1, side // 64)` white ones.

    Returns:
        A JPEG file of quality 92.
    """
    step = side + max(1, side // 64)
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * step - (step - side), len(rows) * step - (step - side)), "white")
    for y, row in enumerate(rows):
        for x, data in enumerate(row):
            sheet.paste(ImageOps.fit(_picture(data), (side, side)), (x * step, y * step))
    return _jpeg(sheet)


_KINDS: Final = {"photo": "Photo", "optimised": "Optimised", "model": "Fast model"}


def _picture(data: bytes) -> Image.Image:
    return Image.fromarray(images.decode(data, min_side=1, max_bytes=len(data), max_pixels=178_000_000))


def _jpeg(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", quality=92, subsampling="4:4:4")
    return file.getvalue()


def _data_uri(data: bytes, side: int) -> str:
    """A picture that is at most `side` pixels long, as a URI that every browser shows."""
    image = _picture(data)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return f"data:image/jpeg;base64,{b64encode(_jpeg(image)).decode()}"


# Figures for people --------------------------------------------------------------------------------------

_UNITS: Final = {3: "k", 6: "M", 9: "G", 12: "T"}


def _number(value: object) -> str:
    """Three digits and a unit, such as 1.23 M; – for what is no finite number."""
    if not isinstance(value, Real) or not math.isfinite(value):
        return "–"
    mantissa, exponent = f"{float(value):.2e}".split("e")  # rounded before the unit is chosen
    power = int(exponent) // 3 * 3
    if power not in _UNITS:
        return f"{float(value):.3g}"
    return f"{float(mantissa) * 10 ** (int(exponent) - power):.3g}\u202f{_UNITS[power]}"


def _count(value: object) -> str:
    """A whole number with all its digits, in groups of three."""
    return f"{int(value):,}".replace(",", "\u202f") if isinstance(value, Integral) else _number(value)


def _duration(seconds: object) -> str:
    """Seconds as 0.05 s, 7.1 s, 12 min 5 s or 3 h 2 min."""
    if not isinstance(seconds, Real) or not math.isfinite(seconds) or seconds < 60:
        return f"{_number(seconds)}\u202fs"
    minutes, rest = divmod(round(float(seconds)), 60)
    if minutes < 60:
        return f"{minutes}\u202fmin {rest}\u202fs"
    return f"{_count(minutes // 60)}\u202fh {minutes % 60}\u202fmin"


def _plain(value: object, key: str = "") -> str:
    """Any value of the run's summary in one line."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(name).replace('_', ' ')} {_plain(each, str(name))}" for name, each in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(_plain(each, key) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, Real):
        return _duration(value) if value is not None and key.endswith("seconds") else _count(value)
    return str(value)


def _speedup(seconds: Mapping[str, Any]) -> float:
    model, optimised = _floats([seconds.get("model"), seconds.get("optimised")])
    return float(optimised / model) if model > 0 else math.nan


_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("batch_nst", "pipelines"),
    autoescape=True,
    undefined=ChainableUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"number": _number, "count": _count, "duration": _duration, "plain": _plain}
_TEMPLATE: Final = _ENVIRONMENT.get_template("report.html.j2")


# Plots ---------------------------------------------------------------------------------------------------

_INK, _MUTED, _LINE = "#000001", "#000002", "#000003"
_OPTIMISED, _MODEL = "#000004", "#000005"
_COLOURS: Final = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _OPTIMISED: "var(--optimised)",
    _MODEL: "var(--model)",
}
"""Colours that are drawn with, and the page's that take their places."""

_STEPS: Final = (1, 2, 5, 10)
"""What ticks may count in, times a power of ten."""

_PLOT_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


def _floats(values: Sequence[object]) -> Values:
    known = np.array([float(value) if isinstance(value, Real) else math.nan for value in values])
    return np.where(np.isfinite(known), known, math.nan)


def _plot(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty plot of `width` x `height` inches; on the page a point is about a CSS pixel."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as an SVG element for the inside of an HTML page, in the page's colours and font."""
    file = StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": label}):  # ids must differ between the plots of a page
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    body = file.getvalue().partition("</defs>")[2]  # before it: a document's head, and CSS for all the page
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    for drawn, shown in _COLOURS.items():
        body = body.replace(drawn, shown)
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    opening = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, label)
    return opening + Markup(body)


def _set_scale(axis: Axis, values: Values, set_scale: Callable[[str], object]) -> None:
    """Logarithmic where all values are positive and differ enough for that; few ticks; figures for people."""
    low, high = np.nanmin(values), np.nanmax(values)
    if low > 0 and high >= 5 * low:
        set_scale("log")
        axis.set_major_locator(LogLocator(subs=(1.0,) if high > 200 * low else (1.0, 2.0, 5.0)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(4, steps=_STEPS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))


def _plot_curve(evaluation: Mapping[str, Any]) -> Markup | None:
    """The optimisation's objective over iterations, and where the fast model lies on that way."""
    curve = _floats(evaluation.get("curve") or ())
    if np.isfinite(curve).sum() < 2:
        return None
    model, worth = _floats([(evaluation.get("model") or {}).get("total"), evaluation.get("worth_iterations")])
    last = len(curve) - 1
    figure, axes = _plot(4.6, 3.1)
    axes.set_xscale("symlog", linthresh=1, linscale=0.3)
    axes.set_xlim(0, last)
    ticks = [tick for power in range(9) for tick in (10**power, 3 * 10**power) if tick <= last]
    axes.xaxis.set_major_locator(FixedLocator([0, *ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    axes.set_xlabel("iterations")
    axes.plot(curve, color=_OPTIMISED)
    _set_scale(axes.yaxis, np.append(curve, model), axes.set_yscale)
    axes.margins(y=0.14)
    finite = curve[np.isfinite(curve)]
    better = model < finite[-1]
    if better:  # all of the curve lies above the model's line; only at its start is there room for a name
        _label(axes, 0, finite[0], "optimisation", _OPTIMISED, "left", "bottom")
    else:
        _label(axes, last, finite[-1], "optimisation", _OPTIMISED, "right", "top")
    if math.isfinite(model):
        axes.axhline(model, color=_MODEL)
        _label(axes, last, model, "fast model", _MODEL, "right", "top" if better else "bottom")
    if math.isfinite(model) and 0 <= worth <= last:
        bottom, top = axes.get_ylim()
        axes.vlines(worth, bottom, model, color=_MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.set_ylim(bottom, top)
        axes.plot(worth, model, "o", color=_MODEL, markersize=7, clip_on=False, zorder=3)
    return _svg(figure, "Objective of the optimisation over iterations, and of the fast model")


def _label(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    colour: str,
    ha: Literal["left", "right"],
    va: Literal["bottom", "top"],
) -> None:
    offset = (4 if ha == "left" else -2, 5 if va == "bottom" else -5)
    axes.annotate(text, (x, y), offset, textcoords="offset points", ha=ha, va=va, color=colour)


def _plot_history(history: Sequence[Mapping[str, float]]) -> list[tuple[str, float, float, Markup]]:
    """For each loss in the log its name, the ends of its running mean, and its plot over steps."""
    plots = []
    all_steps = _floats([entry.get("step") for entry in history])
    for name in dict.fromkeys(key for entry in history for key in entry if key != "step"):
        values = _floats([entry.get(name) for entry in history])
        known = np.isfinite(all_steps) & np.isfinite(values)
        if known.sum() < 2:
            continue
        steps, values = all_steps[known], values[known]
        window = max(1, len(values) // 25)
        means = np.convolve(values, np.full(window, 1 / window), "valid")
        middles = steps[(window - 1) // 2 :][: len(means)]
        figure, axes = _plot(3.6, 2.0)
        axes.margins(x=0.01)
        axes.plot(steps, values, color=_MODEL, linewidth=0.8, alpha=0.35)
        axes.plot(middles, means, color=_MODEL)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
        _set_scale(axes.yaxis, values, axes.set_yscale)
        first, last = float(means[0]), float(means[-1])
        label = f"{name} over training steps, from {_number(first)} to {_number(last)}"
        plots.append((name, first, last, _svg(figure, label)))
    return plots


def _plot_histogram(losses: Values) -> Markup | None:
    """How the pairs' final losses are distributed."""
    losses = losses[np.isfinite(losses)]
    if len(losses) < 2:
        return None
    figure, axes = _plot(4.6, 2.0)
    _set_scale(axes.xaxis, losses, axes.set_xscale)
    bins = min(40, max(6, math.isqrt(2 * len(losses))))
    low, high = float(losses.min()), float(losses.max())
    edges = np.geomspace(low, high, bins + 1) if axes.get_xscale() == "log" else bins
    counts, edges = np.histogram(losses, edges)
    axes.stairs(counts, edges, fill=True, color=_OPTIMISED)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=_STEPS, integer=True))
    axes.set_xlabel("total loss")
    return _svg(figure, f"Histogram of {len(losses)} final losses, from {_number(low)} to {_number(high)}")
