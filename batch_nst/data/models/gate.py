"""The gate: a candidate becomes `models/CURRENT` only if it is better than what is there.

The decision depends only on two models' cards, the pointer and the recipe. So it can be repeated at any time,
without training or scoring anything.
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
"""Key of `model.json` that marks a refused candidate; see `registry.Refusal`."""
UNREPORTED = "unreported"
"""Object of a version that the gate has judged, or is judging, and whose report is not written yet."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A candidate and the published model on the photos that both were scored on."""

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
    """None where nothing is published, or an objective of the candidate is not a positive number."""


def publish(version: str, settings: Publish, store: Store, token: int) -> Published:
    """Publish an evaluated version, or refuse and mark it. Needs the lease, whose token the pointer carries.

    A version that is published already (its run was cut off) gives the same figures again.

    Raises:
        GateError: the candidate is refused. A photo's objective is not a positive number; the objective is
            above `max_objective`, or not better than the published one by the margin; or `rollback` withdrew
            the version. Its figures are those of `Refused`.
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
    if mark:  # before the pointer moves: a published model is never marked
        registry.write_card(store, version, card)
    return _published(registry.point(store, version, card["digests"], token), compared)


def decided(version: str, settings: Publish, store: Store) -> Published | Refused | None:
    """The result of `publish`, if it stands; None where something is left to do for this version.

    Something is left to do if it is not trained, scored and exported, not judged, or not reported. The same
    holds if the gate would decide otherwise now: limits, the published model or scores may have changed.
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
    """The version that the published one replaced; None if it was withdrawn, is deleted, or never existed."""
    version = now["previous"]
    if version is None or _is_withdrawn(version, now) or registry.read_card(store, version) is None:
        return None
    return version


def _is_withdrawn(version: str, now: Pointer | None) -> bool:
    """Only the pointer says so: in a card it would have to be undone."""
    return now is not None and version in now.get("withdrawn", ())


def _comparison(card: ModelCard, rival: str | None, settings: Publish, store: Store) -> Comparison | None:
    """None if nothing is published, or an objective of the candidate is not a positive number."""
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
    """Why the gate refuses a candidate; None if it does not."""
    version = card["version"]
    if _is_withdrawn(version, now):
        return {"why": f"{version}: was withdrawn by `batch-nst rollback`; not published"}
    refusal = _refusal_of_scores(version, card["evaluation"], settings)
    return refusal or (_refusal_beside_published(version, compared, settings) if compared else None)


def _refusal_of_scores(version: str, evaluation: Evaluation, settings: Publish) -> Refusal | None:
    """A refusal that does not depend on what is published."""
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
    """A refusal because the published model is as good."""
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
