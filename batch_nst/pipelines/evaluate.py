"""The fast model on held-out photos, beside the optimisation that it learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from batch_nst.data import models
from batch_nst.data.images import encode
from batch_nst.data.inputs import key_hash
from batch_nst.data.snapshot import Snapshot, pairs, require_snapshot
from batch_nst.data.storage import Store
from batch_nst.data.style import read_style
from batch_nst.errors import IncompleteError
from batch_nst.pipelines.plan import check_recipe
from batch_nst.pipelines.progress import meter, say
from batch_nst.pipelines.report import Triple, contact_sheet
from batch_nst.pipelines.train import training_version
from batch_nst.pipelines.worth import compare
from batch_nst.recipe import Recipe

_PREVIEWED = 8
"""Photos on a model's contact sheet."""


def evaluate(recipe: Recipe, store: Store) -> tuple[dict[str, Any], list[Triple]]:
    """Score the model of this recipe and its latest snapshot; figures go into `model.json`. Needs the lease.

    Returns:
        Figures, as they stand in `model.json` under `evaluation`, and the pictures of each photo.

    Raises:
        IncompleteError: there is no dataset, no model, or no held-out photo.
    """
    check_recipe(recipe, store)
    snapshot = require_snapshot(store)
    version = training_version(recipe, snapshot)
    card = models.require_card(store, version)
    rows = _held_out(store, snapshot, recipe.evaluate.photos)
    if not rows:
        raise IncompleteError(
            f"{store.uri}: snapshot {snapshot.number} has no held-out photo; raise evaluate.holdout"
        )

    from batch_nst.pipelines import cluster
    from batch_nst.pipelines.score import score_photos

    cluster.connect()
    workers = cluster.choose_workers(recipe.generate.device)
    weights = store.read(models.model_object(version, models.WEIGHTS))
    scores = []
    with meter("evaluate", len(rows), "photos") as progress:
        for score in score_photos(rows, weights, card, read_style(recipe.style), recipe, workers):
            scores.append(score)
            progress.advance(1, f"objective {score['model']['total']:,.0f}")
    scores.sort(key=lambda score: str(score["name"]))
    ids = {row["name"]: row["id"] for row in rows}
    evaluation = {
        **summarise(scores),
        "size": recipe.generate.image_size,
        "objectives": {ids[score["name"]]: score["model"]["total"] for score in scores},
    }
    pictures = {row["name"]: row for row in rows}
    triples = [_triple(score, pictures[score["name"]]) for score in scores]
    sheet = contact_sheet([(triple.photo, triple.optimised, triple.model) for triple in triples[:_PREVIEWED]])
    card["digests"][models.PREVIEW] = models.write_part(store, version, models.PREVIEW, sheet)
    models.write_card(store, version, {**card, "evaluation": evaluation})
    _tell(version, evaluation)
    return {"version": version, **evaluation}, triples


def milestones(curve: Sequence[float]) -> dict[int, float]:
    """The objective after 0, 1, 2, 5, 10, 20, 50, ... iterations, as far as the curve goes, and its end."""
    steps = [0, *(digit * 10**power for power in range(5) for digit in (1, 2, 5))]
    return {step: curve[step] for step in [*steps, len(curve) - 1] if step < len(curve)}


def _tell(version: str, evaluation: dict[str, Any]) -> None:
    """The figures as lines for people."""
    say(f"{'':>20} {'objective':>14} {'content':>14} {'style':>14} {'distance to X':>14} {'SSIM to X':>10}")
    for iterations, objective in milestones(evaluation["curve"]).items():
        say(f"{f'{iterations} iterations':>20} {objective:14,.0f}")
    for who, name in (("optimised", "X, as stored"), ("model", "fast model")):
        losses = evaluation[who]
        parts = " ".join(f"{losses[part]:14,.0f}" for part in ("total", "content", "style"))
        say(f"{name:>20} {parts} {losses['distance']:14.3f} {losses['ssim']:10.3f}")
    say(f"{version}: {evaluation['verdict']}, over {evaluation['photos']} held-out images")


def summarise(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures over photos: geometric means (of SSIM the mean), and what the model is worth, see `compare`.

    Args:
        scores: of `score_photos`.
    """
    parts = {
        who: {
            part: _mean(part, [score[who][part] for score in scores])
            for part in ("content", "style", "total", "distance", "ssim")
        }
        for who in ("photo", "optimised", "model")
    }
    seconds = {
        who: float(np.median([score[f"{who}_seconds"] for score in scores])) for who in ("model", "optimised")
    }
    return {
        "photos": len(scores),
        **compare(
            [score["curve"] for score in scores],
            [score["model"]["total"] for score in scores],
            [score["uri"] for score in scores],
        ),
        **parts,
        "seconds_per_image": {**seconds, "ratio": seconds["optimised"] / seconds["model"]},
    }


def _held_out(store: Store, snapshot: Snapshot, photos: int) -> list[dict[str, Any]]:
    """The pairs of up to `photos` held-out images, lowest hash of the id first."""
    rows = [
        {
            "id": row["id"].hex(),
            "uri": row["uri"],
            "name": f"{row['uri'].rsplit('/', 1)[-1]} {row['id'].hex()[:6]}",
            "content": row["content"]["bytes"],
            "stylized": row["stylized"]["bytes"],
        }
        for row in pairs(store, snapshot, "held_out")
    ]
    return sorted(rows, key=lambda row: key_hash(str(row["id"])))[:photos]


def _triple(score: dict[str, Any], row: dict[str, Any]) -> Triple:
    side = score["side"]
    painted = np.frombuffer(score["painted"], np.uint8).reshape(side, side, 3)
    losses = {who: score[who] for who in ("photo", "optimised", "model")}
    return Triple(score["name"], row["content"], row["stylized"], encode(painted, "webp"), losses)


def _mean(part: str, values: Sequence[float]) -> float:
    """The geometric mean, 0 where a value is 0; of SSIM, which may be below 0, the mean."""
    if part == "ssim":
        return sum(values) / len(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if min(values) > 0 else 0.0
