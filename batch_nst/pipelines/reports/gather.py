"""What a report tells, gathered from the output: dataset, training curve, pairs, and the run itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batch_nst import __version__
from batch_nst.data.dataset import units
from batch_nst.data.dataset.snapshot import Snapshot, require_snapshot, unit_pairs
from batch_nst.data.images.style import MAX_BYTES
from batch_nst.data.models import registry
from batch_nst.data.storage.fetch import fetch
from batch_nst.data.storage.store import Store
from batch_nst.pipelines.reports.earlier import beside_published, earlier_nights, started
from batch_nst.pipelines.reports.html import ENVIRONMENT
from batch_nst.pipelines.reports.night import Triple, render
from batch_nst.recipe import Recipe

_UNITS = 200
"""Units whose losses are drawn and whose bad photos are listed; a report is no database."""

_PAIRS = 8

_FAILURE = ENVIRONMENT.get_template("failure.html.j2")


def report_of(
    recipe: Recipe,
    store: Store,
    evaluation: Mapping[str, Any],
    triples: Sequence[Triple],
    run: Mapping[str, Any],
    night: Mapping[str, Any] | None = None,
) -> str:
    """The HTML of an evaluated model's report; of a night that has met the gate, with that one's figures."""
    snapshot = require_snapshot(store)
    if night and night.get("compared"):
        triples = beside_published(triples, store, night["compared"]["published"]["version"])
    card = registry.require_card(store, evaluation["version"])
    some = snapshot.units[:: max(1, len(snapshot.units) // _UNITS)]
    columns = ["uri", "status", "reason", "detail", "total_loss", "engine"]
    rows = [row for unit in some for row in units.read_unit(store, unit["unit"], columns)]
    good = [row for row in rows if row["status"] == "ok"]
    return render(
        title=_name_of(recipe) if night else f"{_name_of(recipe)}, model {card['version']}",
        style=fetch(recipe.style.image, MAX_BYTES),
        triples=triples,
        evaluation=evaluation,
        history=card["training"]["history"],
        dataset={
            "images": sum(snapshot.counts.values()),
            "counts": snapshot.counts,
            "bad": [row for row in rows if row["status"] != "ok"],
            "total_loss": [row["total_loss"] for row in good],
            "snapshot": snapshot.number,
            "digest": snapshot.digest,
        },
        run={**run, "engine": ", ".join(sorted({row["engine"] for row in good})), "batch_nst": __version__},
        recipe=recipe.model_dump(),
        pairs=_pairs(store, snapshot),
        panel=registry.panel_columns(store, card["version"]),
        night=night and {**night, "started": started(run["run"]), "rival": _rival(night, store)},
        earlier=earlier_nights(store, run["run"]),
    )


def training_page(
    recipe: Recipe, store: Store, version: str, history: Sequence[Mapping[str, float]], step: int
) -> str:
    """The HTML of a training under way: its curves, and the panel as far as it has been painted."""
    return render(
        title=f"{_name_of(recipe)}, step {step} of {recipe.train.steps}",
        style=fetch(recipe.style.image, MAX_BYTES),
        triples=[],
        evaluation={},
        history=history,
        dataset={},
        run={"model": version, "step": step, "steps": recipe.train.steps, "batch_nst": __version__},
        recipe=recipe.model_dump(),
        panel=registry.panel_columns(store, version),
    )


def failure_page(
    recipe: Recipe,
    store: Store,
    why: str,
    figures: Mapping[str, Any],
    step_seconds: Mapping[str, float],
    run: Mapping[str, Any],
) -> str:
    """The HTML of a night that failed, which has no model to show.

    Args:
        recipe: its recipe.
        store: its output.
        why: the reason, a sentence without its stop.
        figures: of its steps that have ended, and of the one that failed.
        step_seconds: of each of them.
        run: what is told of every run.
    """
    current = registry.current(store)
    return _FAILURE.render(
        title=_name_of(recipe),
        started=started(run["run"]),
        why=why,
        published=current and current["version"],
        dataset=figures.get("dataset", figures),
        step_seconds=step_seconds,
        earlier=earlier_nights(store, run["run"]),
        recipe=recipe.model_dump(),
        run={**run, "batch_nst": __version__},
    )


def _rival(night: Mapping[str, Any], store: Store) -> Mapping[str, Any]:
    """The evaluation of the model that the gate compared with, as its card tells it; empty: none."""
    compared = night.get("compared")
    if not compared:
        return {}
    return dict(registry.require_card(store, compared["published"]["version"])["evaluation"])


def _name_of(recipe: Recipe) -> str:
    """The painting's, for people."""
    return recipe.style.image.rsplit("/", 1)[-1].rsplit(".", 1)[0].replace("_", " ")


def _pairs(store: Store, snapshot: Snapshot) -> list[tuple[str, bytes, bytes]]:
    """A few training pairs, from units spread over the snapshot."""
    trained = [unit["unit"] for unit in snapshot.units if unit["ok"]]
    shown: list[tuple[str, bytes, bytes]] = []
    for unit in trained[:: max(1, len(trained) // _PAIRS)][:_PAIRS]:
        row = next(unit_pairs(store, snapshot, unit, "train"))
        shown.append((row["uri"].rsplit("/", 1)[-1], row["content"]["bytes"], row["stylized"]["bytes"]))
    return shown
