"""The command `try`: a few photos optimised by several recipes, side by side on a page.

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

import numpy as np
import torch

from batch_nst.console import ProgressBar, log, progress_bar, warn
from batch_nst.data.dataset.records import PhotoRecord
from batch_nst.data.images.codec import Pixels
from batch_nst.data.images.style import StyleImage, read_style
from batch_nst.data.sources.photos import Photo, key_hash, photo_id, stream_photos
from batch_nst.data.sources.reader import read_photos
from batch_nst.engine.device import choose_batch, choose_device, run_in_batches
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.timing import wait_for
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.figures import JsonValue, inlined
from batch_nst.pipelines.generate.decode import photo_records, planned_photo
from batch_nst.pipelines.objective import Objectives, load_vgg, optimise_photos
from batch_nst.pipelines.reports.compare import (
    Column,
    ColumnFigures,
    Content,
    Picture,
    render_page,
    shown_uri,
    summary_lines,
)
from batch_nst.pipelines.reports.html import duration
from batch_nst.recipe import Generate, Recipe, Style
from batch_nst.recipe_file import Variant

_SPARE = 4
"""Candidates per requested photo, in case some are bad."""
_FEW = 4
"""Iterations after which the total duration is estimated and logged."""


@dataclass(frozen=True)
class ValueFigures:
    """The figures of one recipe."""

    given: Mapping[str, JsonValue]
    """The keys that have several values, and this recipe's values."""
    means: ColumnFigures = inlined()


@dataclass(frozen=True)
class TryFigures:
    """The figures of `try`."""

    photos: list[str]
    """Names of the photos."""
    values: list[ValueFigures]
    """One entry for each recipe, in the order given."""
    file: str
    """Path of the page."""


def try_variants(variants: Sequence[Variant], photos: int = 4, file: str = "try.html") -> TryFigures:
    """Optimise the same photos by each recipe as `generate` would, and write a page about it.

    Images start from the photos, whatever `generate.init` says. The page is written after each recipe.

    Args:
        variants: the recipes, from `read_variants`; they differ in the given keys only.
        photos: number of photos. Named held-out photos come first, then the others by the hash of their keys,
            so that held-out ones precede those to train on. Bad photos are skipped.
        file: an HTML file on this machine, complete in itself.

    Raises:
        RecipeError: the file cannot be written, or the style image, the photos or the weights not be read.
        IncompleteError: no photo is good.
    """
    target, recipe = _target(file), variants[0].recipe
    styles = _read_inputs(variants)
    device = choose_device(recipe.generate.device)
    sides = sorted({variant.recipe.generate.image_size for variant in variants})
    chosen = _choose(recipe, sides, photos)
    if recipe.generate.init_model:
        log("generate.init: here, images start from the photos")
    log(f"optimising {len(chosen)} photos for {len(variants)} values on {device}")
    columns: list[Column] = []
    iterations = sum(len(chosen) * variant.recipe.generate.iterations for variant in variants)
    with progress_bar("try", iterations, "iterations") as progress:
        clock = _Clock(progress, sum(len(chosen) * _cost(variant.recipe.generate) for variant in variants))
        for variant in variants:
            settings = variant.recipe.generate
            objectives = _objectives(variant.recipe, styles[variant.recipe.style], device)
            squares = [photo.squares[settings.image_size] for photo in chosen]
            columns.append(_optimise(objectives, squares, settings, clock.watch(settings, str(variant))))
            _write(target, file, render_page(variants, columns, chosen, styles))
    for line in summary_lines(variants, columns):
        log(line)
    log(f"page: {target}")
    return TryFigures(
        photos=[photo.name for photo in chosen],
        values=[
            ValueFigures(variant.values, column.figures())
            for variant, column in zip(variants, columns, strict=True)
        ],
        file=str(target),
    )


def _read_inputs(variants: Sequence[Variant]) -> dict[Style, StyleImage]:
    """The style images; a wrong style image or VGG file is refused now, not after minutes of work."""
    styles = {
        style: read_style(style) for style in dict.fromkeys(variant.recipe.style for variant in variants)
    }
    for vgg, layers in dict.fromkeys((variant.recipe.vgg, _layers(variant)) for variant in variants):
        load_vgg(vgg, layers)
    return styles


def _objectives(recipe: Recipe, style: StyleImage, device: torch.device) -> Objectives:
    objectives = Objectives.of_recipe(recipe, style, device.type, torch.get_num_threads())
    objectives.load()
    return objectives


def _layers(variant: Variant) -> frozenset[str]:
    return frozenset(PerceptualLoss.layers(variant.recipe.loss))


