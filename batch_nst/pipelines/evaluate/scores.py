"""The score of a photo, and the figures over photos that make the section `evaluation` of `model.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, cast

import numpy as np

from batch_nst.data.images.codec import encode
from batch_nst.data.models.evaluation import (
    Baseline,
    Comparison,
    Enlarged,
    Evaluation,
    Independent,
    Losses,
    Ratios,
    SpeedTable,
    Trial,
)
from batch_nst.engine.statistics import Ratio, equivalent_iterations, mean_figure, ratio
from batch_nst.figures import JsonValue, as_json, inlined, omitted
from batch_nst.pipelines.evaluate.enlarged import EnlargedPhotos

_PICTURES = ("optimised_picture", "model_picture")
_OF_PHOTOS = ("objectives", "units")
"""Keys with a value per photo or unit."""


@dataclass(frozen=True)
class LeftOut:
    """A photo that was not scored."""

    id: str
    name: str
    reason: str


@dataclass(frozen=True)
class Score:
    """Measurements of one photo."""

    id: str
    name: str
    uri: str
    side: int
    """Side in pixels."""
    curve: list[float]
    """Objective after 0, 1, 2, ... iterations."""
    photo: Losses
    model: Losses
    optimised: Losses
    reached: Losses
    """Those of the image after all iterations of `curve`."""
    painter: str
    """What made the model's image, as in `Evaluation`; so is the next field."""
    engine: str
    model_seconds: float
    optimised_seconds: float
    optimised_picture: bytes
    """Raw uint8 (side, side, 3), as the next field."""
    model_picture: bytes
    baseline_curve: list[float] | None = None
    """Objective of the baseline after 0, 1, 2, ... iterations; None if it did not run."""
    baseline_seconds: float = 0.0
    noise_curve: list[float] | None = None
    """Objective of the baseline from white noise, at `PEERS_WEIGHTS`; None if it did not run."""
    noise_seconds: float = 0.0
    noise_objective: float = 0.0
    """The model's at these weights."""
    independent: dict[str, Independent] | None = None
    """`model` and `reached`, by the network that no training saw; None where the network is not installed."""


def to_row(score: Score | LeftOut) -> dict[str, bytes]:
    """A score as a row of Ray Data; the inverse of `from_row`. Numbers travel as one JSON object."""
    found = {each.name: getattr(score, each.name) for each in fields(score)}
    pictures = {name: found.pop(name, b"") for name in _PICTURES}
    return {"figures": json.dumps(found).encode(), **pictures}


def from_row(row: dict[str, bytes]) -> Score | LeftOut:
    """The score of a row that `to_row` made."""
    found = json.loads(row["figures"])
    if "reason" in found:
        return LeftOut(**found)
    return Score(**found, optimised_picture=row["optimised_picture"], model_picture=row["model_picture"])


def encoded(raw: bytes, side: int) -> bytes:
    """An image of a score, losslessly encoded."""
    return encode(np.frombuffer(raw, np.uint8).reshape(side, side, 3), "webp")


def summarise(scores: Sequence[Score]) -> Comparison:
    """Means over at least one photo, R, and the iterations that the model is worth."""
    worth = equivalent_iterations(
        [score.curve for score in scores],
        [score.model["total"] for score in scores],
        [score.uri for score in scores],
    )
    model, optimised = (
        float(np.median([getattr(score, name) for score in scores]))
        for name in ("model_seconds", "optimised_seconds")
    )
    return {
        "photos": len(scores),
        "ratios": ratios_of(scores),
        "curve": worth.curve,
        "worth_iterations": worth.worth_iterations,
        "worth_interval": [*worth.worth_interval],
        "verdict": worth.verdict,
        "photo": _mean_losses(score.photo for score in scores),
        "optimised": _mean_losses(score.optimised for score in scores),
        "model": _mean_losses(score.model for score in scores),
        "seconds_per_image": {"model": model, "optimised": optimised, "ratio": optimised / model},
    }


def ratios_of(scores: Sequence[Score]) -> Ratios:
    """R and its parts, over at least one photo."""
    photos = [score.uri for score in scores]

    def of(part: Literal["total", "content", "style"]) -> Ratio:
        return ratio(
            [score.model[part] for score in scores], [score.reached[part] for score in scores], photos
        )

    distances = [score.model["distance"] for score in scores]
    own = [score.photo["distance"] for score in scores]
    total, iterations = of("total"), len(scores[0].curve) - 1
    found: Ratios = {
        "total": total.value,
        "interval": [*total.interval] if total.interval else None,
        "content": of("content").value,
        "style": of("style").value,
        "distance": ratio(distances, own, photos).value,
        "iterations": iterations,
        "verdict": _in_words(total, iterations),
    }
    if measured := _independent(scores):
        found["independent"] = measured
    return found


