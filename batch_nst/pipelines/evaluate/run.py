"""The fast model on held-out photos, beside the optimisation that it learned from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from batch_nst.console import log, progress_bar
from batch_nst.data.dataset.manifest import check_recipe
from batch_nst.data.dataset.snapshot import require_snapshot
from batch_nst.data.images.codec import encode
from batch_nst.data.images.contact_sheet import contact_sheet
from batch_nst.data.images.style import MAX_BYTES, read_style
from batch_nst.data.models import registry
from batch_nst.data.models.card import readme
from batch_nst.data.models.holdout import choose_held_out
from batch_nst.data.models.registry import training_version
from batch_nst.data.storage.fetch import fetch
from batch_nst.data.storage.store import Store
from batch_nst.engine.statistics import equivalent_iterations
from batch_nst.errors import IncompleteError
from batch_nst.pipelines.evaluate.enlarged import Enlarged, cut_enlarged
from batch_nst.pipelines.reports.night import Triple
from batch_nst.recipe import Evaluate, Recipe

_PREVIEWED = 8
"""Photos on a model's contact sheet."""
_SHORTER = 3
"""By how much the curve is shorter where an iteration costs four times as much."""
_TIMES = {"seconds_per_image", "speed"}
"""Figures that differ from run to run."""


def evaluate(recipe: Recipe, store: Store) -> tuple[dict[str, Any], list[Triple]]:
    """Score the model of this recipe and its latest snapshot, and let its folder tell of it. Needs the lease.

    Figures and licences go into `model.json`; `README.md` tells them to people, and `preview.jpg` shows it.
    All three have the same bytes whenever the same scores are found: no times are in them.

    Returns:
        Figures, as they stand in `model.json` under `evaluation`, and times besides; and the pictures of each
        photo.

    Raises:
        IncompleteError: there is no dataset, no model, or no held-out photo.
        WeightsError: the model is damaged.
    """
    check_recipe(recipe, store)
    snapshot = require_snapshot(store)
    version = training_version(recipe, snapshot)
    card = registry.require_card(store, version)
    rows, units = choose_held_out(store, snapshot, recipe.evaluate)
    if not rows:
        raise IncompleteError(
            f"{store.uri}: snapshot {snapshot.number} has no held-out photo to score a model on; needed: 1"
        )

    from batch_nst.engine.model_io import load_net
    from batch_nst.pipelines.cluster import connect
    from batch_nst.pipelines.evaluate.actors import score_photos, time_sizes

    weights = registry.read_weights(store, version)
    load_net(weights, card)  # a damaged model is refused here, not in an actor
    connect.connect()
    workers = connect.choose_workers(recipe.generate.device)
    style = read_style(recipe.style)
    speed: dict[str, Any] | None = None
    if recipe.evaluate.sizes:
        log(f"timing at {', '.join(map(str, recipe.evaluate.sizes))} px on {workers.device}")
        speed = time_sizes(rows[0]["content"], weights, card, style, recipe, workers)
    larger: Enlarged | None = None
    work = rows
    if recipe.evaluate.larger_photos:
        ids = [row["id"] for row in rows]
        larger = cut_enlarged(store, ids, recipe.evaluate.larger_photos, recipe.generate)
        work = [*rows, *_larger_rows(rows, larger, recipe.evaluate)]
    found = []
    with progress_bar("evaluate", len(work), "pictures") as progress:
        for score in score_photos(work, weights, card, style, recipe, workers):
            found.append(score)
            progress.advance(1, f"objective {score['model']['total']:,.0f}" if "model" in score else "")
    found.sort(key=lambda score: str(score["name"]))
    scores = [score for score in found if score.get("side") == recipe.generate.image_size]
    enlarged = [score for score in found if score.get("side") != recipe.generate.image_size]
    evaluation = {**_figures(scores), "units": units, "size": recipe.generate.image_size}
    if larger:
        evaluation["larger"] = _larger_figures(larger, enlarged)
    if speed:
        evaluation["speed"] = speed
    triples = _triples(rows, scores, larger, enlarged)
    painting = fetch(recipe.style.image, MAX_BYTES)
    shown = [(triple.photo, triple.optimised, triple.model) for triple in triples[:_PREVIEWED]]
    sheet = contact_sheet(shown, painting=painting)
    licenses = {
        "weights": recipe.publish.license,
        "style": recipe.style.license,
        "photos": recipe.generate.license,
    }
    card |= {"licenses": licenses, "evaluation": _without_times(evaluation)}
    for name, data in ((registry.PREVIEW, sheet), (registry.README, readme(card).encode())):
        card["digests"][name] = registry.write_part(store, version, name, data)
    registry.write_card(store, version, card)
    _tell(version, evaluation)
    return {"version": version, **evaluation}, triples


