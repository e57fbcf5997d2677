"""The numbers of a recipe that fit into a time: pictures as large and work as long as the machine allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from batch_nst.errors import RecipeError
from batch_nst.pipelines.cost.steps import StepRates, Work, work_of
from batch_nst.recipe import Recipe

START_SECONDS = 90.0
"""Reserved for the start of Ray and its workers, and for the export."""
_SHARE = 0.85
"""Fraction of the time that is planned with; the rest is for decoding, writing and other programs."""
_PAIRS_SHARE = 0.4
"""Fraction of the planned time that more iterations for pairs may take."""
_SCORING_SHARE = 0.1
"""Fraction of a run that scoring may take, unless one photo takes more."""
_MOST_ITERATIONS, _MOST_STEPS = 300, 40_000
_FEW_PHOTOS = 20
"""Number of photos below which two crops are made of each."""
_MANY_PHOTOS = 1000
"""Number of photos from which on a smaller fraction of them is held out."""


class _Level(NamedTuple):
    """A size of pictures, with the least work that is worth doing at it."""

    size: int
    iterations: int
    crops: int
    """Crops of pairs that are trained on."""


class _Scored(NamedTuple):
    """Numbers of held-out images to be scored, the most that are wanted."""

    photos: int
    larger: int
    baseline: int


_SCORED = (_Scored(64, 4, 1), _Scored(16, 2, 1), _Scored(8, 1, 1), *(_Scored(few, 0, 0) for few in (4, 2, 1)))
"""The first one that takes no more than its share is taken."""

_LEVELS = (
    _Level(512, 300, 40_000),
    _Level(384, 200, 16_000),
    _Level(256, 100, 3_000),
    _Level(192, 60, 2_000),
    _Level(128, 40, 1_500),
    _Level(96, 30, 1_000),
    _Level(64, 20, 400),
)
"""The first one that fits is taken. The recipe of the demo has 128 px, 40 iterations and 1,800 crops."""


@dataclass(frozen=True)
class Machine:
    """What was measured of a machine."""

    device: str
    """`cpu` or `cuda`."""
    threads: int
    pairs: float
    """Seconds of an iteration for each pixel."""
    steps: StepRates


class Seconds(NamedTuple):
    """What each step takes."""

    pairs: float
    training: float
    scoring: float


def seconds_of(recipe: Recipe, photos: int, machine: Machine) -> Seconds:
    """What a first run on so many photos takes, without its start."""
    work, rates = _work(recipe, photos), machine.steps
    return Seconds(
        pairs=work.pairs * machine.pairs,
        training=work.training * (rates.training or 0.0),
        scoring=work.scoring * (rates.scoring or 0.0) + work.baseline * (rates.baseline or 0.0),
    )


def fit(base: Recipe, photos: int, hours: float, machine: Machine) -> Recipe:
    """The largest recipe whose first run ends in time.

    Args:
        base: its input, style image and output are kept.
        photos: number of photos in the input, at least 2.
        hours: the time for the whole run.
        machine: what was measured.

    Raises:
        RecipeError: even the smallest one takes longer.
    """
    budget = _SHARE * hours * 3600 - START_SECONDS
    least = math.inf
    for level in _LEVELS:
        smallest = _sized(base, photos, machine, level.size, level.iterations, crops=level.crops)
        least = sum(seconds_of(smallest, photos, machine))
        if least <= budget:
            return _stretched(smallest, photos, budget, machine)
    needed = math.ceil((least + START_SECONDS) / _SHARE / 36) / 100
    raise RecipeError(
        f"--hours: given {hours:g}; {photos:,} photos take {needed:g} on this machine, with small pictures "
        "and few steps; allowed: that or more, or fewer photos"
    )


def _stretched(smallest: Recipe, photos: int, budget: float, machine: Machine) -> Recipe:
    """The recipe with more iterations, then with as many steps as the rest of the time allows."""
    least, size, iterations = smallest, smallest.generate.image_size, smallest.generate.iterations
    took = seconds_of(least, photos, machine)
    times = min(_PAIRS_SHARE * budget / took.pairs, (budget - took.training) / (took.pairs + took.scoring))
    more = max(iterations, min(_MOST_ITERATIONS, _rounded(iterations * times)))
    crops = least.train.steps * least.train.batch_size
    longer = _sized(least, photos, machine, size, more, crops)
    took = seconds_of(longer, photos, machine)
    times = (budget - took.pairs - took.scoring) / took.training
    steps = max(longer.train.steps, min(_MOST_STEPS, _rounded(longer.train.steps * times)))
    return _sized(longer, photos, machine, size, more, steps * longer.train.batch_size)


def _rounded(number: float) -> int:
    """The number with two digits, rounded down."""
    scale = 10 ** max(0, math.floor(math.log10(max(1.0, number))) - 1)
    return int(number // scale * scale)


def _sized(base: Recipe, photos: int, machine: Machine, size: int, iterations: int, crops: int) -> Recipe:
    """A recipe with pictures of this size, so many iterations, and so many crops to train on."""
    each = 2 if photos < _FEW_PHOTOS else 1
    holdout = 0.1 if photos < _MANY_PHOTOS else 0.05
    held_out = _held_out(holdout, photos)
    on_gpu = machine.device == "cuda"
    batch = 16 if on_gpu else min(8, max(2, machine.threads))
    batch = min(batch, max(1, (photos - held_out) * each // 2))  # the hash may hold out more
    steps = -(-crops // batch)
    train = {
        "steps": steps,
        "batch_size": batch,
        "crop_size": size * 3 // 4,
        "checkpoint_steps": max(20, steps // 10),
    }
    generate = {
        "image_size": size,
        "crops": each,
        "iterations": iterations,
        "unit_images": 64 if on_gpu else 8,
    }
    whole = base.model_copy(
        update={
            "style": base.style.model_copy(update={"size": size * 3 // 2}),
            "generate": base.generate.model_copy(update=generate),
            "train": base.train.model_copy(update=train),
        }
    )
    for most in _SCORED:
        evaluate = {
            "holdout": holdout,
            "photos": min(most.photos, held_out * each),
            "iterations": iterations,
            "baseline_photos": most.baseline,
            "larger_photos": min(most.larger, held_out),
            "sizes": [size, 2 * size] if most.larger else [size],
        }
        sized = whole.model_copy(update={"evaluate": base.evaluate.model_copy(update=evaluate)})
        took = seconds_of(sized, photos, machine)
        if took.scoring <= _SCORING_SHARE * sum(took):
            break
    return sized


def _work(recipe: Recipe, photos: int) -> Work:
    held_out = _held_out(recipe.evaluate.holdout, photos) * recipe.generate.crops
    return work_of(recipe, photos * recipe.generate.crops, min(recipe.evaluate.photos, held_out))


def _held_out(holdout: float, photos: int) -> int:
    return max(1, round(holdout * photos))
