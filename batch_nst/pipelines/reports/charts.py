"""Charts as inline SVG in the colours of the page, so that they suit dark mode and print."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from io import StringIO
from numbers import Real
from typing import Final, Literal, TypeAlias

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from batch_nst.pipelines.reports.html import number

Values: TypeAlias = npt.NDArray[np.float64]
"""Values of one curve, shape (N,); NaN where a value is missing or infinite."""

INK, MUTED, LINE = "#000001", "#000002", "#000003"
OPTIMISED, MODEL = "#000004", "#000005"
_COLOURS: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    OPTIMISED: "var(--optimised)",
    MODEL: "var(--model)",
}
"""Colours in the drawing, and the colours of the page that replace them."""

STEPS: Final = (1, 2, 5, 10)
"""Steps between ticks, times a power of ten."""

STYLE: Final[dict[str, str | float]] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


def floats(values: Sequence[object]) -> Values:
    """The values of a curve; values that are missing or not finite become NaN."""
    known = np.array([float(value) if isinstance(value, Real) else math.nan for value in values])
    return np.where(np.isfinite(known), known, math.nan)


def plot(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty plot of `width` x `height` inches; a point becomes about one CSS pixel."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def svg(figure: Figure, label: str) -> Markup:
    """The figure as an SVG element for an HTML page, in the colours and the font of the page."""
    file = StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": label}):  # ids must differ between the plots of a page
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    # Without the XML head, and CSS that would hold for all the page.
    body = file.getvalue().partition("</defs>")[2]
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    for drawn, shown in _COLOURS.items():
        body = body.replace(drawn, shown)
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    opening = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, label)
    return opening + Markup(body)


def set_scale(axis: Axis, values: Values, set_scale: Callable[[str], object]) -> None:
    """Choose a logarithmic scale if all values are positive and span a factor of 5; set few ticks."""
    low, high = np.nanmin(values), np.nanmax(values)
    if low > 0 and high >= 5 * low:
        set_scale("log")
        axis.set_major_locator(LogLocator(subs=(1.0,) if high > 200 * low else (1.0, 2.0, 5.0)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(4, steps=STEPS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def label(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    colour: str,
    ha: Literal["left", "right"],
    va: Literal["bottom", "top"],
) -> None:
    """Write a label beside a point, to its left or right, above or below."""
    offset = (4 if ha == "left" else -2, 5 if va == "bottom" else -5)
    axes.annotate(text, (x, y), offset, textcoords="offset points", ha=ha, va=va, color=colour)


def histogram(
    values: Values,
    xlabel: str = "total loss",
    what: str = "final losses",
    bound: float | None = None,
    width: float = 4.6,
) -> Markup | None:
    """A histogram with a line at `bound`; None for fewer than two finite values."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    figure, axes = plot(width, 2.0)
    set_scale(axes.xaxis, values, axes.set_xscale)
    bins = min(40, max(6, math.isqrt(2 * len(values))))
    low, high = float(values.min()), float(values.max())
    edges = np.geomspace(low, high, bins + 1) if axes.get_xscale() == "log" else bins
    counts, edges = np.histogram(values, edges)
    axes.stairs(counts, edges, fill=True, color=OPTIMISED)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS, integer=True))
    axes.set_xlabel(xlabel)
    if bound is not None and low < bound < high:
        axes.axvline(bound, color=MODEL, linewidth=1.2, linestyle=(0, (4, 3)))
    return svg(figure, f"Histogram of {len(values)} {what}, from {number(low)} to {number(high)}")
