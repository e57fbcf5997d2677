"""A short trial on the device that `generate` would use: what an image costs, before any is made."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray

from batch_nst.console import log
from batch_nst.data.dataset.plan import Plan
from batch_nst.data.dataset.records import PhotoRecord, UnitRecord
from batch_nst.data.images.style import StyleImage, read_style
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError
from batch_nst.pipelines.cluster import connect
from batch_nst.pipelines.cluster.connect import Workers
from batch_nst.pipelines.cost.step_trial import step_rates
from batch_nst.pipelines.cost.steps import StepRates
from batch_nst.pipelines.cost.unit_costs import UnitCosts
from batch_nst.pipelines.generate.decode import decode_unit, units_of
from batch_nst.pipelines.generate.stylizer import Stylizer
from batch_nst.pipelines.generate.write import encode_picture, encode_unit
from batch_nst.pipelines.objective import Objectives
from batch_nst.recipe import Generate, Recipe

_FEWEST, _MOST = 16, 64
"""Bounds for the number of photos that are read, one unit if possible. One batch of them is optimised."""
_SHORT = 3
"""Iterations of the shorter trial; the two trials separate fixed costs from costs per iteration."""
_LONG_SECONDS = 20.0
"""Maximum duration of the longer trial; it runs all of the recipe's iterations if they fit."""


class Timing(NamedTuple):
    """The time that a batch of images took."""

    iterations: int
    seconds: float


def calibrate(plan: Plan, store: Store, recipe: Recipe) -> tuple[UnitCosts | None, StepRates]:
    """Try what `nightly` would do on the workers that it would choose. Writes nothing; takes a minute or two.

    Returns:
        Costs of an image, from a few pending photos, None if none is pending; and those of the later steps.

    Raises:
        IncompleteError: no photo could be tried.
    """
    connect.connect()
    workers, trainers = connect.choose_workers(recipe.generate.device), connect.choose_trainers(recipe.train)
    style = read_style(recipe.style)
    costs = _try_photos(plan, store, recipe, style, workers) if plan.to_do else None
    log(f"calibrating training on {trainers.device}, and scoring")
    gpus = max(workers.num_gpus, trainers.num_gpus) or None
    trial = ray.remote(_try_steps).options(num_cpus=workers.num_cpus, num_gpus=gpus)
    rates: StepRates = connect.result_of(trial.remote(style, recipe, workers, trainers))
    return costs, rates


def _try_photos(plan: Plan, store: Store, recipe: Recipe, style: StyleImage, workers: Workers) -> UnitCosts:
    unit_images = plan.beginning_on(workers.device).unit_images
    recipe = recipe.model_copy(
        update={"generate": recipe.generate.model_copy(update={"unit_images": unit_images})}
    )
    photos = min(plan.to_do, max(_FEWEST, min(_MOST, unit_images)))
    log(f"calibrating on {workers.device}, {workers.threads} threads, with {photos} photos")
    some = _spread(plan.pending(store), plan.to_do, photos)
    some = some.set_column(some.schema.get_field_index("unit"), "unit", pa.array(["trial"] * photos))
    (unit,) = units_of(some, lambda _: "train")
    trial = ray.remote(_try).options(num_cpus=workers.num_cpus, num_gpus=workers.num_gpus or None)
    outcome: UnitCosts | str = connect.result_of(trial.remote(unit, style, recipe, workers))
    if isinstance(outcome, str):
        raise IncompleteError(f"calibration: {outcome}")
    return outcome


def _try_steps(style: StyleImage, recipe: Recipe, workers: Workers, trainers: Workers) -> StepRates:
    """Runs in a worker: the rates of training and scoring."""
    scoring = training = Objectives.of_recipe(recipe, style, workers.device, workers.threads)
    if (trainers.device, recipe.train.precision) != (workers.device, recipe.generate.precision):
        training = Objectives.on(
            style, recipe.loss, recipe.vgg, trainers.device, recipe.train.precision, trainers.threads
        )
    return step_rates(recipe, scoring, training, trainers.threads)


def _spread(tables: Iterable[pa.Table], rows: int, count: int) -> pa.Table:
    """`count` rows, evenly spaced, of a stream of `rows` rows."""
    wanted = np.arange(count) * rows // count
    chosen, first = [], 0
    for table in tables:
        here = wanted[(wanted >= first) & (wanted < first + table.num_rows)] - first
        chosen.append(table.take(pa.array(here)))
        first += table.num_rows
    return pa.concat_tables(chosen)


def longer(short: Timing, iterations: int) -> int:
    """Iterations of the longer trial: at least twice those of the shorter one, at most the recipe's."""
    # A run of n iterations evaluates the objective n + 1 times.
    affordable = int(_LONG_SECONDS / short.seconds * (short.iterations + 1)) - 1
    return min(iterations, max(affordable, 2 * short.iterations))


def extrapolate(short: Timing, long: Timing, iterations: int) -> float:
    """Seconds for `iterations`, on the line through two timings; constant if they have equal iterations."""
    further = long.iterations - short.iterations
    slope = max(0.0, (long.seconds - short.seconds) / further) if further else 0.0
    return long.seconds + (iterations - long.iterations) * slope


def _try(unit: UnitRecord, style: StyleImage, recipe: Recipe, workers: Workers) -> UnitCosts | str:
    """Runs in a worker: the costs of an image, or why no photo could be tried."""
    settings = recipe.generate
    decoded = decode_unit(unit, settings)
    if decoded.outage:
        return decoded.outage
    good = [photo for photo in decoded.photos if photo.ok]
    if not good:
        first = decoded.photos[0]
        return f"none of {len(decoded.photos)} photos is good; the first, {first.uri}: {first.reason}"
    stylizer = Stylizer(style, recipe, workers)
    opening, _ = _timed(stylizer, [], 1)  # initialises the device
    batch = good[: min(stylizer.batch, settings.unit_images)]
    first_run, _ = _timed(stylizer, batch, 1)  # loads weights and chooses kernels as well
    short, _ = _timed(stylizer, batch, min(_SHORT, settings.iterations))
    long, made = _timed(stylizer, batch, longer(short, settings.iterations))
    return UnitCosts(
        source="calibration",
        device=workers.device,
        devices=workers.at_once(settings.actors),
        seconds=extrapolate(short, long, settings.iterations) / len(batch),
        bytes_read=decoded.bytes_read / decoded.photos_read,
        bytes_written=_bytes_written([photo for photo in made if photo.ok], good, settings),
        start_seconds=opening.seconds + max(0.0, first_run.seconds - extrapolate(short, long, 1)),
    )


def _timed(
    stylizer: Stylizer, photos: Sequence[PhotoRecord], iterations: int
) -> tuple[Timing, list[PhotoRecord]]:
    """The time that photos take, including the loading of networks at the first call; and what was made."""
    start = time.perf_counter()
    stylizer.load()
    made = stylizer.stylize(photos, iterations)
    return Timing(iterations, time.perf_counter() - start), made


def _bytes_written(made: Sequence[PhotoRecord], good: Sequence[PhotoRecord], settings: Generate) -> float:
    """An image's share of a unit's object: from the few that were made, corrected to the mean photo size."""
    if not made:
        return 0.0
    frame = len(encode_unit("", [], settings).data)
    share = (len(encode_unit("", made, settings).data) - frame) / len(made)
    return share + frame / settings.unit_images + _size(good, settings) - _size(made, settings)


def _size(photos: Sequence[PhotoRecord], settings: Generate) -> float:
    """Mean bytes of an encoded photo."""
    return sum(len(encode_picture(photo.content, settings)) for photo in photos) / len(photos)
