"""What the ablation found, for people: tables, curves over time, and pictures to be judged by eye."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageDraw, ImageFont

from batch_nst.data.images.codec import Pixels

Figures = Mapping[str, Any]

_MARKS: Final = {
    "objective": "objective",
    "content": "content loss",
    "style": "style loss",
    "distance": "distance to X",
}
_COMPARED: Final = ("content", "style", "distance")
_BASE: Final = "peers"
_ACCOUNTS: Final = {"counted": "the pairs' cost counted", "free": "the pairs for free"}
_SHOWN: Final = 5
"""Photos on a contact sheet."""
_LEGEND: Final = 190
"""Pixels beside its rows."""


def write_findings(folder: Path, found: Figures, style: str, content: Pixels, optimised: Pixels) -> list[str]:
    """Write `ablation.md`, a plot for each account, and the contact sheet of a style.

    Args:
        folder: where; made if it is missing.
        found: what `ablate` returns.
        style: of the sheet.
        content: the held-out photos, (n, size, size, 3).
        optimised: their `X`.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, sheet = folder / "ablation.md", folder / f"ablation-{style}.png"
    table.write_text(tables(found))
    files = [str(table)]
    for account in _ACCOUNTS:
        if any(run["account"] == account for run in found["runs"]):
            plot = folder / f"ablation-{account}.svg"
            _draw(found, account, plot)
            files.append(str(plot))
    runs = [run for run in found["runs"] if run["style"] == style and run["picture"]]
    rows = [("photo", content), (f"X, {found['scale']['best']} iterations", optimised)]
    for run in runs:
        with Image.open(run["picture"], formats=("PNG",)) as strip:
            pixels = np.asarray(strip.convert("RGB"))
        named = f"{run['title']} ({run['account']})" if run["pairs_seconds"] else run["title"]
        rows.append((named, np.stack(np.split(pixels, len(content), axis=1))))
    contact_sheet(rows).save(sheet)
    return [*files, str(sheet)]


def tables(found: Figures) -> str:
    """Markdown: for each style and account a row for each arm."""
    scale, machine = found["scale"], found["machine"]
    lines = [
        f"{found['date']}, {machine['processor']}, {machine['threads']} threads, {machine['device']}, torch "
        f"{machine['torch']}, {machine['engine']}. {scale['minutes']:g} minutes an arm, {scale['size']} px; "
        f"pairs after {scale['iterations']} iterations, X of held-out photos after {scale['best']}; "
        f"{found['photos']} photos to train on, {found['held_out']} held out. Geometric means; in brackets "
        "the difference to the peers' way."
    ]
    for style, references in found["references"].items():
        for account, told in _ACCOUNTS.items():
            runs = _of(found, style, account)
            if account == "free" and not any(run["account"] == "free" for run in runs):
                continue
            base = next((_last(run) for run in runs if run["arm"] == _BASE), {})
            lines += [
                "",
                f"### {style}, {told}",
                "",
                "| | photos | left out | minutes for pairs | steps | objective | content | style | "
                "distance to X | SSIM to X | checkerboard |",
                f"| --- {'| ---: ' * 10}|",
                _row("the photo", ["", "", "", ""], references["photo"], {}),
                _row("X", ["", "", "", ""], references["X"], {}),
                *(_row(run["title"], _work(run), _last(run), base) for run in runs),
            ]
    return "\n".join([*lines, ""])


def _of(found: Figures, style: str, account: str) -> list[Figures]:
    """The runs of a style; those without pairs belong to both accounts."""
    runs = [run for run in found["runs"] if run["style"] == style]
    return [run for run in runs if run["account"] == account or not run["pairs_seconds"]]


def _last(run: Figures) -> Figures:
    """The marks at the end of an arm; none of one that had no time to train."""
    return dict(run["curve"][-1]) if run["curve"] else {}


def _work(run: Figures) -> list[str]:
    pairs = f"{run['pairs_seconds'] / 60:.1f}" if run["pairs_seconds"] else ""
    return [str(run["photos"]), str(run["left_out"]) if pairs else "", pairs, str(run.get("steps", "none"))]


def _row(name: str, work: Sequence[str], marks: Figures, base: Figures) -> str:
    cells = [_number(marks.get(mark)) for mark in (*_MARKS, "ssim", "checkerboard")]
    for index, mark in enumerate(_MARKS):
        if mark in _COMPARED and base and marks and marks is not base and base[mark]:
            difference = 100 * (marks[mark] / base[mark] - 1)
            if math.isfinite(difference) and difference:
                cells[index] += f" ({difference:+.0f} %)"
    return f"| {' | '.join([name, *work, *cells])} |"


def _number(value: float | None) -> str:
    """Three digits, and all of a large one."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _draw(found: Figures, account: str, file: Path) -> None:
    """Curves over minutes: a row of plots for each style, a line for each arm; dotted what X has."""
    styles = list(found["references"])
    arms = dict.fromkeys(run["arm"] for run in found["runs"] if run["arm"] != _BASE)
    dark_then_light = map(mpl.colormaps["tab20"], [*range(0, 20, 2), *range(1, 20, 2)])
    colours = {_BASE: "black"} | dict(zip(arms, dark_then_light, strict=False))
    with mpl.style.context("default"), mpl.rc_context({"svg.hashsalt": account, "font.size": 8}):
        figure = Figure(figsize=(12, 2.9 * len(styles) + 0.7), layout="constrained")
        plots = figure.subplots(len(styles), len(_MARKS), squeeze=False)
        lines: dict[str, Line2D] = {}
        for style, row in zip(styles, plots, strict=True):
            for (mark, told), axes in zip(_MARKS.items(), row, strict=True):
                for run in _of(found, style, account):
                    minutes = [point["seconds"] / 60 for point in run["curve"]]
                    (lines[run["title"]],) = axes.plot(
                        minutes,
                        [point[mark] for point in run["curve"]],
                        "." if len(minutes) == 1 else "-",
                        color=colours[run["arm"]],
                        linewidth=2.2 if run["arm"] == _BASE else 1.2,
                    )
                if wanted := found["references"][style]["X"][mark]:
                    axes.axhline(wanted, color="#777777", linestyle=":", linewidth=1)
                axes.set(yscale="log", title=told, xlim=(0, found["scale"]["minutes"]))
                axes.grid(alpha=0.3)
            row[0].set_ylabel(style)
        for axes in plots[-1]:
            axes.set_xlabel("minutes")
        figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=5)
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
