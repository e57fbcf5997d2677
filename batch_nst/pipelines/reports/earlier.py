"""What the report of a night tells beside its model: its cost, the published model, earlier nights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

from batch_nst.console import log
from batch_nst.data.images.codec import encode
from batch_nst.data.images.sandbox import stored_picture
from batch_nst.data.models import registry
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.store import Store
from batch_nst.errors import StorageError, WeightsError
from batch_nst.pipelines.cost.requests import Traffic, generate_requests
from batch_nst.pipelines.reports.night import SHOWN, Triple

Figures = Mapping[str, Any]

_REPORT: Final = re.compile(r"runs/(\d{8}T\d{6}Z-\d{6,}-nightly)/report\.html")
_EARLIER: Final = 14
"""Nights that are linked, at most."""


def cost_of(made: Figures, traffic: Traffic, seconds: Mapping[str, float], workers: int) -> dict[str, Any]:
    """What a night took.

    Args:
        made: figures of `generate`.
        traffic: of its plan, before it began.
        seconds: of each step, `training` among them.
        workers: that trained at the most, with a device each.

    Returns:
        Figures: `device_hours`, of `pairs` while devices were busy, of `training` and `scoring` while they
        were held (on one, or as many as have made pairs tonight);
        `requests` to object stores for pairs, by the formula of `plan`; bytes of photos read and units
        written; `step_seconds`.
    """
    return {
        "device_hours": {
            "pairs": made["device_seconds"] / 3600,
            "training": seconds["training"] * workers / 3600,
            "scoring": seconds["scoring"] * max(1, made["devices"]) / 3600,
        },
        "requests": asdict(generate_requests(traffic, max(1, made["devices"]), made["seconds"])),
        "bytes_read": made["bytes_read"],
        "bytes_written": made["bytes_written"],
        "step_seconds": dict(seconds),
    }


def earlier_nights(store: Store, run: str) -> list[dict[str, Any]]:
    """The last nights that left a report before this run, the latest first.

    Returns:
        For each `link`, relative to the folder of a run; `started`, a date and time of UTC; and of its
        summary its `outcome`, and the `objective` of the model that met the gate.
    """
    found = [match for name in store.list("runs") if (match := _REPORT.fullmatch(name)) and match[1] < run]
    return [
        {
            "link": f"../{match[1]}/report.html",
            "started": started(match[1]),
            **_outcome(store, match[1]),
        }
        for match in reversed(found[-_EARLIER:])
    ]


def started(run: str) -> datetime:
    """When a run began, UTC, from its name."""
    return datetime.strptime(run.partition("-")[0], "%Y%m%dT%H%M%SZ")


def _outcome(store: Store, run: str) -> dict[str, Any]:
    """By its summary; a page whose run was killed before that, or whose summary is damaged, is linked too."""
    name = f"runs/{run}/summary.json"
    try:
        with intact(store, name):
            summary = read_document(store, name)
            objective = summary.get("model", {}).get("total")
    except (FileNotFoundError, StorageError):
        return {"outcome": "cut off"}
    if summary.get("published"):
        return {"outcome": "published", "objective": objective}
    if "refused" in summary:
        return {"outcome": "refused", "objective": objective}
    return {"outcome": "failed" if "error" in summary else "cut off"}


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
            losses={**triple.losses, "published": {"total": objectives.get(triple.id)}},
        )
        for triple in triples[:SHOWN]
    ]
