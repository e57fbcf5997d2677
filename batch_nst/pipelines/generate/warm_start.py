"""Start images from a fast model's pictures: find a model that fits, and try it before any unit is made.

A pair must not inherit the model's faults. So a worker optimises a few held-out photos both ways, with the
same work. If starting from the model ends with a higher loss, all images start from their photos.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc
import ray

from batch_nst.console import log
from batch_nst.data.dataset.manifest import Manifest, differences
from batch_nst.data.dataset.plan import Plan
from batch_nst.data.dataset.plan_files import PLAN_SCHEMA, read_group
from batch_nst.data.dataset.records import PhotoRecord, UnitRecord
from batch_nst.data.images.style import StyleImage
from batch_nst.data.models.files import ModelFiles
from batch_nst.data.models.registry import ModelCard
from batch_nst.data.storage.store import Store
from batch_nst.engine.statistics import geometric_mean
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.figures import inlined
from batch_nst.pipelines.cluster.connect import Workers, result_of
from batch_nst.pipelines.generate.decode import decode_unit, units_of
from batch_nst.pipelines.generate.stylizer import Stylizer
from batch_nst.pipelines.inference import read_start
from batch_nst.recipe import Recipe

_READ, _CHECKED = 16, 8
"""Images that are read, as some may be bad; and how many good ones are optimised both ways."""
_LEAST = 1e-12
"""Smallest loss in a ratio, so that two losses of 0 have one."""


@dataclass(frozen=True)
class Verdict:
    """Whether images may start from a model's stylized images."""

    checked: int
    """Number of images optimised both ways."""
    ratio: float | None
    """Final loss from the model divided by that from the photo, geometric mean; None if not known."""
    each: list[float]
    """Ratio of each image; empty if the loss of one was NaN or infinite from the model."""
    used: bool


@dataclass(frozen=True)
class WarmStartFigures:
    """What a trial of `generate.init` found."""

    model: str | None
    """Name of the model; None: its output has published none yet."""
    verdict: Verdict = inlined()
    seconds: float = 0.0


def find_start(recipe: Recipe, settings: Manifest, store: Store) -> ModelFiles | None:
    """The model of `generate.init`; None: images start from their photos.

    An output that has published no model yet (this one, in its first run) gives None and a log line.

    Args:
        recipe: the recipe.
        settings: the dataset's, as in `dataset.json`.
        store: the output.

    Raises:
        RecipeError: there is no such model or output, its files do not belong together, or it was trained
            for another objective.
    """
    uri = recipe.generate.init_model
    if uri is None:
        return None
    model = read_start(uri, store, "generate.init", "images start from the photos")
    if model is None:
        return None
    ours = _Objective(
        style=settings["style"],
        vgg=settings["vgg"],
        loss=settings["loss"],
        gram_divisor=settings["gram_divisor"],
    )
    misfits = differences(_objective_of(model.card), ours)
    if misfits:
        raise RecipeError(
            "\n".join(
                f"generate.init: {uri}: the model was fitted with {key} {theirs!r}, the recipe says "
                f"{mine!r}; allowed: a model of the same style image, loss and VGG-16"
                for key, (theirs, mine) in misfits.items()
            )
        )
    return model


class _Objective(TypedDict):
    """The settings of a dataset that a model must have been trained with."""

    style: object
    vgg: object
    loss: object
    gram_divisor: object


def _objective_of(card: ModelCard) -> _Objective:
    """These settings as a model's card has them."""
    digests, objective = card.get("digests", {}), card.get("objective", {})
    return {
        "style": {"sha256": digests.get("style"), "size": objective.get("style_size")},
        "vgg": {"sha256": digests.get("vgg"), "input": objective.get("vgg_input")},
        "loss": objective.get("loss"),
        "gram_divisor": objective.get("gram_divisor"),
    }


def check_start(
    model: ModelFiles | None,
    plan: Plan,
    store: Store,
    style: StyleImage,
    recipe: Recipe,
    workers: Workers,
) -> tuple[ModelFiles | None, WarmStartFigures | None]:
    """Try the model on a worker as `generate` chooses it, and log the verdict. Writes nothing.

    The same plan, input and device give the same verdict.

    Args:
        model: result of `find_start`.
        plan: must be written down.
        store: the output.
        style: the style image.
        recipe: the recipe.
        workers: resources of an actor that holds VGG-16.

    Returns:
        The model, or None if images start from the photos; and figures, None if the recipe names no model.

    Raises:
        IncompleteError: the photos cannot be read now.
    """
    if recipe.generate.init_model is None:
        return None, None
    if model is None:
        return None, WarmStartFigures(None, judge_warm_start([], []))
    start = time.monotonic()
    log(f"trying to start from model {model.name} on {workers.device}, {workers.threads} threads")
    verdict = judge_warm_start(*_losses(check_photos(plan, store), plan, model, style, recipe, workers))
    log(f"images start from {f'model {model.name}' if verdict.used else 'the photos'}: {_why(verdict)}")
    figures = WarmStartFigures(model.name, verdict, round(time.monotonic() - start, 1))
    return model if verdict.used else None, figures


