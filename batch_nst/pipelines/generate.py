"""The dataset of pairs: plan, make what is missing, seal."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from batch_nst.data.lease import Lease
from batch_nst.data.snapshot import seal
from batch_nst.data.storage import Store
from batch_nst.data.style import read_style
from batch_nst.errors import IncompleteError
from batch_nst.pipelines.plan import Plan, survey, write_down
from batch_nst.pipelines.progress import meter, say
from batch_nst.recipe import Recipe

if TYPE_CHECKING:
    from batch_nst.pipelines.fast_model import ModelFiles

_SHOWN = 20


def generate(recipe: Recipe, store: Store, lease: Lease, retry: bool = False) -> dict[str, Any]:
    """Make or continue the dataset, and seal it. Nothing to do starts neither torch nor Ray.

    Args:
        recipe: the recipe.
        store: its output.
        lease: held on it.
        retry: try failed images once more.

    Returns:
        Figures: counts by status; what this run tried and made, and what that took (`rates.rates_of` reads
        it); the snapshot.

    Raises:
        IncompleteError: units are pending after an outage, or too many photos were rejected.
    """
    start = time.monotonic()
    plan = survey(recipe, store, retry)
    counts = plan.counts()
    say(
        f"{counts['photos']} photos found, {counts['found']} images; {counts['done']} done, "
        f"{counts['to_do']} to do, {counts['gone']} gone"
    )
    model = None
    if plan.pending.num_rows:
        check_weights(recipe)
        model = _find_start(plan, store, recipe)
    lease.check()
    plan = write_down(plan, store)
    used: dict[str, Any] = {"device": None, "devices": 0, "warm_start": None}
    results: list[dict[str, Any]] = []
    if plan.pending.num_rows:
        used, results = _make(plan, store, recipe, model)
    lease.check()
    committed = [result for result in results if not result["outage"]]
    summaries = {result["unit"]: result["summary"] for result in committed}
    snapshot = seal(store, lease.token, plan.segments, set(plan.present), summaries)
    figures = {
        "photos": counts["photos"],
        "found": counts["found"],
        **snapshot.counts,
        "tried": sum(len(result["losses"]) + len(result["bad"]) for result in committed),
        "made": sum(len(result["losses"]) for result in committed),
        **used,
        "span_seconds": _span(committed),
        "device_seconds": round(sum(result["seconds"] for result in committed), 3),
        **{
            name: sum(result[name] for result in committed)
            for name in ("photos_read", "bytes_read", "bytes_written")
        },
        "snapshot": snapshot.number,
        "digest": snapshot.digest,
        "seconds": round(time.monotonic() - start, 1),
    }
    bad = [row for result in committed for row in result["bad"]]
    for row in bad[:_SHOWN]:
        say(f"{row['status']}: {row['uri']}: {row['reason']}: {row['detail']}")
    if len(bad) > _SHOWN:
        say(f"... and {len(bad) - _SHOWN} more; all of them are rows of the dataset")
    figures["reasons"] = dict(Counter(row["reason"] for row in bad))
    outages = [result["outage"] for result in results if result["outage"]]
    if snapshot.counts["pending"]:
        why = f": {outages[0]}" if outages else ""
        raise IncompleteError(
            f"{snapshot.counts['pending']} images are pending{why}; run the same command again", figures
        )
    share = snapshot.counts["rejected"] / max(1, counts["found"])
    if share > recipe.generate.max_rejected:
        raise IncompleteError(
            f"{snapshot.counts['rejected']} of {counts['found']} images were rejected ({share:.1%}); "
            f"generate.max_rejected allows {recipe.generate.max_rejected:.1%}",
            figures,
        )
    return figures


def _span(committed: list[dict[str, Any]]) -> float:
    """Seconds from the first unit's start to the last one's end; starting Ray and torch is not in them."""
    if not committed:
        return 0.0
    began, ended = min(unit["began"] for unit in committed), max(unit["ended"] for unit in committed)
    return float(round(ended - began, 3))


def check_weights(recipe: Recipe) -> None:
    """Refuse a wrong file here, not in an actor, and before its digest is one of the dataset's settings."""
    from batch_nst.engine.perceptual_loss import PerceptualLoss
    from batch_nst.pipelines.objective import load_vgg

    load_vgg(recipe.vgg, PerceptualLoss.layers(recipe.loss))


def _find_start(plan: Plan, store: Store, recipe: Recipe) -> ModelFiles | None:
    """The model that images are to start from, if any; a wrong one is refused before anything is written."""
    from batch_nst.pipelines.warm_start import find_start

    return find_start(recipe, plan.settings, store)


def _make(
    plan: Plan, store: Store, recipe: Recipe, model: ModelFiles | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run what is pending, with progress; on which device and how many at most, and the results of units."""
    from batch_nst.pipelines import cluster
    from batch_nst.pipelines.stylize import stylize_units
    from batch_nst.pipelines.warm_start import check_start

    cluster.connect()
    cluster.check_output_is_shared(store)
    workers = cluster.choose_workers(recipe.generate.device)
    style, pending = read_style(recipe.style), plan.pending
    model, warm_start = check_start(model, plan, style, recipe, workers)
    say(f"optimising on {workers.device}, {workers.threads} threads an actor, up to {workers.most} actors")
    results = []
    with meter("generate", pending.num_rows, "images") as progress:
        made = stylize_units(pending, plan.split_of, store, style, recipe, workers, model)
        for result in made:
            results.append(result)
            if not result["outage"]:
                losses = result["losses"]
                note = f"loss {sum(losses) / len(losses):,.0f}" if losses else "no image was good"
                progress.advance(len(losses) + len(result["bad"]), note)
    devices = workers.at_once(recipe.generate.actors)
    return {"device": workers.device, "devices": devices, "warm_start": warm_start}, results
