"""The fast model: fitted to a sealed snapshot, named by everything that decides it."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from batch_nst import __version__
from batch_nst.data import models
from batch_nst.data.snapshot import Snapshot, require_snapshot
from batch_nst.data.storage import Store
from batch_nst.data.style import read_style
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.pipelines.plan import check_recipe
from batch_nst.pipelines.progress import say
from batch_nst.recipe import Recipe

_NOT_IN_NAME = {"workers", "device", "precision", "checkpoint_steps", "min_done"}
"""Keys of `train` that say where and how often, not what."""


def train(recipe: Recipe, store: Store) -> dict[str, Any]:
    """Fit the model, or resume; a model that is finished is found, not fitted again. Needs the lease.

    Returns:
        Figures: version, steps, the last training losses.

    Raises:
        IncompleteError: there is no sealed dataset, too little of it is done, or it has no pair to train on.
        RecipeError: it has fewer pairs than a batch.
    """
    start = time.monotonic()
    settings = check_recipe(recipe, store)
    snapshot = require_snapshot(store, recipe.train.min_done)
    if not snapshot.counts["ok"]:
        raise IncompleteError(f"{store.uri}: snapshot {snapshot.number} has no pair to train on")
    if snapshot.counts["ok"] < recipe.train.batch_size:
        raise RecipeError(
            f"train.batch_size: given {recipe.train.batch_size}; {store.uri}: snapshot {snapshot.number} has "
            f"{snapshot.counts['ok']} pairs to train on; allowed: so many or fewer"
        )
    version = training_version(recipe, snapshot)
    card = models.read_card(store, version)
    if card is not None:
        say(f"model {version} is trained already")
        return _figures(card)

    from batch_nst.engine.model_files import model_bytes
    from batch_nst.pipelines import cluster
    from batch_nst.pipelines.fit import fit

    cluster.connect()
    cluster.check_output_is_shared(store)
    workers = cluster.choose_trainers(recipe.train)
    say(
        f"training {version} on {snapshot.counts['ok']} pairs: {recipe.train.steps} steps of "
        f"{recipe.train.batch_size}, {recipe.train.workers} workers on {workers.device}"
    )
    fitted = fit(recipe, store, snapshot, read_style(recipe.style), version, workers)
    if fitted.skipped:
        say(f"{fitted.skipped} steps were skipped: there was no number in their gradients")
    digest = models.write_part(store, version, models.WEIGHTS, model_bytes(fitted.net))
    card = {
        "version": version,
        "batch_nst": __version__,
        "architecture": {"name": "johnson", "width": recipe.train.width},
        "digests": {
            models.WEIGHTS: digest,
            "style": settings["style"]["sha256"],
            "vgg": settings["vgg"]["sha256"],
        },
        "objective": {
            "loss": settings["loss"],
            "style_size": settings["style"]["size"],
            "vgg_input": settings["vgg"]["input"],
            "gram_divisor": settings["gram_divisor"],
        },
        "recipe": recipe.model_dump(),
        "snapshot": {"number": snapshot.number, "digest": snapshot.digest, "counts": snapshot.counts},
        "training": {
            "steps": recipe.train.steps,
            "skipped": fitted.skipped,
            "history": fitted.history,
        },
    }
    models.write_card(store, version, card)
    return {**_figures(card), "seconds": round(time.monotonic() - start, 1)}


def training_version(recipe: Recipe, snapshot: Snapshot) -> str:
    """The name of a model: its snapshot's number and a hash of all that decides its weights."""
    decides = {
        "snapshot": snapshot.digest,
        "loss": recipe.loss.model_dump(),
        "vgg": recipe.vgg.model_dump(),
        "train": recipe.train.model_dump(exclude=_NOT_IN_NAME),
    }
    digest = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=6)
    return f"{snapshot.number:06}-{digest.hexdigest()}"


def _figures(card: dict[str, Any]) -> dict[str, Any]:
    last = card["training"]["history"][-1]
    return {
        "version": card["version"],
        "steps": card["training"]["steps"],
        "training": {name: value for name, value in last.items() if name != "step"},
    }
