"""The page of `try`: the same photos optimised by several recipes, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batch_nst.data.images import codec
from batch_nst.data.images.codec import Pixels
from batch_nst.data.images.style import StyleImage
from batch_nst.engine.statistics import geometric_mean
from batch_nst.pipelines.reports.html import ENVIRONMENT, data_uri, number
from batch_nst.recipe import Recipe, Style, Vgg
from batch_nst.recipe_file import Variant

_SIDE = 512
"""Maximum side of a picture on the page, in pixels."""
PARTS = ("content", "style", "total")
_TEMPLATE = ENVIRONMENT.get_template("comparison.html.j2")


@dataclass(frozen=True)
class Content:
    """The centre square of a photo in one or more sizes."""

    name: str
    squares: dict[int, Pixels]
    """Squares by side in pixels, the largest last."""


class Picture(NamedTuple):
    """The optimised image of a photo."""

    image: str
    """Data URI of the image as it would be stored."""
    content: float
    style: float
    total: float
    curve: npt.NDArray[np.float64]
    """Running minimum of the loss after 0, 1, 2, ... iterations."""

    @property
    def last_tenth(self) -> float:
        """Fraction by which the last tenth of the iterations reduced the loss."""
        steps = len(self.curve) - 1
        before, after = self.curve[steps - math.ceil(steps / 10)], self.curve[-1]
        return float(1 - after / before) if before else 0.0

    @property
    def points(self) -> str:
        """The curve on a logarithmic scale, as points of an SVG polyline that fills 100 x 20."""
        shown = self.curve[np.linspace(0, len(self.curve) - 1, min(len(self.curve), 100)).round().astype(int)]
        heights = np.log(np.maximum(shown, 1e-12))
        heights = (heights - heights.min()) / max(np.ptp(heights), 1e-12)
        across = np.linspace(0, 100, len(shown))
        return " ".join(f"{x:.1f},{20 * (1 - y):.1f}" for x, y in zip(across, heights, strict=True))


@dataclass(frozen=True)
class ColumnFigures:
    """Means over the optimised images of one recipe; None without any image."""

    images: int
    content: float | None
    """Geometric mean, as the next two fields."""
    style: float | None
    total: float | None
    last_tenth: float | None
    """Mean fraction by which the last tenth of the iterations reduced the loss."""
    seconds: float


@dataclass(frozen=True)
class Column:
    """The optimised images of one recipe."""

    pictures: list[Picture | None]
    """One per photo; None where the loss became NaN or infinite, also in fp32."""
    seconds: float

    def figures(self) -> ColumnFigures:
        """The means over the images."""
        made = [picture for picture in self.pictures if picture]
        return ColumnFigures(
            images=len(made),
            content=geometric_mean(picture.content for picture in made),
            style=geometric_mean(picture.style for picture in made),
            total=geometric_mean(picture.total for picture in made),
            last_tenth=fmean(picture.last_tenth for picture in made) if made else None,
            seconds=round(self.seconds, 3),
        )


def render_page(
    variants: Sequence[Variant],
    columns: Sequence[Column],
    contents: Sequence[Content],
    styles: Mapping[Style, StyleImage],
) -> str:
    """The page with the columns made so far; of two keys, the first gives rows, the second columns."""
    recipe, keys = variants[0].recipe, list(variants[0].given)
    across = list(dict.fromkeys(variant.given[keys[-1]] for variant in variants))
    shown = {image.digest: (style, image) for style, image in styles.items()}
    return _TEMPLATE.render(
        keys=keys,
        across=across,
        lines=[
            (variants[first].given[keys[0]], range(first, first + len(across)))
            for first in range(0, len(variants), len(across))
        ],
        photos=[(content.name, shown_uri([*content.squares.values()][-1])) for content in contents],
        styles=[(style.image.rsplit("/", 1)[-1], shown_uri(seen.pixels)) for style, seen in shown.values()],
        pictures=[column.pictures for column in columns],
        means=[column.figures() for column in columns],
        parts=PARTS,
        iterations=sorted({variant.recipe.generate.iterations for variant in variants}),
        sides=sorted({variant.recipe.generate.image_size for variant in variants}),
        one_measure=len({_measure(variant.recipe) for variant in variants}) == 1,
        settings=recipe.model_dump(include={"style", "loss", "vgg", "generate"}),
    )


def shown_uri(pixels: Pixels) -> str:
    """A picture as a data URI, scaled down for the page."""
    return data_uri(codec.encode(pixels, "png"), _SIDE)


def _measure(recipe: Recipe) -> tuple[Style, Vgg, str]:
    """What content and style losses are measured with, without their weights."""
    layers = recipe.loss.model_dump_json(include={"content_layers", "style_layers"})
    return recipe.style, recipe.vgg, layers


def summary_lines(variants: Sequence[Variant], columns: Sequence[Column]) -> list[str]:
    """The figures as lines of a table."""
    wide = max(map(len, map(str, variants)))
    heads = (*PARTS, "last tenth")
    lines = [f"{'':{wide}} {' '.join(f'{head:>12}' for head in heads)}"]
    for variant, column in zip(variants, columns, strict=True):
        figures = column.figures()
        losses = " ".join(f"{number(getattr(figures, part)):>12}" for part in PARTS)
        lines.append(f"{variant!s:{wide}} {losses} {_share(figures.last_tenth):>12}")
    return lines


def _share(value: float | None) -> str:
    return "–" if value is None else f"-{value:.2%}"
