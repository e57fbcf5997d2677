"""The ONNX graph beside the weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from batch_nst.console import log
from batch_nst.data.dataset.manifest import check_recipe
from batch_nst.data.dataset.snapshot import require_snapshot
from batch_nst.data.models import registry
from batch_nst.data.models.registry import training_version
from batch_nst.data.storage.store import Store
from batch_nst.recipe import Recipe


@dataclass(frozen=True)
class ExportFigures:
    """Figures of `batch-nst export`."""

    version: str
    model: str
    """URI of `model.onnx`."""


def export(recipe: Recipe, store: Store) -> ExportFigures:
    """Write `model.onnx` of this recipe's model; one that is there and whole is kept. Needs the lease.

    Raises:
        IncompleteError: there is no dataset or no model.
        RecipeError: the onnx extra is not installed.
        WeightsError: the model is damaged.
    """
    check_recipe(recipe, store)
    version = training_version(recipe, require_snapshot(store))
    card = registry.require_card(store, version)
    name = registry.model_object(version, registry.GRAPH)
    expected = card["digests"].get(registry.GRAPH)
    if expected is None or _digest(store, name) != expected:
        if expected is not None:
            log(f"{store.join(name)}: is gone, or not what {registry.CARD} says; it is written again")
        from batch_nst.engine.model_io import load_net, onnx_bytes

        net = load_net(registry.read_weights(store, version), card)
        card["digests"][registry.GRAPH] = registry.write_part(store, version, registry.GRAPH, onnx_bytes(net))
        registry.write_card(store, version, card)
    return ExportFigures(version, store.join(name))


def _digest(store: Store, name: str) -> str | None:
    """Of an object; None where there is none."""
    try:
        return hashlib.sha256(store.read(name)).hexdigest()
    except FileNotFoundError:
        return None
