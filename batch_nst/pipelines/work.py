"""What a run of `generate` would have to do, in numbers, from a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from batch_nst.data import summaries, units
from batch_nst.data.forgotten import FORGOTTEN
from batch_nst.data.inputs import is_uri_list
from batch_nst.data.snapshot import SNAPSHOTS
from batch_nst.data.storage import Store, is_remote
from batch_nst.pipelines.plan import Plan
from batch_nst.pipelines.store_requests import Traffic
from batch_nst.recipe import Recipe


@dataclass(frozen=True)
class Work:
    """Counts that an estimate multiplies by rates."""

    images: int
    """To be tried."""
    units: int
    photo_reads: int
    """A photo counts once for each unit that has a crop of it."""
    traffic: Traffic


def work_of(plan: Plan, store: Store, recipe: Recipe) -> Work:
    """Count what is pending; of an output in a bucket also what is there. Writes nothing."""
    rows = plan.pending.select(["unit", "source"]).to_pylist()
    pending = {row["unit"] for row in rows}
    reads = {(row["unit"], row["source"]) for row in rows}
    return Work(len(rows), len(pending), len(reads), _traffic(plan, store, recipe, pending, reads))


def _traffic(
    plan: Plan, store: Store, recipe: Recipe, pending: set[str], reads: set[tuple[str, str]]
) -> Traffic:
    source = recipe.generate.input
    listed = sum(is_remote(photo.source) for photo in plan.photos)
    named = is_uri_list(source)
    of_input = Traffic(
        photo_reads=sum(is_remote(uri) for _, uri in reads),
        listed=0 if named else listed,
        looked_at=listed if named else 0,
        single_reads=2 * is_remote(recipe.style.image)
        + (isinstance(source, str) and named and is_remote(source)),
        weights=recipe.vgg.weights != "bundled" and is_remote(recipe.vgg.weights),
    )
    if store.local_path is not None:
        return of_input
    done = plan.done & set(plan.segments["unit"].to_pylist())
    return replace(
        of_input,
        units=len(pending),
        output=True,
        new_segment=plan.new.num_rows > 0,
        segments=len(store.list(units.PLAN)),
        done=len(plan.done),
        reread=len(done - summaries.gathered_units(store)),
        forgotten=len(store.list(FORGOTTEN)),
        leases=len(store.list("lease")),
        snapshots=len(store.list(SNAPSHOTS)),
    )
