"""The pages of runs, gathered from the output: scores, dataset, training curve, cost, and nights before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from batch_nst import __version__
from batch_nst.console import log
from batch_nst.data.dataset import units
from batch_nst.data.dataset.snapshot import Snapshot, require_snapshot, unit_pairs
from batch_nst.data.images.codec import encode
from batch_nst.data.images.sandbox import stored_picture
from batch_nst.data.images.style import MAX_BYTES
from batch_nst.data.models import registry
from batch_nst.data.models.registry import CurvePoint
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.fetch import fetch
from batch_nst.data.storage.store import Store
from batch_nst.errors import StorageError, WeightsError
from batch_nst.figures import as_json
from batch_nst.pipelines.cost.requests import Traffic, generate_requests
from batch_nst.pipelines.generate.run import GenerateFigures
from batch_nst.pipelines.reports.html import ENVIRONMENT, BadPhoto, settings
from batch_nst.pipelines.reports.night import (
    SHOWN,
    Cost,
    DatasetFacts,
    DeviceHours,
    EarlierNight,
    Night,
    Report,
    ScoredModel,
    Triple,
    render,
)
from batch_nst.recipe import Recipe

_UNITS = 200
"""Units whose losses are drawn and whose bad photos are listed; a report is no database."""

_PAIRS = 8

_REPORT: Final = re.compile(r"runs/(\d{8}T\d{6}Z-\d{6,}-nightly)/report\.html")
_EARLIER: Final = 14
"""Nights that are linked, at most."""

_FAILURE = ENVIRONMENT.get_template("failure.html.j2")


def report_of(
    recipe: Recipe, store: Store, scored: ScoredModel, about: object, night: Night | None = None
) -> str:
    """The HTML of a scored model's report; of a night that has met the gate, with that one's figures.

    `about` is what is said of every run, its name as `run` among it.
    """
    facts = as_json(about)
    run = str(facts["run"])
    snapshot = require_snapshot(store)
    card = registry.require_card(store, scored.version)
    rival = _rival_of(night.gate) if night else None
    triples = beside_published(scored.triples, store, rival) if rival else scored.triples
    dataset, engines = _dataset(store, snapshot)
    return render(
        Report(
            title=_name_of(recipe) if night else f"{_name_of(recipe)}, model {scored.version}",
            style=fetch(recipe.style.image, MAX_BYTES),
            triples=triples,
            evaluation=scored.evaluation,
            speed=scored.speed,
            history=card["training"]["history"],
            dataset=dataset,
            run={**facts, "engine": engines, "batch_nst": __version__},
            recipe=settings(recipe.model_dump()),
            pairs=_pairs(store, snapshot),
            panel=registry.panel_columns(store, scored.version),
            night=night,
            started=started(run),
            rival=registry.require_card(store, rival)["evaluation"] if rival else None,
            earlier=earlier_nights(store, run),
        )
    )


def training_page(
    recipe: Recipe, store: Store, version: str, history: Sequence[CurvePoint], step: int
) -> str:
    """The HTML of a training under way: its curves, and the panel as far as it has been painted."""
    return render(
        Report(
            title=f"{_name_of(recipe)}, step {step} of {recipe.train.steps}",
            style=fetch(recipe.style.image, MAX_BYTES),
            history=history,
            run={"model": version, "step": step, "steps": recipe.train.steps, "batch_nst": __version__},
            recipe=settings(recipe.model_dump()),
            panel=registry.panel_columns(store, version),
        )
    )


def failure_page(
    recipe: Recipe,
    store: Store,
    why: str,
    dataset: object,
    step_seconds: Mapping[str, float],
    about: object,
) -> str:
    """The HTML of a night that failed, which has no model to show.

    Args:
        recipe: its recipe.
        store: its output.
        why: the reason, a sentence without its stop.
        dataset: figures of `generate`, as far as it came.
        step_seconds: of the steps that have ended, and of the one that failed.
        about: what is said of every run, its name as `run` among it.
    """
    facts, current = as_json(about), registry.current(store)
    run = str(facts["run"])
    return _FAILURE.render(
        title=_name_of(recipe),
        started=started(run),
        why=why,
        published=current and current["version"],
        dataset=as_json(dataset),
        step_seconds=step_seconds,
        earlier=earlier_nights(store, run),
        recipe=recipe.model_dump(),
        run={**facts, "batch_nst": __version__},
    )


def cost_of(made: GenerateFigures, traffic: Traffic, seconds: Mapping[str, float], workers: int) -> Cost:
    """What a night took.

    Args:
        made: figures of `generate`.
        traffic: of its plan, before it began.
        seconds: of each step, `training` among them.
        workers: that trained at the most, with a device each; scoring held one, or as many as have made pairs
            tonight.
    """
    devices = max(1, made.devices)
    return Cost(
        device_hours=DeviceHours(
            pairs=made.device_seconds / 3600,
            training=seconds["training"] * workers / 3600,
            scoring=seconds["scoring"] * devices / 3600,
        ),
        requests=generate_requests(traffic, devices, made.seconds),
        bytes_read=made.bytes_read,
        bytes_written=made.bytes_written,
        step_seconds=dict(seconds),
    )


def earlier_nights(store: Store, run: str) -> list[EarlierNight]:
    """The last nights that left a report before this run, the latest first."""
    found = [match for name in store.list("runs") if (match := _REPORT.fullmatch(name)) and match[1] < run]
    return [_earlier_night(store, match[1]) for match in reversed(found[-_EARLIER:])]


def _earlier_night(store: Store, run: str) -> EarlierNight:
    """By its summary; a page whose run was killed before that, or whose summary is damaged, is linked too."""
    name, night = f"runs/{run}/summary.json", EarlierNight(f"../{run}/report.html", started(run), "cut off")
    try:
        with intact(store, name):
            summary = read_document(store, name)
            objective = summary.get("model", {}).get("total")
    except (FileNotFoundError, StorageError):
        return night
    if summary.get("published"):
        return replace(night, outcome="published", objective=objective)
    if "refused" in summary:
        return replace(night, outcome="refused", objective=objective)
    return replace(night, outcome="failed") if "error" in summary else night


def started(run: str) -> datetime:
    """When a run began, UTC, from its name."""
    return datetime.strptime(run.partition("-")[0], "%Y%m%dT%H%M%SZ")


def beside_published(triples: Sequence[Triple], store: Store, version: str) -> list[Triple]:
    """The first `SHOWN` of them with the published model's picture, and its objective as its card tells it.

    A model that is damaged is told and shows nothing: the night has met the gate without its weights.
    """
    import torch

    from batch_nst.engine.model_io import load_net, stylize_image

    card = registry.require_card(store, version)
    try:
        net = load_net(registry.read_weights(store, version), card)
    except WeightsError as error:
        log(f"published {version}: {error}; the report shows none of its pictures")
        return list(triples)
    objectives = card["evaluation"]["objectives"]
    return [
        replace(
            triple,
            published=encode(
                stylize_image(net, torch.from_numpy(stored_picture(triple.photo).copy())).numpy(), "webp"
            ),
            published_objective=objectives.get(triple.id),
        )
        for triple in triples[:SHOWN]
    ]


def _rival_of(gate: object) -> str | None:
    """The version that the gate compared with."""
    match as_json(gate):
        case {"compared": {"published": {"version": str(version)}}}:
            return version
    return None


def _dataset(store: Store, snapshot: Snapshot) -> tuple[DatasetFacts, str]:
    """What the page says of a snapshot, and the engines that made its pairs; by some of its units."""
    some = snapshot.units[:: max(1, len(snapshot.units) // _UNITS)]
    columns = ["uri", "status", "reason", "detail", "total_loss", "engine"]
    rows = [row for unit in some for row in units.read_unit(store, unit["unit"], columns)]
    good = [row for row in rows if row["status"] == "ok"]
    facts = DatasetFacts(
        images=sum(snapshot.counts.values()),
        counts=snapshot.counts,
        bad=[
            BadPhoto(row["uri"], row["status"], row["reason"] or "", row["detail"] or "")
            for row in rows
            if row["status"] != "ok"
        ],
        total_loss=[row["total_loss"] or 0.0 for row in good],
        snapshot=snapshot.number,
        digest=snapshot.digest,
    )
    return facts, ", ".join(sorted({row["engine"] or "" for row in good}))


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
