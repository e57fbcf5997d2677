"""The gate: a candidate becomes `models/CURRENT` only if it is better than what is there.

What it decides follows from two models' cards, the pointer and the recipe alone. So it can be asked at any
time whether a refusal still stands, and nothing is trained or scored for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from batch_nst.data.models import registry
from batch_nst.data.models.evaluation import Evaluation
from batch_nst.data.models.registry import ModelCard, Pointer, Refusal, Rival
from batch_nst.data.storage.store import Store
from batch_nst.errors import GateError
from batch_nst.figures import as_json, omitted
from batch_nst.recipe import Publish

REFUSED: Literal["refused"] = "refused"
"""The key of `model.json` that marks a refused candidate, with the reason and the figures."""
UNREPORTED = "unreported"
"""Beside it while a night meets the gate, until there is a report of what came of it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the gate weighs: a candidate and the published model on the photos that both were scored on."""

    objective: float | None = omitted()
    """The candidate's geometric mean on them; None where there are none."""
    published: Rival
    margin: float | None = omitted()
    photos: int
    """Number of these photos."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """The gate's figures of a version that is published."""

    version: str
    published: Literal[True] = True
    previous: str | None
    """What was published before."""
    compared: Comparison | None = omitted()
    """None where nothing was published before."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The gate's figures of a version that is not published."""

    version: str
    published: Literal[False] = False
    refused: Refusal
    compared: Comparison | None = omitted()
    """None where nothing is published, or the candidate is broken."""


def publish(version: str, settings: Publish, store: Store, token: int) -> Published:
    """Publish an evaluated version, or refuse and mark it. Needs the lease, whose token the pointer carries.

    Returns:
        What is published now; so too where a night that was cut off has published it.

    Raises:
        GateError: a photo's objective is no number, the whole is above `max_objective`, not better than the
            published one by the margin, or was withdrawn by `rollback`; its figures are those of `Refused`.
    """
    now = registry.current(store)
    card = registry.require_card(store, version)
    if now and now["version"] == version:
        return _published(now, _comparison(card, _before(now, store), settings, store))
    mark, compared = card.pop(REFUSED, None), _comparison(card, now and now["version"], settings, store)
    refusal = _refusal(card, now, settings, compared)
    if refusal:
        if not _is_withdrawn(version, now):
            registry.write_card(store, version, {**card, "refused": refusal})
        raise GateError(refusal["why"], as_json(Refused(version=version, refused=refusal, compared=compared)))
    if mark:  # before the pointer moves: what is published is never marked
        registry.write_card(store, version, card)
    return _published(registry.point(store, version, card["digests"], token), compared)


def decided(version: str, settings: Publish, store: Store) -> Published | Refused | None:
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
    compared = _comparison(card, now and now["version"], settings, store)
    refusal = _refusal(card, now, settings, compared)
    if refusal and (refusal == card.get(REFUSED) or _is_withdrawn(version, now)):
        return Refused(version=version, refused=refusal, compared=compared)
    return None


def _published(pointer: Pointer, compared: Comparison | None = None) -> Published:
    return Published(version=pointer["version"], previous=pointer["previous"], compared=compared)


def _before(now: Pointer, store: Store) -> str | None:
    """The version that the published one was better than; None: there was none, it is withdrawn, or gone."""
    version = now["previous"]
    if version is None or _is_withdrawn(version, now) or registry.read_card(store, version) is None:
        return None
    return version


def _is_withdrawn(version: str, now: Pointer | None) -> bool:
    """By the pointer, which says it alone: in the card it would have to be undone."""
    return now is not None and version in now.get("withdrawn", ())


def _comparison(card: ModelCard, rival: str | None, settings: Publish, store: Store) -> Comparison | None:
    """None: nothing is published, or the candidate is broken."""
    objectives = card["evaluation"]["objectives"]
    if rival is None or _broken(objectives):
        return None
    theirs = registry.require_card(store, rival)["evaluation"]["objectives"]
    common = sorted(objectives.keys() & theirs.keys())
    if not common:
        return Comparison(published={"version": rival}, photos=0)
    mine, published = (
        math.exp(sum(math.log(scored[photo]) for photo in common) / len(common))
        for scored in (objectives, theirs)
    )
    return Comparison(
        objective=mine,
        published={"version": rival, "objective": published},
        margin=settings.margin,
        photos=len(common),
    )


def _broken(objectives: dict[str, float]) -> list[float]:
    return [value for value in objectives.values() if not 0 < value < math.inf]


def _refusal(
    card: ModelCard, now: Pointer | None, settings: Publish, compared: Comparison | None
) -> Refusal | None:
    """Why the gate refuses a candidate; None: it lets it through."""
    version = card["version"]
    if _is_withdrawn(version, now):
        return {"why": f"{version}: was withdrawn by `batch-nst rollback`; not published"}
    refusal = _refusal_of_scores(version, card["evaluation"], settings)
    return refusal or (_refusal_beside_published(version, compared, settings) if compared else None)


def _refusal_of_scores(version: str, evaluation: Evaluation, settings: Publish) -> Refusal | None:
    """Whatever is published."""
    objective, objectives = evaluation["model"]["total"], evaluation["objectives"]
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
    return None


def _refusal_beside_published(version: str, compared: Comparison, settings: Publish) -> Refusal | None:
    published = compared.published
    if compared.objective is None:
        return {
            "why": f"{version}: was scored on no photo that the published {published['version']} was scored "
            "on; not published",
            "photos": 0,
        }
    if compared.objective < published["objective"] * (1 - settings.margin):
        return None
    return {
        "why": f"{version}: objective {compared.objective:,.0f} on held-out photos; published "
        f"{published['version']} has {published['objective']:,.0f}, publish.margin {settings.margin:g}; "
        "not published",
        "objective": compared.objective,
        "published": published,
        "margin": settings.margin,
        "photos": compared.photos,
    }
