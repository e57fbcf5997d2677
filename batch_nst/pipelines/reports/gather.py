"""Gather the pages of runs from the output: scores, dataset, training curve, cost and earlier runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from batch_nst import __version__
from batch_nst.console import warn
from batch_nst.data.dataset import units
from batch_nst.data.dataset.records import BadPhoto
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
from batch_nst.pipelines.reports.html import ENVIRONMENT, settings
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
"""Maximum number of units whose losses are plotted and whose bad photos are listed."""

_PAIRS = 8

_REPORT: Final = re.compile(r"runs/(\d{8}T\d{6}Z-\d{6,}-nightly)/report\.html")
_EARLIER: Final = 14
"""Maximum number of earlier runs that are linked."""

_FAILURE = ENVIRONMENT.get_template("failure.html.j2")


def report_of(
    recipe: Recipe, store: Store, scored: ScoredModel, about: object, night: Night | None = None
) -> str:
    """The HTML of the report on a scored model; `night` adds the figures of a run of `nightly`.

    `about` holds the facts about the run, a dataclass or mapping with its name as `run`.
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
            model=shlex.quote(store.join(f"models/{scored.version}")),
            page=recipe.publish.page,
            pairs=_pairs(store, snapshot),
            panel=registry.panel_columns(store, scored.version),
            night=night,
            started=started(run),
            rival=registry.require_card(store, rival)["evaluation"] if rival else None,
            earlier=earlier_nights(store, run),
        )
    )


def training_page(
    recipe: Recipe,
    store: Store,
    version: str,
    history: Sequence[CurvePoint],
    step: int,
    ends: datetime | None = None,
) -> str:
    """The HTML of a training: its curves, the panel so far, and when it ends if that is known (UTC)."""
    return render(
        Report(
            title=f"{_name_of(recipe)}, step {step} of {recipe.train.steps}",
            style=fetch(recipe.style.image, MAX_BYTES),
            history=history,
            run={"model": version, "step": step, "steps": recipe.train.steps, "batch_nst": __version__},
            recipe=settings(recipe.model_dump()),
            panel=registry.panel_columns(store, version),
            under_way=step < recipe.train.steps,
            ends=ends,
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
    """The HTML of a run of `nightly` that failed and has no model to show.

    Args:
        recipe: the recipe.
        store: the output.
        why: the reason, a sentence without the full stop.
        dataset: figures of `generate` so far.
        step_seconds: seconds of the steps that ended, and of the one that failed.
        about: facts about the run, a dataclass or mapping with its name as `run`.
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
    """The cost of a run of `nightly`.

    Args:
        made: figures of `generate`.
        traffic: traffic of the plan, before pairs were made.
        seconds: seconds of each step, with keys `training` and `scoring`.
        workers: maximum number of training workers, with a device each. Scoring held as many devices as made
            pairs in this run, and at least one.
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
    """The last runs of `nightly` with a report before this run, the latest first."""
    found = [match for name in store.list("runs") if (match := _REPORT.fullmatch(name)) and match[1] < run]
    return [_earlier_night(store, match[1]) for match in reversed(found[-_EARLIER:])]


def _earlier_night(store: Store, run: str) -> EarlierNight:
    """An earlier run by its summary; it counts as cut off if the summary is missing or damaged."""
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
    """The start of a run, UTC, from its name."""
    return datetime.strptime(run.partition("-")[0], "%Y%m%dT%H%M%SZ")


def beside_published(triples: Sequence[Triple], store: Store, version: str) -> list[Triple]:
    """The first `SHOWN` triples with the stylized image and the objective of the published model.

    If the weights of that model are damaged, a line is logged and the triples stay as they are.
    """
    import torch

    from batch_nst.engine.fast_model.model_io import load_net, stylize_image

    card = registry.require_card(store, version)
    try:
        net = load_net(registry.read_weights(store, version), card)
    except WeightsError as error:
        warn(f"published {version}: {error}; the report shows none of its pictures")
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
    """The published version that the gate compared with; None if it did not compare."""
    match as_json(gate):
        case {"compared": {"published": {"version": str(version)}}}:
            return version
    return None


def _dataset(store: Store, snapshot: Snapshot) -> tuple[DatasetFacts, str]:
    """Facts about a snapshot, and the engines that made its pairs, from some of its units."""
    some = snapshot.units[:: max(1, len(snapshot.units) // _UNITS)]
    columns = ["uri", "split", "status", "reason", "detail", "total_loss", "engine"]
    found = {unit["unit"]: units.read_unit(store, unit["unit"], columns) for unit in some}
    every = [row for rows in found.values() for row in rows]
    good = [row for row in every if row["status"] == "ok" and row["split"] != "unpaired"]
    facts = DatasetFacts(
        images=sum(snapshot.counts.values()),
        counts=snapshot.counts,
        bad=[
            BadPhoto.of_row(row, unit)
            for unit, rows in found.items()
            for row in rows
            if row["status"] != "ok"
        ],
        total_loss=[row["total_loss"] or 0.0 for row in good],
        snapshot=snapshot.number,
        digest=snapshot.digest,
    )
    return facts, ", ".join(sorted({row["engine"] or "" for row in good}))


def _name_of(recipe: Recipe) -> str:
    """The name of the style image, for people."""
    return recipe.style.image.rsplit("/", 1)[-1].rsplit(".", 1)[0].replace("_", " ")


def _pairs(store: Store, snapshot: Snapshot) -> list[tuple[str, bytes, bytes]]:
    """A few training pairs from units spread over the snapshot."""
    trained = [unit["unit"] for unit in snapshot.units if unit["ok"]]
    shown: list[tuple[str, bytes, bytes]] = []
    for unit in trained[:: max(1, len(trained) // _PAIRS)][:_PAIRS]:
        row = next(unit_pairs(store, snapshot, unit, "train"))
        shown.append((row["uri"].rsplit("/", 1)[-1], row["content"]["bytes"], row["stylized"]["bytes"]))
    return shown
