"""The gate: a candidate becomes `models/CURRENT` only if it is better than what is there.

What it decides follows from two models' cards, the pointer and the recipe alone. So it can be asked at any
time whether a refusal still stands, and nothing is trained or scored for that.
"""

from __future__ import annotations

import math
from typing import Any

from batch_nst.data.models import registry
from batch_nst.data.storage.store import Store
from batch_nst.errors import GateError
from batch_nst.recipe import Publish

Figures = dict[str, Any]

REFUSED = "refused"
"""The key of `model.json` that marks a refused candidate, with the reason and the figures."""
UNREPORTED = "unreported"
"""Beside it while a night meets the gate, until there is a report of what came of it."""


def publish(version: str, settings: Publish, store: Store, token: int) -> Figures:
    """Publish an evaluated version, or refuse and mark it. Needs the lease, whose token the pointer carries.

    Returns:
        Figures: what is published now, and what before; and, where there was one before, what the gate
        `compared`, see `_comparison`; so too where a night that was cut off has published it.

    Raises:
        GateError: a photo's objective is no number, the whole is above `max_objective`, not better than the
            published one by the margin, or was withdrawn by `rollback`; with figures.
    """
    now = registry.current(store)
    card = registry.require_card(store, version)
    if now and now["version"] == version:
        return _published(now) | _told(_comparison(card, _before(now, store), settings, store))
    mark, compared = card.pop(REFUSED, None), _comparison(card, now, settings, store)
    refusal = _refusal(card, now, settings, compared)
    if refusal:
        if not _is_withdrawn(version, now):
            registry.write_card(store, version, {**card, REFUSED: refusal})
        raise GateError(refusal["why"], _refused(version, refusal, compared))
    if mark:  # before the pointer moves: what is published is never marked
        registry.write_card(store, version, card)
    figures = _published(registry.point(store, version, card["digests"], token))
    return figures | _told(compared)


def decided(version: str, settings: Publish, store: Store) -> Figures | None:
    """What `publish` has come to, and would again; None where something is left to do for this version.

    That is: it is not trained, scored and exported, it has not met the gate, no report tells what came of it,
    or the gate would say otherwise now, as its limits, the published model or the scores have changed.
    """
    card = registry.read_card(store, version)
    if card is None or "evaluation" not in card or registry.GRAPH not in card["digests"]:
        return None
    if store.exists(registry.model_object(version, UNREPORTED)):
        return None
    now = registry.current(store)
    if now and now["version"] == version:
        return _published(now)
    compared = _comparison(card, now, settings, store)
    refusal = _refusal(card, now, settings, compared)
    if refusal and (refusal == card.get(REFUSED) or _is_withdrawn(version, now)):
        return _refused(version, refusal, compared)
    return None


def _published(pointer: Figures) -> Figures:
    return {"version": pointer["version"], "published": True, "previous": pointer["previous"]}


def _refused(version: str, refusal: Figures, compared: Figures | None) -> Figures:
    return {"version": version, "published": False, REFUSED: refusal} | _told(compared)


def _told(compared: Figures | None) -> Figures:
    return {"compared": compared} if compared else {}


def _before(now: Figures, store: Store) -> Figures | None:
    """The model that the published one was better than; None: there was none, it is withdrawn, or gone."""
    version = now["previous"]
    if version is None or _is_withdrawn(version, now) or registry.read_card(store, version) is None:
        return None
    return {"version": version}


def _is_withdrawn(version: str, now: Figures | None) -> bool:
    """By the pointer, which says it alone: in the card it would have to be undone."""
    return now is not None and version in now.get("withdrawn", ())


def _comparison(card: Figures, now: Figures | None, settings: Publish, store: Store) -> Figures | None:
    """What the gate weighs; None: nothing is published, or the candidate is broken.

    Returns:
        Figures: how many `photos` both were scored on; if any, the geometric means of the candidate's
        `objective` and of the `published` one's on them, with its `version`; and the `margin`.
    """
    objectives = card["evaluation"]["objectives"]
    if now is None or _broken(objectives):
        return None
    theirs = registry.require_card(store, now["version"])["evaluation"]["objectives"]
    common = sorted(objectives.keys() & theirs.keys())
    if not common:
        return {"published": {"version": now["version"]}, "photos": 0}
    mine, published = (
        math.exp(sum(math.log(scored[photo]) for photo in common) / len(common))
        for scored in (objectives, theirs)
    )
    return {
        "objective": mine,
        "published": {"version": now["version"], "objective": published},
        "margin": settings.margin,
        "photos": len(common),
    }


def _broken(objectives: dict[str, float]) -> list[float]:
    return [value for value in objectives.values() if not 0 < value < math.inf]


def _refusal(
    card: Figures, now: Figures | None, settings: Publish, compared: Figures | None
) -> Figures | None:
    """`why` the gate refuses a candidate, and the figures; None: it lets it through."""
    version, evaluation = card["version"], card["evaluation"]
    objective, objectives = evaluation["model"]["total"], evaluation["objectives"]
    if _is_withdrawn(version, now):
        return {"why": f"{version}: was withdrawn by `batch-nst rollback`; not published"}
    if broken := _broken(objectives):
        return {
            "why": f"{version}: its objective is {broken[0]} on {len(broken)} of {len(objectives)} held-out "
            "photos; not published",
            "photos": len(broken),
        }
    if settings.max_objective is not None and objective > settings.max_objective:
        return {
            "why": f"{version}: objective {objective:,.0f} on held-out photos; publish.max_objective allows "
            f"{settings.max_objective:,.0f}; not published",
            "objective": objective,
            "max_objective": settings.max_objective,
        }
    if compared is None:
        return None
    published = compared["published"]
    if not compared["photos"]:
        return {
            "why": f"{version}: was scored on no photo that the published {published['version']} was scored "
            "on; not published",
            "photos": 0,
        }
    if compared["objective"] < published["objective"] * (1 - settings.margin):
        return None
    return {
        "why": f"{version}: objective {compared['objective']:,.0f} on held-out photos; published "
        f"{published['version']} has {published['objective']:,.0f}, publish.margin {settings.margin:g}; "
        "not published",
        **compared,
    }
