"""The ablation's report: tables, curves over time, and a contact sheet to judge by eye."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter
from PIL import Image, ImageDraw, ImageFont

from batch_nst.data.images.codec import Pixels
from batch_nst.pipelines.benchmark.ablation_records import Account, Metrics, Run, Study

_Loss = Literal["objective", "content", "style", "distance"]
_LOSSES: Final[dict[_Loss, str]] = {
    "objective": "R",
    "content": "content",
    "style": "style",
    "distance": "distance to X",
}
_FALLING: Final = {"objective", "style"}
"""Losses that become many times smaller while a model learns."""
_BASE: Final = "peers"
_ACCOUNTS: Final[dict[Account, str]] = {
    "counted": "the pairs' cost counted",
    "free": "the pairs for free",
}
_SHOWN: Final = 5
"""Photos on a contact sheet."""
_LEGEND: Final = 190
"""Width of the names beside its rows, in pixels."""


def write_report(folder: Path, study: Study, style: str, content: Pixels, optimised: Pixels) -> list[str]:
    """Write `ablation.md`, a plot for each account, and the contact sheet of a style image.

    Args:
        folder: created if it is missing.
        study: the results so far.
        style: the style image of the contact sheet.
        content: the held-out photos, uint8 (n, size, size, 3).
        optimised: their optimised images, uint8 (n, size, size, 3).

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, sheet = folder / "ablation.md", folder / f"ablation-{style}.png"
    table.write_text(tables(study))
    files = [str(table)]
    for account in _ACCOUNTS:
        if any(run.account == account for run in study.runs):
            plot = folder / f"ablation-{account}.svg"
            draw_curves(study, account, plot)
            files.append(str(plot))
    rows = [("photo", content), (f"X, {study.scale.best} iterations", optimised)]
    for run in study.runs:
        if run.style == style and run.picture:
            with Image.open(run.picture, formats=("PNG",)) as strip:
                pixels = np.asarray(strip.convert("RGB"))
            named = f"{run.title} ({run.account})" if run.pairs_seconds else run.title
            rows.append((named, np.stack(np.split(pixels, len(content), axis=1))))
    contact_sheet(rows).save(sheet)
    return [*files, str(sheet)]


def tables(study: Study) -> str:
    """Markdown tables, one for each style image and account, with a row for each arm."""
    scale, machine = study.scale, study.machine
    lines = [
        f"{study.date}, {machine['processor']}, {machine['threads']} threads, {machine['device']}, torch "
        f"{machine['torch']}, {machine['engine']}. {scale.minutes:g} minutes an arm, {scale.size} px; "
        f"pairs after {scale.iterations} iterations, X of held-out photos after {scale.best}; "
        f"{study.photos} photos to train on, {study.held_out} held out. R is the objective; it, content and "
        "style are times those of X. Geometric means."
    ]
    for style, references in study.references.items():
        for account, title in _ACCOUNTS.items():
            runs = _of(study, style, account)
            if account == "free" and not any(run.account == "free" for run in runs):
                continue
            best = references["X"]
            lines += [
                "",
                f"### {style}, {title}",
                "",
                "| | photos | left out | minutes for pairs | steps | "
                f"{' | '.join(_LOSSES.values())} | SSIM to X | checkerboard |",
                f"| --- {'| ---: ' * 10}|",
                _row("the photo", ["", "", "", ""], references["photo"], best),
                _row("X", ["", "", "", ""], best, best),
                *(_row(run.title, _work(run), _last(run), best) for run in runs),
            ]
    return "\n".join([*lines, ""])


def _of(study: Study, style: str, account: Account) -> list[Run]:
    """The runs of a style image and an account; runs without pairs belong to both accounts."""
    return [
        run for run in study.runs if run.style == style and (run.account == account or not run.pairs_seconds)
    ]


def _last(run: Run) -> Metrics | None:
    """The metrics at the end of an arm; None if it was not trained."""
    return run.curve[-1] if run.curve else None


