"""What the steps of `nightly` take: the work of each, counted from a recipe, times what it took before."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

from pydantic import BaseModel, ValidationError

from batch_nst.data.models import registry
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.store import Store
from batch_nst.recipe import Recipe

LARGER_DIVISOR = 3
"""Divisor of the iterations at twice the size, where an iteration costs four times as much."""
_TIMED_ITERATIONS = 8
"""Evaluations of the loss for each of `evaluate.sizes`."""


@dataclass(frozen=True)
class Work:
    """What the steps have to do, in pixels times evaluations of the loss; a training step is one."""

    pairs: float
    training: float
    scoring: float
    baseline: float
    """The part of scoring that the baseline does."""


def work_of(recipe: Recipe, images: int, scored: int) -> Work:
    """Count the work of a recipe.

    Args:
        recipe: the recipe.
        images: images to be optimised.
        scored: held-out images that the model is scored on.
    """
    train, score, side = recipe.train, recipe.evaluate, recipe.generate.image_size
    cropped = train.cropped_steps
    pixels = cropped * min(train.crop_size or side, side) ** 2 + (train.steps - cropped) * side**2
    baselines = min(score.baseline_photos, scored)
    larger = min(score.larger_photos, scored) * (max(1, score.iterations // LARGER_DIVISOR) + 1)
    return Work(
        pairs=images * (recipe.generate.iterations + 1) * side**2,
        training=train.batch_size * pixels,
        scoring=(scored * (score.iterations + 1) + 4 * larger) * side**2
        + _TIMED_ITERATIONS * sum(size**2 for size in score.sizes),
        # On the first photo once more, from noise.
        baseline=(baselines + min(1, baselines)) * (score.iterations + 1) * side**2,
    )


@dataclass(frozen=True)
class StepRates:
    """Device-seconds that the steps after the pairs take for one unit of their `Work`; None: unknown."""

    source: str
    """Origin: "run <id>" or "calibration"."""
    training: float | None = None
    scoring: float | None = None
    baseline: float | None = None


@dataclass(frozen=True)
class StepCost:
    """What a step costs; None stands for unknown."""

    device_hours: float | None
    hours: float | None
    price: float | None


@dataclass(frozen=True)
class StepCosts:
    """What each step of `nightly` costs."""

    pairs: StepCost
    training: StepCost
    scoring: StepCost
    in_all: StepCost
    """The sum, unknown where a part of it is."""
    rates_from: str | None
    """Origin of the rates of the steps after the pairs, see `StepRates.source`."""


def step_costs(
    work: Work,
    rates: StepRates | None,
    pairs: StepCost,
    *,
    scorers: int,
    trainers: int,
    price: float | None = None,
) -> StepCosts:
    """Multiply the work of the steps by their rates.

    Args:
        work: what is left to do after the pairs.
        rates: measured; None if there are none.
        pairs: what the pairs cost.
        scorers: number of devices that score at the same time.
        trainers: number of training workers, with a device each.
        price: price of a device-hour, in any currency.
    """
    rates = rates or StepRates("")
    scoring = _sum(_times(work.scoring, rates.scoring), _times(work.baseline, rates.baseline))
    costs = (
        pairs,
        _cost(_times(work.training, rates.training), trainers, price),
        _cost(scoring, scorers, price),
    )
    in_all = StepCost(*(_sum(*(getattr(cost, part.name) for cost in costs)) for part in fields(StepCost)))
    return StepCosts(*costs, in_all, rates.source or None)


def step_lines(costs: StepCosts, unknown: str) -> list[str]:
    """Lines for the terminal, aligned: hours and price of each step."""
    named = {
        "pairs": costs.pairs,
        "training": costs.training,
        "scoring": costs.scoring,
        "in all": costs.in_all,
    }
    return [f"{name:>14} {_told(cost, unknown)}" for name, cost in named.items()]


def _told(cost: StepCost, unknown: str) -> str:
    if cost.hours is None:
        return unknown
    price = "" if cost.price is None else f", price {cost.price:,.2f}"
    return f"{cost.hours:,.2f} hours{price}"


def _times(work: float, rate: float | None) -> float | None:
    return 0.0 if not work else None if rate is None else work * rate


def _sum(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _cost(seconds: float | None, devices: int, price: float | None) -> StepCost:
    if seconds is None:
        return StepCost(None, None, None)
    hours = seconds / 3600
    return StepCost(hours, hours / devices, None if price is None else hours * price)


# --- what the last runs of an output took


class _Pace(BaseModel):
    steps_per_second: float


class _Devices(BaseModel):
    devices: int = 1


class _Cost(BaseModel):
    step_seconds: dict[str, float] = {}


class _Summary(BaseModel):
    """The figures of a run that show what a step took."""

    run: str = ""
    version: str = ""
    seconds: float = 0.0
    pace: _Pace | None = None
    photos: int | None = None
    seconds_per_image: dict[str, float] | None = None
    dataset: _Devices = _Devices()
    cost: _Cost = _Cost()


def last_step_rates(store: Store) -> StepRates | None:
    """The rates of the last runs in an output that trained and scored; None if none did."""
    found: StepRates | None = None
    for name in reversed(store.list("runs")):
        match = re.search(r"-(nightly|train|evaluate)/summary\.json$", name)
        if not match:
            continue
        document = read_document(store, name)
        with intact(store, name):
            rates = _rates(store, match[1], _Summary.model_validate(document))
        found = _completed(found, rates) if found and rates else found or rates
        if found and None not in (found.training, found.scoring):
            break
    return found


def _completed(latest: StepRates, earlier: StepRates) -> StepRates:
    """The latest rates, and earlier ones where it has none."""
    missing = [part.name for part in fields(StepRates) if getattr(latest, part.name) is None]
    return replace(latest, **{name: getattr(earlier, name) for name in missing})


def _rates(store: Store, command: str, summary: _Summary) -> StepRates | None:
    """The rates of one run; None where it has none, or its model and so its recipe is gone."""
    card = registry.read_card(store, summary.version) if summary.version else None
    if card is None:
        return None
    try:
        recipe = Recipe.model_validate(card["recipe"])
    except ValidationError:  # of another version
        return None
    night, training, scoring = summary.cost.step_seconds, None, None
    if summary.pace:
        seconds = recipe.train.steps / summary.pace.steps_per_second * recipe.train.worker_range[1]
        training = seconds / work_of(recipe, 0, 0).training
    seconds_scored = night.get("scoring") if command == "nightly" else summary.seconds
    if summary.seconds_per_image and summary.photos and seconds_scored:
        done = work_of(recipe, 0, summary.photos)
        scoring = seconds_scored * max(1, summary.dataset.devices) / (done.scoring + done.baseline)
    if not (training or scoring):
        return None
    return StepRates(f"run {summary.run}", training, scoring, scoring)
