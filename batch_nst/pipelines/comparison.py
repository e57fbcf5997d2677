"""A few photos optimised by several recipes, side by side on a page: weights are chosen before much is spent.

Needs neither a lease nor Ray, and writes nothing but the page.
"""

from __future__ import annotations

import heapq
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from batch_nst.data import images
from batch_nst.data.images import Pixels
from batch_nst.data.inputs import Photo, key_hash, photo_id, stream_photos, uri_of
from batch_nst.data.reading import read_photos
from batch_nst.data.style import StylePicture, read_style
from batch_nst.engine.memory import choose_batch, run_in_batches
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.precision import Precision, choose_device, choose_dtype
from batch_nst.engine.timing import wait_for
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.pipelines.objective import Objectives, load_vgg, optimise_photos
from batch_nst.pipelines.page import ENVIRONMENT, data_uri, duration, number
from batch_nst.pipelines.progress import Meter, meter, say
from batch_nst.pipelines.race import geometric_mean
from batch_nst.pipelines.rows import Row, photo_rows
from batch_nst.pipelines.variants import Variant
from batch_nst.recipe import Generate, Recipe, Style, Vgg

Figures = dict[str, Any]

_SPARE = 4
"""Times as many photos as are asked for are at hand, should some be bad."""
_FEW = 4
"""Iterations after which it is told how long all of them will take."""
_SIDE = 512
"""Most pixels of a picture's side on the page."""
_PARTS = ("content", "style", "total")
_TEMPLATE = ENVIRONMENT.get_template("comparison.html.j2")


def compare(variants: Sequence[Variant], photos: int = 4, file: str = "try.html") -> Figures:
    """Optimise the same photos by each recipe as `generate` would, and write a page about it.

    Images start from the photos, whatever `generate.init` says. The page is written after each recipe.

    Args:
        variants: of `read_variants`; but for what was given they are the same.
        photos: how many; named held-out ones first, then by the hash of their keys, so that held-out ones
            come before others. Bad ones are passed over.
        file: on this machine; an HTML file that needs no other.

    Returns:
        Figures: names of the `photos`; of each recipe in `values` what was `given`, the number of `images`,
        the geometric means of their `content`, `style` and `total` losses in fp32 as stored, the mean share
        of the loss that the `last_tenth` of iterations took away, and `seconds`; the `file`.

    Raises:
        RecipeError: the file cannot be written, or the painting, the photos or the weights cannot be read.
        IncompleteError: no photo is good.
    """
    target, recipe = _target(file), variants[0].recipe
    paintings = {
        style: read_style(style) for style in dict.fromkeys(variant.recipe.style for variant in variants)
    }
    for vgg, layers in dict.fromkeys((variant.recipe.vgg, _layers(variant)) for variant in variants):
        load_vgg(vgg, layers)  # refuses a wrong file now, not after minutes of other work
    device = choose_device(recipe.generate.device)
    faster: Precision = "bf16" if choose_dtype(device) == torch.bfloat16 else "fp32"
    sides = sorted({variant.recipe.generate.image_size for variant in variants})
    chosen = _choose(recipe, sides, photos)
    if recipe.generate.init_model:
        say("generate.init: here, images start from the photos")
    say(f"optimising {len(chosen)} photos for {len(variants)} values on {device}")
    columns: list[_Column] = []
    iterations = sum(len(chosen) * variant.recipe.generate.iterations for variant in variants)
    with meter("try", iterations, "iterations") as progress:
        clock = _Clock(progress, sum(len(chosen) * _cost(variant.recipe.generate) for variant in variants))
        for variant in variants:
            settings = variant.recipe.generate
            objectives = Objectives.on(
                paintings[variant.recipe.style],
                variant.recipe.loss,
                variant.recipe.vgg,
                device.type,
                faster if settings.precision == "auto" else settings.precision,
                torch.get_num_threads(),
            )
            objectives.load()
            squares = [photo.squares[settings.image_size] for photo in chosen]
            columns.append(_optimise(objectives, squares, settings, clock.watch(settings, str(variant))))
            _write(target, file, _page(variants, columns, chosen, paintings))
    figures: Figures = {
        "photos": [photo.name for photo in chosen],
        "values": [
            {"given": variant.values, **column.figures()}
            for variant, column in zip(variants, columns, strict=True)
        ],
        "file": str(target),
    }
    for line in _lines(variants, figures["values"]):
        say(line)
    say(f"page: {target}")
    return figures


def _layers(variant: Variant) -> frozenset[str]:
    return frozenset(PerceptualLoss.layers(variant.recipe.loss))


# Photos --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Content:
    """The middle of a photo."""

    name: str
    squares: dict[int, Pixels]
    """By their side, the largest last."""


