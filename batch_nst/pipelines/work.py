"""What a run of `generate` would have to do, in numbers, from a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow.compute as pc

from batch_nst.data import summaries
from batch_nst.data.forgotten import FORGOTTEN
from batch_nst.data.inputs import is_uri_list
from batch_nst.data.segments import segments_for
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
    units = reads = remote_reads = 0
    for rows in plan.pending(store, ["unit", "source", "offset"]):
        photos = rows.group_by(["unit", "source", "offset"]).aggregate([])
        units += len(pc.unique(photos["unit"]))
        reads += photos.num_rows
        remote_reads += sum(map(is_remote, photos["source"].to_pylist()))
    of_input = _of_input(plan, recipe, remote_reads, reads)
    traffic = of_input if store.local_path else _of_output(plan, store, of_input, units)
    return Work(plan.to_do, units, reads, traffic)


def _of_input(plan: Plan, recipe: Recipe, remote_reads: int, reads: int) -> Traffic:
    source = recipe.generate.input
    named = is_uri_list(source)
    # Of the places of photos only the pending ones are looked at.
    remote = round(plan.found / plan.crops * remote_reads / max(1, reads))
    return Traffic(
        photo_reads=remote_reads,
        listed=0 if named else remote,
        looked_at=remote if named else 0,
        single_reads=2 * is_remote(recipe.style.image)
        + (isinstance(source, str) and named and is_remote(source)),
        weights=recipe.vgg.weights != "bundled" and is_remote(recipe.vgg.weights),
    )


def _of_output(plan: Plan, store: Store, of_input: Traffic, units: int) -> Traffic:
    new_groups = plan.new_groups
    return replace(
        of_input,
        units=units,
        output=True,
        new_segments=segments_for(new_groups, plan.unit_images),
        chunks=len(plan.chunks()) + new_groups,
        segments=plan.written.segments,
        done=len(plan.done),
        reread=len(plan.done_units - summaries.gathered_units(store)),
        forgotten=len(store.list(FORGOTTEN)),
        leases=len(store.list("lease")),
        snapshots=len(store.list(SNAPSHOTS)),
    )
