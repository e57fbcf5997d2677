"""The command `evaluate`: the fast model on held-out photos, beside the optimisation it learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batch_nst.console import log, progress_bar
from batch_nst.data.dataset.manifest import check_recipe
from batch_nst.data.dataset.snapshot import require_snapshot
from batch_nst.data.images.contact_sheet import contact_sheet
from batch_nst.data.images.style import MAX_BYTES, read_style
from batch_nst.data.models import registry
from batch_nst.data.models.card import readme
from batch_nst.data.models.evaluation import Enlarged, Evaluation, Losses, SizeTimes, SpeedTable
from batch_nst.data.models.holdout import HeldOutPhoto, choose_held_out
from batch_nst.data.models.registry import training_version
from batch_nst.data.storage.fetch import fetch
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError
from batch_nst.figures import as_json
from batch_nst.pipelines.cluster.stop import WAIT_MINUTES
from batch_nst.pipelines.cost.steps import LARGER_DIVISOR
from batch_nst.pipelines.evaluate.enlarged import EnlargedPhotos, cut_enlarged
from batch_nst.pipelines.evaluate.scores import (
    EvaluateFigures,
    LeftOut,
    Score,
    encoded,
    enlarged_figures,
    evaluation_of,
    milestones,
    outline,
    without_times,
)
from batch_nst.pipelines.reports.night import ScoredModel, Triple
from batch_nst.recipe import Evaluate, Recipe

if TYPE_CHECKING:
    from batch_nst.data.models.files import ModelFiles

_PREVIEWED = 8
"""Photos on a model's contact sheet."""


def evaluate(recipe: Recipe, store: Store, wait_minutes: float = WAIT_MINUTES) -> ScoredModel:
    """Score the model of this recipe and its latest snapshot, and describe it in its folder. Needs the lease.

    Figures and licences go into `model.json` and `README.md`, some images into `preview.jpg`. The files hold
    no times, so that the same scores always give the same bytes.

    Raises:
        IncompleteError: there is no dataset, no model, or no held-out photo.
        WeightsError: the model is damaged.
        ClusterError: no node came within `wait_minutes`.
    """
    model, photos, units = _prepare(recipe, store)
    found = _measure(recipe, store, model, photos, wait_minutes)
    evaluation = evaluation_of(found.scores, units, recipe.generate.image_size)
    if found.larger:
        evaluation["larger"] = enlarged_figures(found.larger, found.enlarged)
    scored = ScoredModel(model.version, evaluation, _triples(photos, found), found.speed)
    _write(recipe, store, model, scored)
    _log(scored)
    return scored


def figures_of(scored: ScoredModel) -> EvaluateFigures:
    """The figures of a scored model, without the report."""
    return EvaluateFigures(scored.version, outline(as_json(scored.evaluation)), scored.speed)


def _prepare(recipe: Recipe, store: Store) -> tuple[ModelFiles, list[HeldOutPhoto], list[str]]:
    """The model, the photos to score it on, and the units that hold them; raises what `evaluate` does."""
    check_recipe(recipe, store)
    snapshot = require_snapshot(store)
    version = training_version(recipe, snapshot)
    card = registry.require_card(store, version)
    photos, units = choose_held_out(store, snapshot, recipe.evaluate)
    if not photos:
        raise IncompleteError(
            f"{store.uri}: snapshot {snapshot.number} has no held-out photo to score a model on; needed: 1"
        )

    from batch_nst.data.models.files import ModelFiles
    from batch_nst.engine.fast_model.model_io import load_net

    weights = registry.read_weights(store, version)
    load_net(weights, card)  # a damaged model is refused here, not in an actor
    return ModelFiles(version, card, weights, store.uri), photos, units


@dataclass(frozen=True)
class _Found:
    """Measurements of a model."""

    scores: list[Score]
    """Scores at the size of the pairs, by name."""
    larger: EnlargedPhotos | None
    enlarged: list[Score | LeftOut]
    """Scores at twice the size, by name."""
    speed: SpeedTable | None


def _measure(
    recipe: Recipe, store: Store, model: ModelFiles, photos: Sequence[HeldOutPhoto], wait_minutes: float
) -> _Found:
    """Time the model and score it on Ray, on some photos also at twice the size."""
    from batch_nst.pipelines.cluster import connect
    from batch_nst.pipelines.evaluate.actors import score_photos, time_sizes

    connect.connect()
    workers = connect.choose_workers(recipe.generate.device, wait_minutes)
    style = read_style(recipe.style)
    speed: SpeedTable | None = None
    if recipe.evaluate.sizes:
        log(f"timing at {', '.join(map(str, recipe.evaluate.sizes))} px on {workers.device}")
        speed = time_sizes(photos[0].content, model, style, recipe, workers)
    larger: EnlargedPhotos | None = None
    work = [*photos]
    if recipe.evaluate.larger_photos:
        ids = [photo.id for photo in photos]
        larger = cut_enlarged(store, ids, recipe.evaluate.larger_photos, recipe.generate)
        work += _enlarged(photos, larger, recipe.evaluate)
    found = []
    with progress_bar("evaluate", len(work), "pictures") as progress:
        for score in score_photos(work, model, style, recipe, workers):
            found.append(score)
            progress.advance(1, f"objective {score.model['total']:,.0f}" if isinstance(score, Score) else "")
    found.sort(key=lambda score: score.name)
    scores, enlarged = [], []
    for score in found:
        if isinstance(score, Score) and score.side == recipe.generate.image_size:
            scores.append(score)
        else:
            enlarged.append(score)
    return _Found(scores, larger, enlarged, speed)


