"""Compares the input with the plan (which photos are new, done, pending or gone) and extends the plan.

The listing is read once, in bounded memory: only the 16-byte id of each image is kept, and the rows of new
images wait in a temporary file. Planning imports neither torch nor Ray.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_nst.data.dataset import plan_files, summaries, units
from batch_nst.data.dataset.defaults import changed_defaults
from batch_nst.data.dataset.found import Watch, check_places, listing_digest
from batch_nst.data.dataset.ids import Ids, Index, Mask, halves, latest, repeated
from batch_nst.data.dataset.manifest import (
    Manifest,
    check_settings,
    settings_of,
    split_of,
    write_settings,
)
from batch_nst.data.dataset.plan_files import Group, Written
from batch_nst.data.dataset.snapshot import latest_snapshot
from batch_nst.data.images.style import StyleImage, read_style
from batch_nst.data.sources.passed import TWICE, Passed
from batch_nst.data.sources.photos import LISTED, photo_ids, stream_photos
from batch_nst.data.storage.store import Store
from batch_nst.recipe import Recipe

CUDA_UNIT_IMAGES = 256
"""Images in a unit of a dataset that begins on CUDA. 16 take a GPU a second or two, then it waits."""


class Chunk(NamedTuple):
    """Units to be made whose rows are in one row group."""

    group: Group
    units: list[str]


@dataclass(frozen=True)
class PlanCounts:
    """The figures of `plan`."""

    photos: int
    """Photos in the input."""
    found: int
    """Images (crops) in the input."""
    done: int
    """Images in the input that are done."""
    rejected: int
    """Done images that were rejected, by the latest snapshot."""
    to_do: int
    """Images to be made."""
    gone: int
    """Planned images that the input no longer holds."""


@dataclass(frozen=True)
class Plan:
    """The state of a dataset compared with its input. It holds the ids of planned images, not their rows.

    plan = survey(recipe, store)
    print(plan.counts())
    """

    settings: Manifest
    """The content of `dataset.json`, or what would be written there."""
    style: StyleImage
    """The style image whose digest the settings hold."""
    written: Written
    present: Mask
    """For each planned row whether the input holds its photo now."""
    done: frozenset[str]
    """Committed units."""
    new: NewRows
    """Images that are not in a segment yet."""
    again: pa.Table
    """Rows of further attempts that are not in a segment yet, `plan_files.PLAN_SCHEMA`."""
    found: int
    """Number of different images in the input."""
    rejected: int
    """Done images that were rejected, by the latest snapshot."""
    crops: int
    unit_images: int
    settled: bool
    """Whether `unit_images` is the recipe's own, or that of a dataset that was started."""
    listing: str
    """Digest of the input as it was found, or empty, see `plan_files.Written`."""
    passed_over: Passed
    """Files below the input that are no photos, by suffix or reason; without the members of tars that an
    earlier start has listed."""

    @cached_property
    def unit_done(self) -> Mask:
        """For each unit in the segments whether it is committed."""
        return _mask(pc.is_in(_units(self.written.rows), value_set=pa.array(self.done, pa.string())))

    @cached_property
    def unit_wanted(self) -> Mask:
        """For each unit in the segments whether it is to be made: not done, a photo of it in the input."""
        held = np.zeros(self.units, np.bool_)
        held[_numbers(self.written.rows)[self.present]] = True
        return held & ~self.unit_done

    @cached_property
    def row_done(self) -> Mask:
        """For each planned row whether its unit is committed."""
        return self.unit_done[_numbers(self.written.rows)]

    @property
    def to_do(self) -> int:
        """Number of images in units that are to be made, planned or new."""
        waiting = self.unit_wanted[_numbers(self.written.rows)]
        return int(waiting.sum() + self.new.count + self.again.num_rows)

    @property
    def in_input(self) -> pa.Table:
        """`id`, `attempt` and `unit` of each planned row, and whether its photo is `present`."""
        return self.written.rows.append_column("present", pa.array(self.present))

    @property
    def is_written_down(self) -> bool:
        """Whether the segments hold everything that is to be done."""
        return not self.new.count and not self.again.num_rows

    @property
    def new_groups(self) -> int:
        """Number of row groups to be written."""
        size = plan_files.GROUP_UNITS * self.unit_images
        return int(-(-self.new.count // size) + (self.again.num_rows > 0))

    @property
    def units(self) -> int:
        """Number of units in the segments."""
        return len(_units(self.written.rows))

    @property
    def done_units(self) -> set[str]:
        """Names of planned units that are committed."""
        return set(_units(self.written.rows).filter(pa.array(self.unit_done)).to_pylist())

    def counts(self) -> PlanCounts:
        """The numbers of photos and images, and of images in each state."""
        once = self.written.rows["attempt"].to_numpy() == 0  # further attempts repeat an id
        done = np.zeros(len(once), np.bool_)
        done[:] = self.row_done
        if not once.all():
            ids = halves(self.written.rows["id"])
            np.logical_or.at(done, Index(ids).find(ids), self.row_done)
        return PlanCounts(
            photos=-(-self.found // self.crops),
            found=self.found,
            done=int((once & done & self.present).sum()),
            rejected=self.rejected,
            to_do=self.to_do,
            gone=int((once & ~self.present).sum()),
        )

    def chunks(self) -> list[Chunk]:
        """The planned units that are to be made, by row group."""
        numbers, names = _numbers(self.written.rows), _units(self.written.rows)
        found, first = [], 0
        for group in self.written.groups:
            members = np.unique(numbers[first : first + group.rows])
            first += group.rows
            pending = members[self.unit_wanted[members]]
            if len(pending):
                found.append(Chunk(group, names.take(pa.array(pending)).to_pylist()))
        return found

    def pending(self, store: Store, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Rows of units that are to be made, planned or new; all columns of `PLAN_SCHEMA`, or some."""
        columns = columns or plan_files.PLAN_SCHEMA.names
        for chunk in self.chunks():
            yield plan_files.read_group(store, chunk.group, chunk.units, columns)
        for table in self._unwritten():
            yield table.select(columns)

    def beginning_on(self, device: str) -> Plan:
        """The plan whose units fit the device on which its dataset begins, unless that is settled.

        The number is recorded with the dataset's settings, and stays whatever device continues it.
        """
        if self.settled or device != "cuda":
            return self
        defaults = dict(self.settings.get("defaults", {}))
        defaults["generate"] = {**defaults.get("generate", {}), "unit_images": CUDA_UNIT_IMAGES}
        settings: Manifest = {**self.settings, "defaults": defaults}
        return replace(self, settings=settings, unit_images=CUDA_UNIT_IMAGES, settled=True)

    def write_down(self, store: Store) -> Plan:
        """Write the plan: settings first, then segments for what is new. Needs the lease."""
        write_settings(store, self.settings)
        if self.is_written_down:
            return self
        # Plan and input hold the same images, so the next start skips the comparison if the input is the
        # same.
        listing = self.listing if self.present.all() else ""
        written = plan_files.append_segments(store, self._unwritten(), self.written, listing)
        present = np.ones(written.rows.num_rows, np.bool_)
        present[: len(self.present)] = self.present
        return replace(
            self, written=written, present=present, new=_nothing(), again=plan_files.PLAN_SCHEMA.empty_table()
        )

    def split_of(self, key: str) -> str:
        """The side of the split that a photo is on."""
        return split_of(key, self.settings["holdout"])

    def _unwritten(self) -> Iterator[pa.Table]:
        """The rows that are in no segment yet, whole units in each table."""
        yield from plan_files.cut_groups(self.new, self.unit_images, attempt=0)
        if self.again.num_rows:
            yield self.again


def survey(recipe: Recipe, store: Store, retry: bool = False) -> Plan:
    """List the input and compare it with what is planned and done. Writes nothing.

    Args:
        recipe: the recipe.
        store: its output.
        retry: plan failed images once more.

    Raises:
        RecipeError: no photos, an unreadable style image, or settings that differ from the dataset's.
    """
    style = read_style(recipe.style)
    settings = settings_of(recipe, style)
    begun = check_settings(store, settings, ignore=("holdout.at_least",))
    if begun:
        settings["holdout"]["at_least"] = begun["holdout"]["at_least"]
    defaults = begun.get("defaults") if begun else changed_defaults()
    if defaults:
        settings["defaults"] = defaults
    written = plan_files.read_written(store)
    generate = recipe.generate
    passed = Passed()
    listing = listing_digest(recipe, passed)
    if listing and listing == written.listing:
        found = int((written.rows["attempt"].to_numpy() == 0).sum())
        present, new = np.ones(written.rows.num_rows, np.bool_), _nothing()
    else:
        passed, watch = Passed(), Watch(settings["holdout"])
        listed = stream_photos(generate.input, generate.stores, generate.pattern, passed)
        found, present, new, twice = diff_with_plan(watch.over(listed), generate.crops, written.rows["id"])
        if len(twice):
            passed[TWICE] += watch.photos - found // generate.crops
            check_places(generate, twice)
        watch.check_names(begun is not None)
        if begun is None and not watch.held_out:
            settings["holdout"]["at_least"] = [watch.lowest[1]]
    passed.log()
    snapshot = latest_snapshot(store)
    plan = Plan(
        settings=settings,
        style=style,
        written=written,
        present=present,
        done=frozenset(units.done_units(store, len(_units(written.rows)))),
        new=new,
        again=plan_files.PLAN_SCHEMA.empty_table(),
        found=found,
        rejected=snapshot.counts["rejected"] if snapshot else 0,
        crops=generate.crops,
        unit_images=generate.unit_images,
        settled=begun is not None or "unit_images" in generate.model_fields_set,
        listing=listing,
        passed_over=passed,
    )
    if begun is None and generate.device == "cuda":
        plan = plan.beginning_on("cuda")
    return replace(plan, again=_again(plan, store)) if retry else plan


def _again(plan: Plan, store: Store) -> pa.Table:
    """Rows of a further attempt at failed images that are still in the input."""
    rows = plan.written.rows
    last = latest(halves(rows["id"])) & plan.present & plan.row_done
    of_units = _units(rows).take(pa.array(np.unique(_numbers(rows)[last])))
    failed = _failed(store, of_units.to_pylist())
    mine = last & _mask(pc.is_in(rows["id"].combine_chunks(), value_set=pa.array(failed, pa.binary(16))))
    chosen, first = [plan_files.PLAN_SCHEMA.empty_table()], 0
    for group in plan.written.groups:
        here = mine[first : first + group.rows]
        first += group.rows
        if here.any():
            chosen.append(plan_files.read_group(store, group).filter(pa.array(here)))
    table = pa.concat_tables(chosen)
    attempt = 1 + max(table["attempt"].to_pylist(), default=0)
    return plan_files.cut(table, plan.unit_images, attempt)


def _failed(store: Store, names: Collection[str]) -> list[bytes]:
    """Ids of failed images in committed units; units without any, by their summaries, are not read."""
    table = summaries.read(store, ["unit", "outcomes"])
    outcomes = dict(zip(*table.to_pydict().values(), strict=True))
    return [
        row["id"]
        for name in names
        if "f" in outcomes.get(name, "f")
        for row in units.read_unit(store, name, columns=["id", "status"])
        if row["status"] == "failed"
    ]


def _nothing() -> NewRows:
    rows = NewRows()
    rows.close()
    return rows


def _units(rows: pa.Table) -> pa.StringArray:
    """Names of the units of planned rows, each once."""
    return rows["unit"].chunk(0).dictionary


def _numbers(rows: pa.Table) -> npt.NDArray[np.int32]:
    """For each planned row the number of its unit among `_units`."""
    return np.concatenate([chunk.indices.to_numpy() for chunk in rows["unit"].chunks])


def _mask(values: pa.BooleanArray) -> Mask:
    mask: Mask = values.to_numpy(zero_copy_only=False)
    return mask


_IN_MEMORY = 32 << 20
"""Bytes of new rows that are kept in memory; more go into a file."""


class PlanDiff(NamedTuple):
    """The result of comparing a listing with a plan."""

    found: int
    """Number of different images in the input."""
    present: Mask
    """For each planned row whether the input holds its id now."""
    new: NewRows
    twice: Ids
    """Ids that came more than once."""


class NewRows:
    """Rows of a listing that are in no segment, each id once. Each iteration reads them from the start."""

    def __init__(self) -> None:
        """No rows yet."""
        self.count = 0
        """Number of rows of an iteration, known after `close`."""
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed with its owner
        weakref.finalize(self, self._file.close)
        schema = pa.schema([("id", pa.binary(16)), *LISTED, ("crop", pa.int32())])
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._file, "w"), schema, options=options)
        self._ids: list[Ids] = []
        self._again: Mask | None = None
        self.twice: Ids = np.empty((0, 2), np.uint64)
        """Ids that were added more than once, known after `close`."""

    def add(self, rows: pa.RecordBatch, ids: Ids) -> None:
        """Add rows, whose ids are `ids`."""
        self._writer.write_batch(rows)
        self._ids.append(ids)

    def close(self) -> None:
        """End the adding and find the ids that were added twice."""
        self._writer.close()
        ids = np.concatenate([np.empty((0, 2), np.uint64), *self._ids])
        self._ids.clear()
        again = repeated(ids)
        self.count = len(ids) - int(again.sum())
        self._again, self.twice = again if again.any() else None, ids[again]

    def __iter__(self) -> Iterator[pa.Table]:
        """Tables of the rows, in the order of the listing."""
        self._file.seek(0)
        first = 0
        with pa.ipc.open_stream(pa.PythonFile(self._file, "r")) as reader:
            for batch in reader:
                table = pa.Table.from_batches([batch])
                if self._again is not None:
                    table = table.filter(pa.array(~self._again[first : first + len(batch)]))
                first += len(batch)
                yield table


def diff_with_plan(listing: Iterable[pa.RecordBatch], crops: int, planned: pa.ChunkedArray) -> PlanDiff:
    """Compare a listing with what is planned.

    Args:
        listing: batches of `photos.LISTED`.
        crops: number of crops of each photo.
        planned: ids of all planned rows, oldest first; further attempts repeat an id.
    """
    ids = halves(planned)
    index = Index(ids)
    present = np.zeros(len(ids), np.bool_)
    new, twice = NewRows(), list[Ids]()
    for batch in listing:
        rows = _crops(batch, crops)
        wanted = halves(rows["id"])
        at = index.find(wanted)
        known = wanted[at >= 0]
        twice.append(known[present[at[at >= 0]] | repeated(known)])
        present[at[at >= 0]] = True
        fresh = np.flatnonzero(at < 0)
        if len(fresh):
            new.add(rows.take(pa.array(fresh)), wanted[fresh])
    new.close()
    found = int(present.sum()) + new.count
    # Ids were looked up as their first attempt; this also marks the further ones.
    first = index.find(ids) if len(ids) else np.empty(0, np.int64)
    return PlanDiff(found, present[first], new, np.concatenate([new.twice, *twice]))


def _crops(batch: pa.RecordBatch, crops: int) -> pa.RecordBatch:
    """One row for each crop of each photo, with its id; crops of a photo are neighbours."""
    photos = len(batch)
    by_crop = [photo_ids(batch, crop) for crop in range(crops)]
    if crops == 1:
        ids, rows, numbers = by_crop[0], batch, np.zeros(photos, np.int32)
    else:
        places = np.arange(crops * photos).reshape(crops, photos).T.flatten()
        ids = pa.concat_arrays(by_crop).take(pa.array(places))
        rows = batch.take(pa.array(np.repeat(np.arange(photos), crops)))
        numbers = np.tile(np.arange(crops, dtype=np.int32), photos)
    names = ["id", *LISTED.names, "crop"]
    return pa.RecordBatch.from_arrays([ids, *rows.columns, pa.array(numbers)], names=names)
