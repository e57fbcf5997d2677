"""The command `export`: the ONNX graph of a model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_nst.console import log
from batch_nst.data.dataset.manifest import check_recipe
from batch_nst.data.dataset.snapshot import require_snapshot
from batch_nst.data.models import registry
from batch_nst.data.models.registry import training_version
from batch_nst.data.storage.store import Store
from batch_nst.figures import omitted
from batch_nst.recipe import Recipe

if TYPE_CHECKING:
    from batch_nst.pipelines.reports.painter import PagePlace


@dataclass(frozen=True)
class ExportFigures:
    """Figures of `batch-nst export`."""

    version: str
    model: str
    """URI of `model.onnx`."""
    page: str | None = omitted()
    """Path of the page's `index.html`."""


def export(recipe: Recipe, store: Store, place: PagePlace | None = None) -> ExportFigures:
    """Write `model.onnx` of this recipe's model, unless an undamaged one exists. Needs the lease.

    With `place`, the page that paints in a browser is written there too.

    Raises:
        IncompleteError: the dataset or the model does not exist yet.
        RecipeError: the page cannot be written.
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
        from batch_nst.engine.fast_model.network import read_architecture, read_weights
        from batch_nst.engine.fast_model.onnx_graph import onnx_bytes

        weights = read_weights(registry.read_weights(store, version), card)
        graph = onnx_bytes(weights, read_architecture(card)["name"])
        card["digests"][registry.GRAPH] = registry.write_part(store, version, registry.GRAPH, graph)
        registry.write_card(store, version, card)
    if place is None:
        return ExportFigures(version, store.join(name))
    from batch_nst.pipelines.reports.painter import PageModel, title_of, write_page

    page = write_page(place, [PageModel(title_of(recipe.style.image), card, store.read(name))])
    return ExportFigures(version, store.join(name), str(page))


def _digest(store: Store, name: str) -> str | None:
    """SHA-256 of an object in hex; None if the object is missing."""
    try:
        return hashlib.sha256(store.read(name)).hexdigest()
    except FileNotFoundError:
        return None