def _choose(recipe: Recipe, sides: Sequence[int], count: int) -> list[Content]:
    """The first good photos, in every size that a recipe uses.

    Raises:
        IncompleteError: there is no good photo.
    """
    named = frozenset(recipe.evaluate.holdout_photos)
    candidates = heapq.nsmallest(
        _SPARE * count,
        _listed(recipe.generate),
        key=lambda photo: (photo.key not in named, key_hash(photo.key)),
    )
    chosen: list[Content] = []
    bad: list[str] = []
    for photo in dict.fromkeys(candidates):
        if len(chosen) == count:
            break
        found = _read(photo, recipe.generate, sides)
        if isinstance(found, str):
            bad.append(found)
            warn(found)
        else:
            chosen.append(Content(photo.key, found))
    if not chosen:
        raise IncompleteError(f"none of {len(bad)} photos is good; the first: {bad[0]}")
    return chosen


def _listed(generate: Generate) -> Iterator[Photo]:
    for batch in stream_photos(generate.input, generate.stores, generate.pattern):
        for row in zip(*batch.select(Photo._fields).to_pydict().values(), strict=True):
            yield Photo(*row)


def _read(photo: Photo, settings: Generate, sides: Sequence[int]) -> dict[int, Pixels] | str:
    """The centre crop of a photo for each side; or one line that says what is wrong with it."""
    (data,) = read_photos([photo], settings.max_bytes)
    squares: dict[int, Pixels] = {}
    for side in sides:
        record = _decoded(photo, data, settings.model_copy(update={"image_size": side}))
        if not record.ok or not record.content:
            return f"{record.status}: {record.uri}: {record.reason}: {record.detail}"
        squares[side] = np.frombuffer(record.content, np.uint8).reshape(side, side, 3)
    return squares


def _decoded(photo: Photo, data: bytes | Exception, settings: Generate) -> PhotoRecord:
    """The centre crop of a photo, decoded as `generate` does."""
    planned = planned_photo(photo, photo_id(photo.key, photo.version, 0), "")
    (record,) = photo_records(data, [planned], settings)
    return record


def _optimise(
    objectives: Objectives,
    squares: Sequence[Pixels],
    settings: Generate,
    on_iteration: Callable[[int, int], None],
) -> Column:
    """What `generate` would make of photos of one side, in batches that fit into memory.

    Args:
        objectives: loaded.
        squares: uint8 (side, side, 3) each.
        settings: iterations, optimizer and encoding are used.
        on_iteration: called with the number of iterations done and the number of photos in the batch.
    """
    start = time.perf_counter()
    device = objectives.device
    pictures: list[Picture | None] = []

    def run(part: slice) -> None:
        batch = np.stack(squares[part])
        found = optimise_photos(
            objectives, batch, settings, on_iteration=lambda done: report(done, len(batch))
        )
        curves = np.minimum.accumulate(found.curve.double().cpu().numpy())
        values = zip(*(each.tolist() for each in found.losses), strict=True)
        for index, (content, style, total) in enumerate(values):
            picture = Picture(shown_uri(found.pictures[index]), content, style, total, curves[:, index])
            pictures.append(picture if found.good[index] else None)

    def report(done: int, photos: int) -> None:
        wait_for(device)
        on_iteration(done, photos)

    def log_halved(photos: int) -> None:
        log(f"out of memory on {device}: continuing with {photos} photos at once")

    run_in_batches(len(squares), choose_batch(settings.image_size, device), run, log_halved)
    return Column(pictures, time.perf_counter() - start)


def _cost(settings: Generate) -> int:
    """Pixels evaluated for one image over all iterations; the time grows with them."""
    return (settings.iterations + 1) * settings.image_size**2


class _Clock:
    """Shows progress, and logs once how long all images will take, after a few iterations."""

    def __init__(self, progress: ProgressBar, cost: int) -> None:
        """`cost` is the sum of `_cost` over all images."""
        self._progress, self._cost = progress, cost
        self._first = math.nan
        self._logged = False

    def watch(self, settings: Generate, note: str) -> Callable[[int, int], None]:
        """The callback for `_optimise`; `note` is shown beside the progress bar."""

        def on_iteration(done: int, photos: int) -> None:
            self._progress.advance(photos, note)
            now = time.perf_counter()
            if done == 1:
                self._first = now  # the first one chooses kernels
            elif not self._logged and done == min(_FEW, settings.iterations):
                rate = (now - self._first) / ((done - 1) * photos * settings.image_size**2)
                log(f"about {duration(rate * self._cost)} in all")
                self._logged = True

        return on_iteration


def _target(file: str) -> Path:
    """The path of the page.

    Raises:
        RecipeError: nothing can be written there.
    """
    target = Path(file).resolve()
    if not target.parent.is_dir():
        raise RecipeError(f"--out {file}: there is no folder {target.parent}")
    if (target.exists() and not target.is_file()) or not os.access(target.parent, os.W_OK):
        raise RecipeError(f"--out {file}: cannot be written; allowed: a file in a folder that can be")
    return target


def _write(target: Path, file: str, page: str) -> None:
    """Write the page whole or not at all, even if interrupted."""
    part = target.with_name(f".try-{os.getpid()}.html")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(target)
    except OSError as error:
        raise RecipeError(f"--out {file}: cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