def _independent(scores: Sequence[Score]) -> Independent | None:
    """Ratios by the network that no training saw; None if a photo lacks them."""
    pictures = [score.independent for score in scores if score.independent]
    if len(pictures) < len(scores):
        return None
    photos = [score.uri for score in scores]

    def of(part: Literal["content", "style"]) -> float:
        model, reached = ([each[who][part] for each in pictures] for who in ("model", "reached"))
        return ratio(model, reached, photos).value

    return {"content": of("content"), "style": of("style")}


def _in_words(total: Ratio, iterations: int) -> str:
    reach = "1 iteration reaches" if iterations == 1 else f"{iterations:,} iterations reach"
    words = f"its pictures score {total.value:.2f} times what {reach}"
    if total.interval is None:
        return words
    low, high = total.interval
    return f"{words} (95 % interval: {low:.2f} to {high:.2f})"


def _mean_losses(found: Iterable[Losses]) -> Losses:
    by_name: dict[str, list[float]] = {}
    for losses in found:
        for name, value in losses.items():
            by_name.setdefault(name, []).append(cast(float, value))
    return cast(Losses, {name: mean_figure(name, values) for name, values in by_name.items()})


def evaluation_of(scores: Sequence[Score], units: Sequence[str], size: int) -> Evaluation:
    """The section without `larger`; with the baseline if it ran."""
    objectives = {score.id: score.model["total"] for score in scores}
    found = cast(Evaluation, {**summarise(scores), "objectives": objectives})
    found["painter"], found["engine"] = scores[0].painter, scores[0].engine
    if raced := [score for score in scores if score.baseline_curve]:
        found["baseline"] = baseline_figures(raced)
    found["units"], found["size"] = [*units], size
    return found


def baseline_figures(scores: Sequence[Score]) -> Baseline:
    """The L-BFGS baseline and the engine on the same photos, and what the model is worth in each."""
    objectives = [score.model["total"] for score in scores]
    photos = [score.uri for score in scores]

    def trial(
        curves: Sequence[Sequence[float]],
        seconds: Sequence[float],
        name: str,
        objectives: Sequence[float] = objectives,
        photos: Sequence[str] = photos,
    ) -> Trial:
        worth = equivalent_iterations(curves, objectives, photos, name)
        return {
            "curve": worth.curve,
            "worth_iterations": worth.worth_iterations,
            "worth_interval": [*worth.worth_interval],
            "verdict": worth.verdict,
            "seconds_per_image": float(np.median(seconds)),
        }

    found: Baseline = {
        "photos": len(scores),
        "model": {"total": mean_figure("total", objectives)},
        "lbfgs": trial(
            [score.baseline_curve or [] for score in scores],
            [score.baseline_seconds for score in scores],
            "the L-BFGS baseline",
        ),
        "engine": trial(
            [score.curve for score in scores],
            [score.optimised_seconds for score in scores],
            "the optimisation",
        ),
    }
    for score in scores:
        if score.noise_curve:
            objective = score.noise_objective
            name = "L-BFGS from white noise"
            found["noise"] = trial([score.noise_curve], [score.noise_seconds], name, [objective], [score.uri])
    return found


def enlarged_figures(larger: EnlargedPhotos, found: Sequence[Score | LeftOut]) -> Enlarged:
    """The comparison at twice the size, and the number of photos left out by reason."""
    scores = [score for score in found if isinstance(score, Score)]
    left_out = Counter(larger.left_out)
    left_out.update(score.reason for score in found if isinstance(score, LeftOut))
    about: Comparison = summarise(scores) if scores else {"photos": 0}
    return {**about, "size": larger.size, "left_out": dict(left_out)}


def without_times(evaluation: Evaluation) -> Evaluation:
    """The evaluation without times, which differ from run to run."""
    return cast(Evaluation, _without(as_json(evaluation), "seconds_per_image"))


def _without(value: JsonValue, key: str) -> JsonValue:
    """A JSON value without a key, at any depth."""
    if not isinstance(value, dict):
        return value
    return {name: _without(each, key) for name, each in value.items() if name != key}


@dataclass(frozen=True)
class EvaluateFigures:
    """Figures of the command `evaluate`."""

    version: str
    scores: JsonValue = inlined()
    """See `outline`."""
    speed: SpeedTable | None = omitted()
    report: str | None = omitted()
    """URI of the page."""


def outline(value: JsonValue) -> JsonValue:
    """An evaluation without values per photo, and with only the milestones of each curve."""
    if not isinstance(value, dict):
        return value
    return {
        name: as_json(milestones(cast("list[float]", each))) if name == "curve" else outline(each)
        for name, each in value.items()
        if name not in _OF_PHOTOS
    }


def milestones(curve: Sequence[float]) -> dict[int, float]:
    """The objective after 0, 1, 2, 5, 10, 20, 50, ... iterations, and at the end of the curve."""
    steps = [0, *(digit * 10**power for power in range(5) for digit in (1, 2, 5))]
    return {step: curve[step] for step in [*steps, len(curve) - 1] if step < len(curve)}