def check_photos(plan: Plan, store: Store) -> pa.Table:
    """The images to try with: first crops of a few held-out photos, or of others if none is held out.

    They are the first planned ones that the input still holds, as rows of `plan_files.PLAN_SCHEMA`.
    """
    sides = {"held_out": PLAN_SCHEMA.empty_table(), "train": PLAN_SCHEMA.empty_table()}
    first = 0
    for group in plan.written.groups:
        rows = read_group(store, group)
        once = pc.and_(pc.equal(rows["crop"], 0), pc.equal(rows["attempt"], 0))
        rows = rows.filter(pc.and_(once, pa.array(plan.present[first : first + group.rows])))
        first += group.rows
        side = pa.array([plan.split_of(key) for key in rows["key"].to_pylist()], pa.string())
        for name, found in sides.items():
            sides[name] = pa.concat_tables([found, rows.filter(pc.equal(side, name))]).slice(0, _READ)
        if sides["held_out"].num_rows == _READ:
            break
    return sides["held_out"] if sides["held_out"].num_rows else sides["train"]


def judge_warm_start(cold: Sequence[float], warm: Sequence[float]) -> Verdict:
    """The verdict on the final losses of the same images after the same work.

    Images may start from the model if the geometric mean of the ratios is at most 1. There is no tolerance,
    because a start that is not better gains nothing.

    Args:
        cold: losses from the photos; infinite for images that failed, which says nothing about the model.
        warm: losses from the model; infinite for images that failed, which speaks against it.
    """
    pairs = [
        (max(before, _LEAST), max(after, _LEAST))
        for before, after in zip(cold, warm, strict=True)
        if math.isfinite(before)
    ]
    if not pairs or not all(math.isfinite(after) for _, after in pairs):
        return Verdict(len(pairs), None, [], False)
    each = [after / before for before, after in pairs]
    mean = geometric_mean(each)
    return Verdict(len(pairs), mean, each, mean is not None and mean <= 1)


def _why(verdict: Verdict) -> str:
    if not verdict.checked:
        return "no photo to try the model on was good"
    if verdict.ratio is None:
        return "the loss of an image that started from the model's picture was NaN or infinite"
    return (
        f"from the model's pictures the loss after the same work is {verdict.ratio:.3f} of that from the "
        f"photos (geometric mean of {verdict.checked} images; the worst {max(verdict.each):.3f})"
    )


def _losses(
    photos: pa.Table,
    plan: Plan,
    model: ModelFiles,
    style: StyleImage,
    recipe: Recipe,
    workers: Workers,
) -> tuple[list[float], list[float]]:
    """Final losses of images that start from the photos, and from the model."""
    if not photos.num_rows:
        return [], []
    order = photos["id"].to_pylist()
    column = photos.schema.get_field_index("unit")
    (unit,) = units_of(photos.set_column(column, "unit", pa.array(["trial"] * len(order))), plan.split_of)
    # One call: its process ends with it and frees the device and the memory before the actors start.
    trial = ray.remote(num_cpus=workers.num_cpus, num_gpus=workers.num_gpus, max_calls=1)(_try)
    outcome: tuple[list[float], list[float]] | str = result_of(
        trial.remote(unit, order, style, recipe, workers, model)
    )
    if isinstance(outcome, str):
        raise IncompleteError(f"generate.init: the trial: {outcome}")
    return outcome


def _try(
    unit: UnitRecord,
    order: list[bytes],
    style: StyleImage,
    recipe: Recipe,
    workers: Workers,
    model: ModelFiles,
) -> tuple[list[float], list[float]] | str:
    """Runs in a worker: losses of the first good photos, both ways; or why they could not be read."""
    decoded = decode_unit(unit, recipe.generate)
    if decoded.outage:
        return decoded.outage
    photos = sorted(decoded.photos, key=lambda photo: order.index(photo.id))
    good = [photo for photo in photos if photo.ok][:_CHECKED]
    stylizer = Stylizer(style, recipe, workers, model)
    stylizer.load()
    # The model's pass costs a quarter of an iteration at the default width (20 of 77 GFLOP at 256 px), and
    # counts as one iteration here. Units get all iterations: the best iterate is kept, so they end no worse.
    iterations = recipe.generate.iterations
    return (
        _final_losses(stylizer.stylize(good, iterations, from_model=False)),
        _final_losses(stylizer.stylize(good, iterations - 1)),
    )


def _final_losses(photos: Sequence[PhotoRecord]) -> list[float]:
    """Total losses of the stored pictures, in fp32; infinite for a photo that has no picture."""
    losses = [photo.total_loss if photo.ok else None for photo in photos]
    return [math.inf if loss is None else loss for loss in losses]
