"""The command `try`: a few photos optimised by several recipes, side by side on a page.

Needs neither a lease nor Ray, and writes nothing but the page.
"""

from __future__ import annotations

import heapq
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batch_nst.console import ProgressBar, log, progress_bar
from batch_nst.data.images.codec import Pixels
from batch_nst.data.images.style import read_style
from batch_nst.data.sources.photos import Photo, key_hash, photo_id, stream_photos
from batch_nst.data.sources.reader import read_photos
from batch_nst.engine.device import Precision, choose_batch, choose_device, choose_dtype, run_in_batches
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.timing import wait_for
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.figures import as_json
from batch_nst.pipelines.generate.tasks import photo_records, planned_photo
from batch_nst.pipelines.objective import Objectives, load_vgg, optimise_photos
from batch_nst.pipelines.reports.compare import (
    Column,
    Content,
    Picture,
    render_page,
    shown_uri,
    summary_lines,
)
from batch_nst.pipelines.reports.html import duration
from batch_nst.recipe import Generate, Recipe
from batch_nst.recipe_file import Variant

Figures = dict[str, Any]

_SPARE = 4
"""Times as many photos as are asked for are at hand, should some be bad."""
_FEW = 4
"""Iterations after which it is told how long all of them will take."""


def try_variants(variants: Sequence[Variant], photos: int = 4, file: str = "try.html") -> Figures:
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
        log("generate.init: here, images start from the photos")
    log(f"optimising {len(chosen)} photos for {len(variants)} values on {device}")
    columns: list[Column] = []
    iterations = sum(len(chosen) * variant.recipe.generate.iterations for variant in variants)
    with progress_bar("try", iterations, "iterations") as progress:
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
            _write(target, file, render_page(variants, columns, chosen, paintings))
    figures: Figures = {
        "photos": [photo.name for photo in chosen],
        "values": [
            {"given": variant.values, **as_json(column.figures())}
            for variant, column in zip(variants, columns, strict=True)
        ],
        "file": str(target),
    }
    for line in summary_lines(variants, columns):
        log(line)
    log(f"page: {target}")
    return figures


def _layers(variant: Variant) -> frozenset[str]:
    return frozenset(PerceptualLoss.layers(variant.recipe.loss))


def _choose(recipe: Recipe, sides: Sequence[int], count: int) -> list[Content]:
    """The first good photos, in the sizes that they are looked at."""
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
            log(found)
        else:
            chosen.append(Content(photo.key, found))
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
    planned = planned_photo(photo, photo_id(photo.key, photo.version, 0), split="")
    squares: dict[int, Pixels] = {}
    for side in sides:
        (found,) = photo_records(data, [planned], settings.model_copy(update={"image_size": side}))
        if not found.ok:
            return f"{found.status}: {found.uri}: {found.reason}: {found.detail}"
        squares[side] = np.frombuffer(found.content or b"", np.uint8).reshape(side, side, 3)
    return squares


def _optimise(
    objectives: Objectives,
    squares: Sequence[Pixels],
    settings: Generate,
    on_iteration: Callable[[int, int], None],
) -> Column:
    """What `generate` would make of photos, all of one side, in batches that fit into memory.

    Args:
        objectives: loaded.
        squares: uint8 (side, side, 3) each.
        settings: iterations, optimizer and encoding are used.
        on_iteration: told the number of iterations done, and of photos in the batch.
    """
    start = time.perf_counter()
    device = objectives.device
    pictures: list[Picture | None] = []

    def run(part: slice) -> None:
        batch = np.stack(squares[part])
        found = optimise_photos(objectives, batch, settings, on_iteration=lambda done: tell(done, len(batch)))
        curves = np.minimum.accumulate(found.curve.double().cpu().numpy())
        values = zip(*(each.tolist() for each in found.losses), strict=True)
        for index, (content, style, total) in enumerate(values):
            picture = Picture(shown_uri(found.pictures[index]), content, style, total, curves[:, index])
            pictures.append(picture if found.good[index] else None)

    def tell(done: int, photos: int) -> None:
        wait_for(device)
        on_iteration(done, photos)

    def halved(photos: int) -> None:
        log(f"out of memory on {device}: going on with {photos} photos at once")

    run_in_batches(len(squares), choose_batch(settings.image_size, device), run, halved)
    return Column(pictures, time.perf_counter() - start)


def _cost(settings: Generate) -> int:
    """Of an image, in pixels that are looked at: what an iteration takes grows with them."""
    return (settings.iterations + 1) * settings.image_size**2


class _Clock:
    """Shows progress, and says once how long all of it will take: when some iterations have told."""

    def __init__(self, progress: ProgressBar, cost: int) -> None:
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
                log(f"about {duration(rate * self._cost)} in all")
                self._told = True

        return on_iteration


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
