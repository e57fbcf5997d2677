"""What a run of `generate` has to do, counted from a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batch_nst.data.dataset import summaries
from batch_nst.data.dataset.forgotten import FORGOTTEN
from batch_nst.data.dataset.plan import Plan
from batch_nst.data.dataset.plan_files import read_group, segments_for
from batch_nst.data.dataset.snapshot import SNAPSHOTS, latest_snapshot
from batch_nst.data.models import registry
from batch_nst.data.sources.photos import is_tar, is_uri_list, lacks_versions, list_containers
from batch_nst.data.storage.fetch import is_remote
from batch_nst.data.storage.store import Store
from batch_nst.pipelines.cost.requests import Traffic
from batch_nst.pipelines.cost.steps import Work, work_of
from batch_nst.recipe import Recipe


@dataclass(frozen=True)
class Workload:
    """Counts that an estimate multiplies by costs."""

    images: int
    """Images to be tried, without photos that stay without pairs."""
    unpaired: int
    """Photos to be stored without pairs."""
    units: int
    photo_reads: int
    """Photos to read; a photo counts once for each unit that has a crop of it."""
    traffic: Traffic


def workload_of(plan: Plan, store: Store, recipe: Recipe) -> Workload:
    """Count what is pending, and what exists if the output is in a bucket. Writes nothing."""
    units = reads = remote_reads = 0
    for rows in plan.pending(store, ["unit", "source", "offset"]):
        photos = rows.group_by(["unit", "source", "offset"]).aggregate([])
        units += len(pc.unique(photos["unit"]))
        reads += photos.num_rows
        remote_reads += sum(map(is_remote, photos["source"].to_pylist()))
    of_input = _of_input(plan, recipe, remote_reads, reads)
    traffic = of_input if store.local_path else _of_output(plan, store, of_input, units)
    unpaired = plan.unpaired
    return Workload(plan.to_do - unpaired, unpaired, units, reads, traffic)


class Split(NamedTuple):
    """Numbers of images by their side of the split."""

    train: int
    held_out: int


def remaining_split(plan: Plan, store: Store, recipe: Recipe) -> Split:
    """Images of the next snapshot on each side, at most, or as many as anybody asks for."""
    snapshot = latest_snapshot(store)
    if snapshot and not plan.to_do:
        counts = snapshot.counts
        return Split(counts["ok"] + counts["unpaired"], counts["held_out"])
    enough = max(recipe.train.batch_size, recipe.evaluate.photos)
    train = held_out = 0
    for keys in _keys(plan, store):
        held_out += (here := sum(plan.split_of(key) == "held_out" for key in keys))
        train += len(keys) - here
        if min(train, held_out) >= enough:
            break
    return Split(train, held_out)


def _keys(plan: Plan, store: Store) -> Iterator[list[str]]:
    """The key of each image in the input, planned or new, some at a time."""
    first = 0
    for group in plan.written.groups:
        rows = read_group(store, group, columns=["key", "attempt"])
        present = pa.array(plan.present[first : first + group.rows])
        first += group.rows
        yield rows.filter(pc.and_(present, pc.equal(rows["attempt"], 0)))["key"].to_pylist()
    for table in plan.new:
        yield table["key"].to_pylist()


def remaining_steps(plan: Plan, store: Store, recipe: Recipe, split: Split) -> Work:
    """The work of the steps after the pairs that no run has done yet; `pairs` is 0."""
    whole = work_of(recipe, 0, min(recipe.evaluate.photos, split.held_out))
    snapshot = latest_snapshot(store)
    if plan.to_do or not snapshot:
        return whole
    card = registry.read_card(store, registry.training_version(recipe, snapshot))
    if card is None:
        return whole
    scored = "evaluation" in card
    return replace(
        whole,
        training=0.0,
        scoring=0.0 if scored else whole.scoring,
        baseline=0.0 if scored else whole.baseline,
    )


def refusals(recipe: Recipe, split: Split) -> list[str]:
    """What `train` or `nightly` would refuse after the pairs are made, one line each."""
    found = []
    if split.train < recipe.train.batch_size:
        allowed = "that many or fewer, or more photos" if split.train else "more photos"
        found.append(
            f"train.batch_size: given {recipe.train.batch_size}; the input has at most {split.train} pairs "
            f"to train on; allowed: {allowed}"
        )
    if not split.held_out:
        found.append("evaluate.holdout: no held-out photo to score a model on; needed: 1; add photos")
    return found


def _of_input(plan: Plan, recipe: Recipe, remote_reads: int, reads: int) -> Traffic:
    source = recipe.generate.input
    # Only pending photos are looked at; the share of remote ones among them stands for all.
    remote = round(plan.found / plan.crops * remote_reads / max(1, reads))
    known = bool(plan.listing) and plan.listing == plan.written.listing
    listed, looked_at = _listing(source, recipe.generate.pattern, remote, known)
    return Traffic(
        photo_reads=remote_reads,
        listed=listed,
        looked_at=looked_at,
        single_reads=2 * is_remote(recipe.style.image)
        + (isinstance(source, str) and is_uri_list(source) and is_remote(source)),
        weights=recipe.vgg.weights != "bundled" and is_remote(recipe.vgg.weights),
    )


def _listing(source: str | list[str], pattern: str | None, remote: int, known: bool) -> tuple[int, int]:
    """Keys to list, and photos to request one by one, for an input with `remote` remote photos.

    `known`: whether its tables or tars are unchanged since the plan was made, and need not be opened.
    """
    if is_uri_list(source):
        return 0, remote
    containers = list_containers(source, pattern)
    if not containers:
        return remote, 0
    first = containers[0]
    asked = 0
    if not known and is_tar(first):
        asked = remote + is_remote(first.uri) * len(containers)  # a header each, and the end of the tar
    elif not known and lacks_versions(first):
        asked = remote
    return is_remote(first.uri) * len(containers), asked


def _of_output(plan: Plan, store: Store, of_input: Traffic, units: int) -> Traffic:
    new_groups = plan.new_groups
    return replace(
        of_input,
        units=units,
        output=True,
        new_segments=segments_for(new_groups, plan.unit_images),
        chunks=len(plan.chunks()) + new_groups,
        segments=plan.written.segments,
        planned=plan.units,
        done=len(plan.done),
        reread=len(plan.done_units - summaries.gathered_units(store)),
        forgotten=len(store.list(FORGOTTEN)),
        leases=len(store.list("lease")),
        snapshots=len(store.list(SNAPSHOTS)),
    )
