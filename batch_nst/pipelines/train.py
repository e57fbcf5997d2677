"""The fast model: fitted to a sealed snapshot, named by everything that decides it."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from batch_nst import __version__
from batch_nst.data import models
from batch_nst.data.snapshot import Snapshot, latest_snapshot, require_snapshot
from batch_nst.data.storage import Store
from batch_nst.data.style import read_style
from batch_nst.errors import IncompleteError, RecipeError, StorageError
from batch_nst.pipelines.plan import check_recipe
from batch_nst.pipelines.progress import say
from batch_nst.recipe import Recipe, Train

if TYPE_CHECKING:
    from batch_nst.pipelines.fast_model import ModelFiles
    from batch_nst.pipelines.training import History

_NOT_IN_NAME = {"workers", "device", "precision", "checkpoint_steps", "min_done"}
"""Keys of `train` that say where and how often, not what."""
_LATER = {"init", "network"}
"""Keys that came later: names from before they were there stay what they are."""


def train(recipe: Recipe, store: Store) -> dict[str, Any]:
    """Fit the model, or resume; a model that is finished is found, not fitted again. Needs the lease.

    Returns:
        Figures: version, steps, the last training losses; and how fast and busy it was, see `Fitted.pace`.

    Raises:
        IncompleteError: there is no sealed dataset, too little of it is done, or it has no pair to train on
            or no held-out one; or gradients that are no numbers ended the training.
        RecipeError: it has fewer pairs than a batch; or the model that training should start from is not
            there, or is of another architecture.
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
    if not snapshot.counts["held_out"]:
        pending = snapshot.counts["pending"]
        raise IncompleteError(
            f"{store.uri}: snapshot {snapshot.number} has {snapshot.counts['ok']} pairs to train on and no "
            f"held-out one to score a model on, {pending} images are pending; needed: 1; "
            f"{'run `batch-nst generate` again' if pending else 'add photos'}"
        )
    version = training_version(recipe, snapshot)
    card = models.read_card(store, version)
    if card is not None:
        say(f"model {version} is trained already")
        return _figures(card)

    from batch_nst.engine.model_files import model_bytes
    from batch_nst.pipelines import cluster
    from batch_nst.pipelines.fit import Task, fit
    from batch_nst.pipelines.training_log import PAGE

    start_model = _find_start(recipe, store)
    cluster.connect()
    cluster.check_output_is_shared(store)
    workers = cluster.choose_trainers(recipe.train)
    fewest, most = recipe.train.worker_range
    say(
        f"training {version} on {snapshot.counts['ok']} pairs: {recipe.train.steps} steps of "
        f"{recipe.train.batch_size}, {fewest if fewest == most else f'{fewest} to {most}'} workers on "
        f"{workers.device}, from {f'model {start_model.name}' if start_model else 'random weights'}"
    )
    page = models.model_object(version, PAGE)

    def show(history: History, step: int) -> None:
        from batch_nst.pipelines.journal import training_page

        try:
            store.replace(page, training_page(recipe, store, version, history, step).encode())
        except StorageError as error:  # training itself does not need it
            say(f"{error}; the page of the training is not up to date")

    show([], 0)
    say(f"how it comes along: {store.join(page)}")
    fitted = fit(Task(recipe, store, snapshot, read_style(recipe.style), version, start_model, workers), show)
    show(fitted.history, recipe.train.steps)
    if fitted.skipped:
        say(f"{fitted.skipped} steps were skipped: there was no number in their gradients")
    if pace := fitted.pace:
        say(
            f"{pace['steps_per_second']:.2f} steps/s, {pace['images_per_second']:.1f} images/s after "
            f"{pace['start_up_seconds']:.1f} s of start-up; of that time {pace['busy']:.1%} computing, "
            f"{pace['waiting']:.1%} waiting for pairs, {pace['writing']:.1%} writing checkpoints and pictures"
        )
    digest = models.write_part(store, version, models.WEIGHTS, model_bytes(fitted.net))
    card = {
        "version": version,
        "batch_nst": __version__,
        "architecture": _architecture(recipe.train),
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
        "snapshot": {"number": snapshot.first, "digest": snapshot.digest, "counts": snapshot.counts},
        "training": {
            "steps": recipe.train.steps,
            "init": fitted.init,
            "skipped": fitted.skipped,
            "history": fitted.history,
        },
    }
    models.write_card(store, version, card)
    return {**_figures(card), "pace": fitted.pace, "seconds": round(time.monotonic() - start, 1)}


def find_cut_off(recipe: Recipe, store: Store) -> Snapshot | None:
    """The latest snapshot, if `train` has begun with it, come to no model yet, and would go on to one."""
    snapshot = latest_snapshot(store)
    if not snapshot or not snapshot.counts["held_out"] or snapshot.done < recipe.train.min_done:
        return None
    version = training_version(recipe, snapshot)
    begun = store.list(f"checkpoints/{version}") and models.read_card(store, version) is None
    failed = store.exists(models.model_object(version, models.FAILED))
    return snapshot if begun and not failed else None


def _find_start(recipe: Recipe, store: Store) -> ModelFiles | None:
    """The model of `train.init`; None: training starts from random weights.

    Raises:
        RecipeError: there is no such model or output, its files do not belong together, or it is of another
            architecture.
    """
    from batch_nst.pipelines.fast_model import read_start

    uri = recipe.train.init_model
    if uri is None:
        return None
    model = read_start(uri, store, "train.init", "training starts from random weights")
    wanted = _architecture(recipe.train)
    if model and model.card["architecture"] != wanted:
        raise RecipeError(
            f"train.init: {uri}: the model's architecture is {model.card['architecture']}; allowed: "
            f"{wanted}, as the recipe's"
        )
    return model


def _architecture(settings: Train) -> dict[str, Any]:
    """As it stands in `model.json`."""
    return {"name": settings.network, "width": settings.width}


def training_version(recipe: Recipe, snapshot: Snapshot) -> str:
    """The name of a model: its snapshot's number and a hash of all that decides its weights.

    That is the number of the first snapshot with these pairs: where photos have come of which none is made
    yet, there is a new snapshot, and nothing new to learn.

    A model that training starts from is in it by its address: that of an output means another model once a
    better one is published there, and a training that is done is not done again for that.
    """
    usual = {name for name in _LATER if getattr(recipe.train, name) == Train.model_fields[name].default}
    decides = {
        "snapshot": snapshot.digest,
        "loss": recipe.loss.model_dump(),
        "vgg": recipe.vgg.model_dump(),
        "train": recipe.train.model_dump(exclude=_NOT_IN_NAME | usual),
    }
    digest = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=6)
    return f"{snapshot.first:06}-{digest.hexdigest()}"


def _figures(card: dict[str, Any]) -> dict[str, Any]:
    last = card["training"]["history"][-1]
    return {
        "version": card["version"],
        "steps": card["training"]["steps"],
        "training": {name: value for name, value in last.items() if name != "step"},
    }
