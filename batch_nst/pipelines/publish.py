"""The gate: a candidate becomes `models/CURRENT` only if it is better than what is there."""

from __future__ import annotations

import math
from typing import Any

from batch_nst.data import models
from batch_nst.data.storage import Store
from batch_nst.errors import GateError
from batch_nst.recipe import Publish


def publish(version: str, settings: Publish, store: Store, token: int) -> dict[str, Any]:
    """Publish an evaluated version, or refuse it. Needs the lease, whose token the pointer carries.

    Returns:
        Figures: what is published now, and what before.

    Raises:
        GateError: not better than the published one by the margin, or above `max_objective`; with figures.
    """
    now = models.current(store)
    if now and now["version"] == version:
        return {"version": version, "published": True, "previous": now["previous"]}
    card = models.require_card(store, version)
    objective = card["evaluation"]["model"]["total"]
    if not math.isfinite(objective):
        raise GateError(f"{version}: its objective on held-out photos is {objective}; not published")
    if settings.max_objective is not None and objective > settings.max_objective:
        raise GateError(
            f"{version}: objective {objective:,.0f} on held-out photos; publish.max_objective allows "
            f"{settings.max_objective:,.0f}; not published"
        )
    if now:
        before = models.require_card(store, now["version"])
        objective, published = _on_common_photos(card["evaluation"], before["evaluation"])
        if not objective < published * (1 - settings.margin):
            raise GateError(
                f"{version}: objective {objective:,.0f} on held-out photos; published {now['version']} has "
                f"{published:,.0f}, publish.margin {settings.margin:g}; not published"
            )
    pointer = models.point(store, version, card["digests"], token)
    return {"version": version, "published": True, "previous": pointer["previous"]}


def _on_common_photos(candidate: dict[str, Any], published: dict[str, Any]) -> tuple[float, float]:
    """Geometric means of both models' objectives over the held-out photos that both were scored on."""
    common = sorted(candidate["objectives"].keys() & published["objectives"].keys())
    if not common:
        raise GateError("candidate and published model were scored on no photo in common; not published")
    means = (
        math.exp(sum(math.log(evaluation["objectives"][photo]) for photo in common) / len(common))
        for evaluation in (candidate, published)
    )
    return next(means), next(means)