def _without_times(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures that another run finds again."""
    return {
        name: _without_times(value) if isinstance(value, dict) else value
        for name, value in evaluation.items()
        if name not in _TIMES
    }


def milestones(curve: Sequence[float]) -> dict[int, float]:
    """The objective after 0, 1, 2, 5, 10, 20, 50, ... iterations, as far as the curve goes, and its end."""
    steps = [0, *(digit * 10**power for power in range(5) for digit in (1, 2, 5))]
    return {step: curve[step] for step in [*steps, len(curve) - 1] if step < len(curve)}


def outline(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The figures without what tells of each photo, and of each curve its milestones."""
    return {
        name: outline(value) if isinstance(value, dict) else milestones(value) if name == "curve" else value
        for name, value in evaluation.items()
        if name not in ("objectives", "units")
    }


def _tell(version: str, evaluation: dict[str, Any]) -> None:
    """The figures as lines for people."""
    parts = f"{'objective':>14} {'content':>14} {'style':>14} {'distance to X':>14} {'SSIM to X':>10}"
    log(f"{'':>20} {parts} {'checkerboard':>13}")
    for iterations, objective in milestones(evaluation["curve"]).items():
        log(f"{f'{iterations} iterations':>20} {objective:14,.0f}")
    for who, name in (("optimised", "X, as stored"), ("model", "fast model")):
        log(f"{name:>20} {_parts(evaluation[who])}")
    log(f"{version}: {evaluation['verdict']}, over {evaluation['photos']} held-out images")
    if baseline := evaluation.get("baseline"):
        usual, own = baseline["lbfgs"], baseline["engine"]
        log(
            f"on {baseline['photos']} of them, after {len(own['curve']) - 1} iterations: usual L-BFGS "
            f"{usual['curve'][-1]:,.0f} in {usual['seconds_per_image']:.1f} s, optimisation "
            f"{own['curve'][-1]:,.0f} in {own['seconds_per_image']:.1f} s; fast model {usual['verdict']}"
        )
    if larger := evaluation.get("larger"):
        left_out = ", ".join(f"{count} {reason}" for reason, count in larger["left_out"].items())
        log(f"at {larger['size']} px: {larger['photos']} photos, left out: {left_out or 'none'}")
        if larger["photos"]:
            optimised = f"{len(larger['curve']) - 1} iterations"
            for who, name in (("photo", "photo"), ("optimised", optimised), ("model", "fast model")):
                log(f"{name:>20} {_parts(larger[who])}")
            log(f"at {larger['size']} px: {larger['verdict']}")

    for row in evaluation.get("speed", {}).get("sizes", ()):
        if "model" not in row:
            log(f"{row['size']:>5} px: does not fit into memory")
            continue
        times = ", ".join(
            f"{count} iterations {whole:,.1f} s ({row['speedup'][count]:,.0f} x)"
            for count, whole in row["optimisation"].items()
        )
        log(f"{row['size']:>5} px: fast model {row['model']:.3f} s; {times}, extrapolated")


def _parts(losses: dict[str, float]) -> str:
    parts = " ".join(f"{losses[part]:14,.0f}" for part in ("total", "content", "style"))
    return f"{parts} {losses['distance']:14.3f} {losses['ssim']:10.3f} {losses['checkerboard']:13.2f}"


def summarise(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures over photos: geometric means (of SSIM and checkerboard the mean), and what the model is worth.

    Args:
        scores: of `score_photos`; what they are worth is told by `compare`.
    """
    losses: dict[str, dict[str, float]] = {
        who: {part: _mean(part, [score[who][part] for score in scores]) for part in scores[0][who]}
        for who in ("photo", "optimised", "model")
    }
    seconds = {
        who: float(np.median([score[f"{who}_seconds"] for score in scores])) for who in ("model", "optimised")
    }
    return {
        "photos": len(scores),
        **equivalent_iterations(
            [score["curve"] for score in scores],
            [score["model"]["total"] for score in scores],
            [score["uri"] for score in scores],
        ),
        **losses,
        "seconds_per_image": {**seconds, "ratio": seconds["optimised"] / seconds["model"]},
    }


def _figures(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """As `summarise`, with each photo's own objective, and with the baseline where it ran."""
    raced = [score for score in scores if "lbfgs" in score]
    return {
        **summarise(scores),
        "objectives": {score["id"]: score["model"]["total"] for score in scores},
        **({"baseline": baseline_figures(raced)} if raced else {}),
    }


def baseline_figures(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The usual L-BFGS and the engine on the same photos, and what the model is worth on each one's way."""
    objectives = [score["model"]["total"] for score in scores]
    photos = [score["uri"] for score in scores]

    def way(curve: str, seconds: str, name: str) -> dict[str, Any]:
        return {
            **equivalent_iterations([score[curve] for score in scores], objectives, photos, name),
            "seconds_per_image": float(np.median([score[seconds] for score in scores])),
        }

    return {
        "photos": len(scores),
        "model": {"total": _mean("total", objectives)},
        "lbfgs": way("lbfgs", "lbfgs_seconds", "the usual L-BFGS"),
        "engine": way("curve", "optimised_seconds", "the optimisation"),
    }


def _larger_figures(larger: Enlarged, scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """As `summarise`, of what there is at twice the size, and what was left out for which reason."""
    good = [score for score in scores if "left_out" not in score]
    left_out = Counter(larger.left_out)
    left_out.update(score["left_out"] for score in scores if "left_out" in score)
    figures = summarise(good) if good else {"photos": 0}
    return {**figures, "size": larger.size, "left_out": dict(left_out)}


def _larger_rows(
    rows: Sequence[dict[str, Any]], larger: Enlarged, settings: Evaluate
) -> list[dict[str, Any]]:
    """The same photos at twice the size, of which the dataset has no `X`."""
    changed = {
        "stylized": b"",
        "iterations": max(1, settings.iterations // _SHORTER),
        "baseline": False,
    }
    return [
        {**row, **changed, "content": larger.pictures[row["id"]]}
        for row in rows
        if row["id"] in larger.pictures
    ]


def _triples(
    rows: Sequence[dict[str, Any]],
    scores: Sequence[dict[str, Any]],
    larger: Enlarged | None,
    enlarged: Sequence[dict[str, Any]],
) -> list[Triple]:
    """The pictures of each photo, and its losses."""
    pictures = {row["id"]: row for row in rows}
    large = {
        score["id"]: (
            larger.pictures[score["id"]],
            _picture(score, "optimised"),
            _picture(score, "model"),
        )
        for score in enlarged
        if larger and "left_out" not in score
    }
    return [
        Triple(
            score["name"],
            pictures[score["id"]]["content"],
            pictures[score["id"]]["stylized"],
            _picture(score, "model"),
            {who: score[who] for who in ("photo", "optimised", "model")},
            large.get(score["id"]),
            id=score["id"],
        )
        for score in scores
    ]


def _picture(score: dict[str, Any], who: str) -> bytes:
    """One of `pictures`, encoded."""
    side = score["side"]
    return encode(np.frombuffer(score["pictures"][who], np.uint8).reshape(side, side, 3), "webp")


def _mean(part: str, values: Sequence[float]) -> float:
    """The geometric mean, 0 where a value is 0; of SSIM, which may be below 0, and checkerboard the mean."""
    if part in ("ssim", "checkerboard"):
        return sum(values) / len(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if min(values) > 0 else 0.0
