"""The command `train`: check the dataset, train the fast model on a snapshot, write `model.json`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from batch_nst import __version__
from batch_nst.console import log, warn
from batch_nst.contradictions import crop_fault
from batch_nst.data.dataset.manifest import check_recipe
from batch_nst.data.dataset.snapshot import Snapshot, latest_snapshot, require_snapshot
from batch_nst.data.images.style import read_style
from batch_nst.data.models import registry
from batch_nst.data.models.registry import (
    History,
    ModelCard,
    ObjectiveSection,
    StepLosses,
    architecture_of,
    training_version,
)
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError, RecipeError, StorageError
from batch_nst.figures import omitted
from batch_nst.pipelines.cluster.stop import WAIT_MINUTES
from batch_nst.recipe import Recipe

if TYPE_CHECKING:
    from batch_nst.data.models.files import ModelFiles
    from batch_nst.pipelines.train.ray_train import Fitted, Pace


@dataclass(frozen=True)
class TrainFigures:
    """Figures of `batch-nst train`."""

    version: str
    steps: int
    training: StepLosses
    """Losses at the last point of the curve."""
    pace: Pace | None = omitted()
    """None if the model was already trained."""
    seconds: float | None = omitted()
    """None if the model was already trained."""


def train(recipe: Recipe, store: Store, wait_minutes: float = WAIT_MINUTES) -> TrainFigures:
    """Train the model, or resume; a finished model is not trained again. Needs the lease.

    Raises:
        IncompleteError: the dataset is not sealed, too little of it is done, or it has no pair to train on or
            no held-out one; or the training diverged.
        RecipeError: the dataset has fewer pairs than a batch; or the model to start from is missing or has
            another architecture.
        ClusterError: no node came within `wait_minutes`.
    """
    start = time.monotonic()
    manifest = check_recipe(recipe, store)
    snapshot = _require_pairs(recipe, store)
    version = training_version(recipe, snapshot)
    card = registry.read_card(store, version)
    if card is not None:
        log(f"model {version} is already trained")
        return _figures(card)

    from batch_nst.engine.fast_model.model_io import model_bytes

    fitted = _fit(recipe, store, snapshot, version, wait_minutes)
    digests = {
        registry.WEIGHTS: registry.write_part(store, version, registry.WEIGHTS, model_bytes(fitted.net)),
        "style": manifest["style"]["sha256"],
        "vgg": manifest["vgg"]["sha256"],
    }
    objective: ObjectiveSection = {
        "loss": manifest["loss"],
        "style_size": manifest["style"]["size"],
        "vgg_input": manifest["vgg"]["input"],
        "gram_divisor": manifest["gram_divisor"],
    }
    card = _card(recipe, snapshot, version, digests, objective, fitted)
    registry.write_card(store, version, card)
    return replace(_figures(card), pace=fitted.pace, seconds=round(time.monotonic() - start, 1))


def _require_pairs(recipe: Recipe, store: Store) -> Snapshot:
    """The latest snapshot, if a model can be trained and scored on it.

    Raises:
        IncompleteError: no snapshot is sealed, too little of it is done, or one side of the split has no
            pairs.
        RecipeError: it has fewer pairs than a batch; or its pictures are smaller than the crops.
    """
    if fault := crop_fault(recipe):  # where a recipe does not say how large pictures are, the dataset does
        raise RecipeError(fault)
    snapshot = require_snapshot(store, recipe.train.min_done)
    images = snapshot.counts["ok"] + snapshot.counts["unpaired"]
    if not images:
        raise IncompleteError(f"{store.uri}: snapshot {snapshot.number} has no pair to train on")
    if images < recipe.train.batch_size:
        raise RecipeError(
            f"train.batch_size: given {recipe.train.batch_size}; {store.uri}: snapshot {snapshot.number} has "
            f"{_taught(snapshot)} to train on; allowed: that many or fewer"
        )
    if not snapshot.counts["held_out"]:
        pending = snapshot.counts["pending"]
        raise IncompleteError(
            f"{store.uri}: snapshot {snapshot.number} has {snapshot.counts['ok']} pairs to train on and no "
            f"held-out one to score a model on, {pending} images are pending; needed: 1; "
            f"{'run `batch-nst generate` again' if pending else 'add photos'}"
        )
    return snapshot


def _taught(snapshot: Snapshot) -> str:
    """What it holds to train on, in words."""
    alone = snapshot.counts["unpaired"]
    pairs = f"{snapshot.counts['ok']} pairs"
    return f"{pairs} and {alone} photos without pairs" if alone else pairs


def _fit(recipe: Recipe, store: Store, snapshot: Snapshot, version: str, wait_minutes: float) -> Fitted:
    """Run the Ray Train job and keep the page of the training up to date."""
    from batch_nst.pipelines.cluster import connect
    from batch_nst.pipelines.reports.gather import training_page
    from batch_nst.pipelines.train.log import PAGE
    from batch_nst.pipelines.train.ray_train import Task, run_training

    start_model = _find_start(recipe, store)
    connect.connect()
    connect.check_output_is_shared(store)
    workers = connect.choose_trainers(recipe.train, wait_minutes)
    fewest, most = recipe.train.worker_range
    log(
        f"training {version} on {_taught(snapshot)}: {recipe.train.steps} steps of "
        f"{recipe.train.batch_size}, {fewest if fewest == most else f'{fewest} to {most}'} workers on "
        f"{workers.device}, from {f'model {start_model.name}' if start_model else 'random weights'}"
    )
    page = registry.model_object(version, PAGE)
    seen: list[tuple[datetime, int]] = []

    def show(history: History, step: int) -> None:
        if step:
            seen.append((datetime.now(UTC), step))
        ends = expected_end(seen, recipe.train.steps)
        try:
            store.replace(page, training_page(recipe, store, version, history, step, ends).encode())
        except StorageError as error:  # training can continue without it
            warn(f"{error}; the page of the training is not up to date")

    show([], 0)
    log(f"progress of the training: {store.join(page)}")
    task = Task(recipe, store, snapshot, read_style(recipe.style), version, start_model, workers)
    fitted = run_training(task, show)
    show(fitted.history, recipe.train.steps)
    if fitted.skipped:
        warn(f"{fitted.skipped} steps were skipped: their gradients were NaN or infinite")
    if pace := fitted.pace:
        log(
            f"{pace.steps_per_second:.2f} steps/s, {pace.images_per_second:.1f} images/s after "
            f"{pace.start_up_seconds:.1f} s of start-up; of that time {pace.busy:.1%} computing, "
            f"{pace.waiting:.1%} waiting for pairs, {pace.writing:.1%} writing checkpoints and pictures"
        )
    return fitted


def _card(
    recipe: Recipe,
    snapshot: Snapshot,
    version: str,
    digests: dict[str, str],
    objective: ObjectiveSection,
    fitted: Fitted,
) -> ModelCard:
    """The `model.json` of a model that has just been trained."""
    return {
        "version": version,
        "batch_nst": __version__,
        "architecture": architecture_of(recipe.train),
        "digests": digests,
        "objective": objective,
        "recipe": recipe.model_dump(),
        "snapshot": {"number": snapshot.first, "digest": snapshot.digest, "counts": snapshot.counts},
        "training": {
            "steps": recipe.train.steps,
            "init": fitted.init,
            "skipped": fitted.skipped,
            "history": fitted.history,
        },
    }


def find_cut_off(recipe: Recipe, store: Store) -> Snapshot | None:
    """The latest snapshot, if a training on it was interrupted and can be resumed."""
    snapshot = latest_snapshot(store)
    if not snapshot or not snapshot.counts["held_out"] or snapshot.done < recipe.train.min_done:
        return None
    version = training_version(recipe, snapshot)
    started = store.list(f"checkpoints/{version}") and registry.read_card(store, version) is None
    failed = store.exists(registry.model_object(version, registry.FAILED))
    return snapshot if started and not failed else None


def _find_start(recipe: Recipe, store: Store) -> ModelFiles | None:
    """The model of `train.init`; None: training starts from random weights.

    Raises:
        RecipeError: the model is missing or damaged, or has another architecture.
    """
    from batch_nst.pipelines.inference import read_start

    uri = recipe.train.init_model
    if uri is None:
        return None
    model = read_start(uri, store, "train.init", "training starts from random weights")
    wanted = architecture_of(recipe.train)
    if model and model.card["architecture"] != wanted:
        raise RecipeError(
            f"train.init: {uri}: the model's architecture is {model.card['architecture']}; allowed: "
            f"{wanted}, as the recipe's"
        )
    return model


def expected_end(seen: Sequence[tuple[datetime, int]], steps: int) -> datetime | None:
    """When a training of so many steps ends, by moments and the steps done then; None before two of them."""
    if len(seen) < 2 or seen[-1][1] <= seen[0][1]:
        return None
    (first, before), (last, done) = seen[0], seen[-1]
    return last + (last - first) * ((steps - done) / (done - before))


def _figures(card: ModelCard) -> TrainFigures:
    training = card["training"]
    losses = {name: value for name, value in training["history"][-1].items() if name != "step"}
    return TrainFigures(card["version"], training["steps"], cast(StepLosses, losses))
