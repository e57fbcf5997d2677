"""Whether a night would find everything done. Writes nothing, and imports neither torch nor Ray."""

from __future__ import annotations

from typing import Any

from batch_nst.data import models
from batch_nst.data.snapshot import is_sealed, latest_snapshot
from batch_nst.data.storage import Store
from batch_nst.errors import WeightsError
from batch_nst.pipelines.plan import Plan, survey
from batch_nst.pipelines.progress import say
from batch_nst.pipelines.publish import decided
from batch_nst.pipelines.train import training_version
from batch_nst.recipe import Recipe


def find_finished(
    recipe: Recipe, store: Store, retry: bool = False
) -> tuple[dict[str, Any] | None, Plan | None]:
    """What the last night came to, if another one would do nothing; and the survey, if one was made.

    The model is looked at first, as that takes a few requests, and the input may take many.

    Returns:
        Figures, of the shape of a night's, or None: images are to be made or sealed, there are more rejected
        ones than `generate.max_rejected` allows, or the model of this recipe and the latest snapshot is not
        finished, not decided on, or damaged.

    Raises:
        RecipeError: as `survey` does.
        WeightsError: the published model is another one, and damaged.
        AuditError: as `seal` does.
    """
    snapshot = latest_snapshot(store)
    decision = decided(training_version(recipe, snapshot), recipe.publish, store) if snapshot else None
    if not snapshot or not decision or not _is_whole(store, decision["version"]):
        return None, None
    published = models.current(store)
    if published and published["version"] != decision["version"]:  # which no night can mend
        models.check_parts(store, published["version"], models.require_card(store, published["version"]))
    plan = survey(recipe, store, retry)
    too_many = snapshot.counts["rejected"] / max(1, plan.found) > recipe.generate.max_rejected
    if plan.to_do or too_many or not is_sealed(store, snapshot, plan.in_input, recipe.quality):
        return None, plan
    told = f"published {decision['version']}" if decision["published"] else decision["refused"]["why"]
    say(f"nothing new: {plan.found:,} images, all in snapshot {snapshot.number}; {told}")
    dataset = {
        "photos": plan.counts()["photos"],
        "found": plan.found,
        **snapshot.counts,
        "made": 0,
        "snapshot": snapshot.number,
        "digest": snapshot.digest,
    }
    return {"nothing_new": True, "dataset": dataset, **decision}, plan


def _is_whole(store: Store, version: str) -> bool:
    """Whether weights and graph are what `model.json` means: two reads of some 7 MB."""
    try:
        models.check_parts(store, version, models.require_card(store, version))
    except WeightsError as error:
        say(f"not finished: {error}")
        return False
    return True