def _enlarged(
    photos: Sequence[HeldOutPhoto], larger: EnlargedPhotos, settings: Evaluate
) -> list[HeldOutPhoto]:
    """The photos at twice the size, which have no optimised image in the dataset."""
    iterations = max(1, settings.iterations // LARGER_DIVISOR)
    return [
        replace(
            photo,
            content=larger.pictures[photo.id],
            stylized=b"",
            iterations=iterations,
            baseline=False,
            from_noise=False,
        )
        for photo in photos
        if photo.id in larger.pictures
    ]


def _triples(photos: Sequence[HeldOutPhoto], found: _Found) -> list[Triple]:
    """The images of each photo with their losses."""
    photo_of = {photo.id: photo for photo in photos}
    large = {
        score.id: (
            found.larger.pictures[score.id],
            encoded(score.optimised_picture, score.side),
            encoded(score.model_picture, score.side),
        )
        for score in found.enlarged
        if found.larger and isinstance(score, Score)
    }
    return [
        Triple(
            score.name,
            photo_of[score.id].content,
            photo_of[score.id].stylized,
            encoded(score.model_picture, score.side),
            {"photo": score.photo, "optimised": score.optimised, "model": score.model},
            large.get(score.id),
            id=score.id,
        )
        for score in found.scores
    ]


def _write(recipe: Recipe, store: Store, model: ModelFiles, scored: ScoredModel) -> None:
    """Replace preview, README and card, in this order."""
    style = fetch(recipe.style.image, MAX_BYTES)
    shown = [(triple.photo, triple.optimised, triple.model) for triple in scored.triples[:_PREVIEWED]]
    sheet = contact_sheet(shown, style=style)
    card, version = model.card, model.version
    card["licenses"] = {
        "weights": recipe.publish.license,
        "style": recipe.style.license,
        "photos": recipe.generate.license,
    }
    card["evaluation"] = without_times(scored.evaluation)
    for name, data in ((registry.PREVIEW, sheet), (registry.README, readme(card).encode())):
        card["digests"][name] = registry.write_part(store, version, name, data)
    registry.write_card(store, version, card)


def _log(scored: ScoredModel) -> None:
    """Log the figures for people."""
    from batch_nst.pipelines.evaluate.independent import INSTALL, NETWORK

    evaluation = scored.evaluation
    parts = f"{'objective':>14} {'content':>14} {'style':>14} {'distance to X':>14} {'SSIM to X':>10}"
    log(f"{'':>20} {parts} {'checkerboard':>13}")
    for iterations, objective in milestones(evaluation["curve"]).items():
        log(f"{f'{iterations} iterations':>20} {objective:14,.0f}")
    log(f"{'X, as stored':>20} {_parts(evaluation['optimised'])}")
    log(f"{'fast model':>20} {_parts(evaluation['model'])}")
    ratios, images = evaluation["ratios"], evaluation["photos"]
    log(
        f"{scored.version}: R {ratios['total']:.2f}: {ratios['verdict']}, over {images} held-out "
        f"image{'s' * (images != 1)}; content {ratios['content']:.2f}, style {ratios['style']:.2f} of theirs"
    )
    log(f"{'':>{len(scored.version)}}  {evaluation['verdict']}")
    if by_another := ratios.get("independent"):
        log(
            f"by {NETWORK}, which no training saw: content {by_another['content']:.2f}, "
            f"style {by_another['style']:.2f} of theirs"
        )
    else:
        log(f"content and style by a network that no training saw: not measured, it needs {INSTALL}")
    _log_baseline(evaluation)
    if larger := evaluation.get("larger"):
        _log_enlarged(larger)
    for row in scored.speed.sizes if scored.speed else ():
        log(f"{row.size:>5} px: {_times(row)}")


def _log_baseline(evaluation: Evaluation) -> None:
    if baseline := evaluation.get("baseline"):
        usual, own = baseline["lbfgs"], baseline["engine"]
        log(
            f"on {baseline['photos']} of them, after {len(own['curve']) - 1} iterations: L-BFGS baseline "
            f"{usual['curve'][-1]:,.0f} in {usual['seconds_per_image']:.1f} s, optimisation "
            f"{own['curve'][-1]:,.0f} in {own['seconds_per_image']:.1f} s; fast model {usual['verdict']}"
        )
        if noise := baseline.get("noise"):
            log(f"on one of them: fast model {noise['verdict']}, at the weights 1 to 5 of slow_neural_style")


def _log_enlarged(larger: Enlarged) -> None:
    left_out = ", ".join(f"{count} {reason}" for reason, count in larger["left_out"].items())
    log(f"at {larger['size']} px: {larger['photos']} photos, left out: {left_out or 'none'}")
    if larger["photos"]:
        optimised = f"{len(larger['curve']) - 1} iterations"
        log(f"{'photo':>20} {_parts(larger['photo'])}")
        log(f"{optimised:>20} {_parts(larger['optimised'])}")
        log(f"{'fast model':>20} {_parts(larger['model'])}")
        log(f"at {larger['size']} px: {larger['verdict']}")


def _times(row: SizeTimes) -> str:
    if row.model is None or row.optimisation is None or row.speedup is None:
        return "does not fit into memory"
    times = ", ".join(
        f"{count} iterations {whole:,.1f} s ({row.speedup[count]:,.0f} x)"
        for count, whole in row.optimisation.items()
    )
    return f"fast model {row.model:.3f} s; {times}, extrapolated"


def _parts(losses: Losses) -> str:
    parts = f"{losses['total']:14,.0f} {losses['content']:14,.0f} {losses['style']:14,.0f}"
    return f"{parts} {losses['distance']:14.3f} {losses['ssim']:10.3f} {losses['checkerboard']:13.2f}"