def _choose(recipe: Recipe, sides: Sequence[int], count: int) -> list[_Content]:
    """The first good photos, in the sizes that they are looked at."""
    named = frozenset(recipe.evaluate.holdout_photos)
    candidates = heapq.nsmallest(
        _SPARE * count,
        _listed(recipe.generate),
        key=lambda photo: (photo.key not in named, key_hash(photo.key)),
    )
    chosen: list[_Content] = []
    bad: list[str] = []
    for photo in dict.fromkeys(candidates):
        if len(chosen) == count:
            break
        found = _read(photo, recipe.generate, sides)
        if isinstance(found, str):
            bad.append(found)
            say(found)
        else:
            chosen.append(_Content(photo.key, found))
    if not chosen:
        raise IncompleteError(f"none of {len(bad)} photos is good; the first: {bad[0]}")
    return chosen


def _listed(generate: Generate) -> Iterator[Photo]:
    for batch in stream_photos(generate.input, generate.stores):
        for row in zip(*batch.select(Photo._fields).to_pydict().values(), strict=True):
            yield Photo(*row)


def _read(photo: Photo, settings: Generate, sides: Sequence[int]) -> dict[int, Pixels] | str:
    """The middle of a photo by its side; or in one line why there is none."""
    (data,) = read_photos([photo], settings.max_bytes)
    planned: list[Row] = [{"id": photo_id(photo.key, photo.version, 0), "crop": 0, "split": ""}]
    squares: dict[int, Pixels] = {}
    for side in sides:
        (row,) = photo_rows(uri_of(photo), data, planned, settings.model_copy(update={"image_size": side}))
        if row["status"] != "ok":
            return f"{row['status']}: {row['uri']}: {row['reason']}: {row['detail']}"
        squares[side] = np.frombuffer(row["content"], np.uint8).reshape(side, side, 3)
    return squares


# Pictures ------------------------------------------------------------------------------------------------


class _Picture(NamedTuple):
    """What became of a photo."""

    image: str
    """As stored, for the page."""
    content: float
    style: float
    total: float
    curve: npt.NDArray[np.float64]
    """The least loss so far after 0, 1, 2, ... iterations."""

    @property
    def last_tenth(self) -> float:
        """The share of the loss that the last tenth of iterations took away."""
        steps = len(self.curve) - 1
        before, after = self.curve[steps - math.ceil(steps / 10)], self.curve[-1]
        return float(1 - after / before) if before else 0.0

    @property
    def points(self) -> str:
        """The logarithm of the curve as points of an SVG polyline that fills 100 x 20."""
        shown = self.curve[np.linspace(0, len(self.curve) - 1, min(len(self.curve), 100)).round().astype(int)]
        heights = np.log(np.maximum(shown, 1e-12))
        heights = (heights - heights.min()) / max(np.ptp(heights), 1e-12)
        across = np.linspace(0, 100, len(shown))
        return " ".join(f"{x:.1f},{20 * (1 - y):.1f}" for x, y in zip(across, heights, strict=True))


@dataclass(frozen=True)
class _Column:
    """What became of all photos by one recipe."""

    pictures: list[_Picture | None]
    """None where there was no number, in fp32 either."""
    seconds: float

    def figures(self) -> Figures:
        """See `compare`."""
        made = [picture for picture in self.pictures if picture]
        return {
            "images": len(made),
            **{part: _mean([getattr(picture, part) for picture in made]) for part in _PARTS},
            "last_tenth": fmean(picture.last_tenth for picture in made) if made else None,
            "seconds": round(self.seconds, 3),
        }


def _mean(values: Sequence[float]) -> float | None:
    """The geometric mean; 0 where one of them is, None of nothing."""
    return 0.0 if 0 in values else geometric_mean(values)


def _optimise(
    objectives: Objectives,
    squares: Sequence[Pixels],
    settings: Generate,
    on_iteration: Callable[[int, int], None],
) -> _Column:
    """What `generate` would make of photos, all of one side, in batches that fit into memory.

    Args:
        objectives: loaded.
        squares: uint8 (side, side, 3) each.
        settings: iterations, optimizer and encoding are used.
        on_iteration: told the number of iterations done, and of photos in the batch.
    """
    start = time.perf_counter()
    device = objectives.device
    pictures: list[_Picture | None] = []

    def run(part: slice) -> None:
        batch = np.stack(squares[part])
        found = optimise_photos(objectives, batch, settings, on_iteration=lambda done: tell(done, len(batch)))
        curves = np.minimum.accumulate(found.curve.double().cpu().numpy())
        values = zip(*(each.tolist() for each in found.losses), strict=True)
        for index, (content, style, total) in enumerate(values):
            picture = _Picture(_shown(found.pictures[index]), content, style, total, curves[:, index])
            pictures.append(picture if found.good[index] else None)

    def tell(done: int, photos: int) -> None:
        wait_for(device)
        on_iteration(done, photos)

    def halved(photos: int) -> None:
        say(f"out of memory on {device}: going on with {photos} photos at once")

    run_in_batches(len(squares), choose_batch(settings.image_size, device), run, halved)
    return _Column(pictures, time.perf_counter() - start)