def _work(run: Run) -> list[str]:
    pairs = f"{run.pairs_seconds / 60:.1f}" if run.pairs_seconds else ""
    steps = str(run.training["steps"]) if run.training else "none"
    return [str(run.photos), str(run.left_out) if pairs else "", pairs, steps]


def _row(name: str, work: Sequence[str], metrics: Metrics | None, best: Metrics) -> str:
    """A row of a table; losses are shown as times those of `best`, the metrics of X."""
    cells = [_number(None)] * (len(_LOSSES) + 2)
    if metrics is not None:
        losses = [_times(loss, metrics, best) for loss in _LOSSES]
        cells = [_number(value) for value in (*losses, metrics["ssim"], metrics.get("checkerboard"))]
    return f"| {' | '.join([name, *work, *cells])} |"


def _times(loss: _Loss, metrics: Metrics, best: Metrics) -> float | None:
    """How many times that of X a loss is; the distance to X is zero for X, and shown as it is."""
    own, other = metrics[loss], best[loss]
    return own / other if own is not None and other else own


def _number(value: float | None) -> str:
    """Three digits, and all of a large one."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def draw_curves(study: Study, account: Account, file: Path) -> None:
    """R and its parts over minutes: plots for each style image, a line for each arm, dotted that of X."""
    styles = list(study.references)
    arms = dict.fromkeys(run.arm for run in study.runs if run.arm != _BASE)
    dark_then_light = map(mpl.colormaps["tab20"], [*range(0, 20, 2), *range(1, 20, 2)])
    colours = {_BASE: "black"} | dict(zip(arms, dark_then_light, strict=False))
    with mpl.style.context("default"), mpl.rc_context({"svg.hashsalt": account, "font.size": 8}):
        figure = Figure(figsize=(12, 2.9 * len(styles) + 0.7), layout="constrained")
        plots = figure.subplots(len(styles), len(_LOSSES), squeeze=False)
        lines: dict[str, Line2D] = {}
        for style, row in zip(styles, plots, strict=True):
            for (loss, title), axes in zip(_LOSSES.items(), row, strict=True):
                for run in _of(study, style, account):
                    minutes = [point["seconds"] / 60 for point in run.curve]
                    times = [_times(loss, point, study.references[style]["X"]) for point in run.curve]
                    (lines[run.title],) = axes.plot(
                        minutes,
                        times,
                        "." if len(minutes) == 1 else "-",
                        color=colours[run.arm],
                        linewidth=2.2 if run.arm == _BASE else 1.2,
                    )
                if study.references[style]["X"][loss]:
                    axes.axhline(1, color="#777777", linestyle=":", linewidth=1)
                axes.set(title=title, xlim=(0, study.scale.minutes))
                if loss in _FALLING:
                    axes.set_yscale("log")
                    axes.yaxis.set_major_formatter(LogFormatter())
                    axes.yaxis.set_minor_formatter(LogFormatter())
                axes.grid(alpha=0.3)
            row[0].set_ylabel(style)
        for axes in plots[-1]:
            axes.set_xlabel("minutes")
        figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=3)
        figure.suptitle(f"Held-out photos while a model learns, {_ACCOUNTS[account]}")
        figure.savefig(file, format="svg", metadata={"Date": None})


def contact_sheet(rows: Sequence[tuple[str, Pixels]]) -> Image.Image:
    """The first few pictures of each row (n, size, size, 3), at twice their size, pixel by pixel."""
    shown, side = rows[0][1][:_SHOWN].shape[:2]
    step = 2 * side + 4
    sheet = Image.new("RGB", (_LEGEND + shown * step, len(rows) * step), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for y, (name, pictures) in enumerate(rows):
        pen.text((6, y * step + 6), "\n".join(textwrap.wrap(name, 22)), "black", font)
        for x, pixels in enumerate(pictures[:shown]):
            square = Image.fromarray(np.ascontiguousarray(pixels))
            enlarged = square.resize((2 * side, 2 * side), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (_LEGEND + x * step, y * step))
    return sheet