# Time ----------------------------------------------------------------------------------------------------


def _cost(settings: Generate) -> int:
    """Of an image, in pixels that are looked at: what an iteration takes grows with them."""
    return (settings.iterations + 1) * settings.image_size**2


class _Clock:
    """Shows progress, and says once how long all of it will take: when some iterations have told."""

    def __init__(self, progress: Meter, cost: int) -> None:
        """`cost` of all images."""
        self._progress, self._cost = progress, cost
        self._first = math.nan
        self._told = False

    def watch(self, settings: Generate, note: str) -> Callable[[int, int], None]:
        """What `_optimise` tells of its iterations."""

        def on_iteration(done: int, photos: int) -> None:
            self._progress.advance(photos, note)
            now = time.perf_counter()
            if done == 1:
                self._first = now  # the first one chooses kernels
            elif not self._told and done == min(_FEW, settings.iterations):
                rate = (now - self._first) / ((done - 1) * photos * settings.image_size**2)
                say(f"about {duration(rate * self._cost)} in all")
                self._told = True

        return on_iteration


# The page ------------------------------------------------------------------------------------------------


def _target(file: str) -> Path:
    """Where the page goes, if it can go there."""
    target = Path(file).resolve()
    if not target.parent.is_dir():
        raise RecipeError(f"--out {file}: there is no folder {target.parent}")
    if (target.exists() and not target.is_file()) or not os.access(target.parent, os.W_OK):
        raise RecipeError(f"--out {file}: cannot be written; allowed: a file in a folder that can be")
    return target


def _write(target: Path, file: str, page: str) -> None:
    """All of the page or nothing, whenever it is interrupted."""
    part = target.with_name(f".try-{os.getpid()}.html")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(target)
    except OSError as error:
        raise RecipeError(f"--out {file}: cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _page(
    variants: Sequence[Variant],
    columns: Sequence[_Column],
    contents: Sequence[_Content],
    paintings: Mapping[Style, StylePicture],
) -> str:
    """The page with what is done; of two keys the first one's values are rows, the second one's columns."""
    recipe, keys = variants[0].recipe, list(variants[0].given)
    across = list(dict.fromkeys(variant.given[keys[-1]] for variant in variants))
    shown = {painting.digest: (style, painting) for style, painting in paintings.items()}
    return _TEMPLATE.render(
        keys=keys,
        across=across,
        lines=[
            (variants[first].given[keys[0]], range(first, first + len(across)))
            for first in range(0, len(variants), len(across))
        ],
        photos=[(content.name, _shown([*content.squares.values()][-1])) for content in contents],
        paintings=[(style.image.rsplit("/", 1)[-1], _shown(seen.pixels)) for style, seen in shown.values()],
        pictures=[column.pictures for column in columns],
        means=[column.figures() for column in columns],
        parts=_PARTS,
        iterations=sorted({variant.recipe.generate.iterations for variant in variants}),
        sides=sorted({variant.recipe.generate.image_size for variant in variants}),
        one_measure=len({_measure(variant.recipe) for variant in variants}) == 1,
        settings=recipe.model_dump(include={"style", "loss", "vgg", "generate"}),
    )


def _shown(pixels: Pixels) -> str:
    return data_uri(images.encode(pixels, "png"), _SIDE)


def _measure(recipe: Recipe) -> tuple[Style, Vgg, str]:
    """What content and style losses are taken with; weights are no part of it."""
    layers = recipe.loss.model_dump_json(include={"content_layers", "style_layers"})
    return recipe.style, recipe.vgg, layers


def _lines(variants: Sequence[Variant], values: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures as a table for people."""
    wide = max(map(len, map(str, variants)))
    heads = (*_PARTS, "last tenth")
    return [
        f"{'':{wide}} {' '.join(f'{head:>12}' for head in heads)}",
        *(
            f"{variant!s:{wide}} {' '.join(f'{number(figures[part]):>12}' for part in _PARTS)} "
            f"{_share(figures['last_tenth']):>12}"
            for variant, figures in zip(variants, values, strict=True)
        ),
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"-{value:.2%}"
