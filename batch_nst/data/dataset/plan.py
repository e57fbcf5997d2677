"""Compares the input with the plan (which photos are new, done, pending or gone) and extends the plan.

The listing is read once, in bounded memory: only the 16-byte id of each image is kept, and the rows of new
images wait in a temporary file. Planning imports neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
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
from batch_nst.data.dataset.ids import Index, Mask, halves, latest
from batch_nst.data.dataset.manifest import (
    DECIDED,
    Manifest,
    check_settings,
    settings_of,
    split_of,
    write_settings,
)
from batch_nst.data.dataset.new_rows import NewRows, diff_with_plan
from batch_nst.data.dataset.plan_files import Group, Written
from batch_nst.data.dataset.snapshot import latest_snapshot
from batch_nst.data.images.style import StyleImage, read_style
from batch_nst.data.sources.passed import TWICE, Passed
from batch_nst.data.sources.photos import stream_photos
from batch_nst.data.storage.store import Store
from batch_nst.recipe import Recipe

CUDA_UNIT_IMAGES = 256
"""Images in a unit of a dataset that begins on CUDA. 16 take a GPU a second or two, then it waits."""


class Chunk(NamedTuple):
    """Units to be made whose rows are in one row group."""

    group: Group
    units: list[str]

    def only(self, paired: bool) -> Chunk:
        """The chunk with its units of pairs, or with those of photos without pairs."""
        return self._replace(units=[u for u in self.units if u.endswith(units.UNPAIRED) != paired])


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
    unpaired: int
    """Those of them that stay photos without pairs."""
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
    def unpaired(self) -> int:
        """Number of images among them that are photos without pairs."""
        waiting = self.unit_wanted & _mask(pc.ends_with(_units(self.written.rows), units.UNPAIRED))
        again = pc.sum(pc.ends_with(self.again["unit"], units.UNPAIRED)).as_py() or 0
        return int(waiting[_numbers(self.written.rows)].sum()) + self._new_unpaired + again

    @cached_property
    def _new_unpaired(self) -> int:
        """Number of new photos without pairs."""
        return sum(table.num_rows for table in self._new(paired=False))

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
        unpaired = self._new_unpaired
        new = -(-(self.new.count - unpaired) // size) - (-unpaired // size)
        return int(new + (self.again.num_rows > 0))

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
            unpaired=self.unpaired,
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
        yield from plan_files.cut_groups(self._new(paired=True), self.unit_images, attempt=0)
        yield from plan_files.cut_groups(self._new(paired=False), self.unit_images, 0, units.UNPAIRED)
        if self.again.num_rows:
            yield self.again

    def _new(self, paired: bool) -> Iterator[pa.Table]:
        """The new rows of photos that are optimised, or of the others."""
        if "below" not in self.settings["holdout"]:
            yield from self.new if paired else ()
            return
        for table in self.new:
            sides = [self.split_of(key) != "unpaired" for key in table["key"].to_pylist()]
            yield table.filter(pa.array([side == paired for side in sides], pa.bool_()))


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
    begun, holdout = check_settings(store, settings, ignore=DECIDED), settings["holdout"]
    if begun:
        holdout["at_least"] = begun["holdout"]["at_least"]
        if "below" in begun["holdout"]:
            holdout["below"] = begun["holdout"]["below"]
    elif "pairs" in holdout:  # a number becomes a fraction once the photos are counted
        holdout["below"] = holdout["pairs"] if holdout["pairs"] < 1 else 0.0
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
        passed, watch = Passed(), Watch(holdout)
        listed = stream_photos(generate.input, generate.stores, generate.pattern, passed)
        found, present, new, twice = diff_with_plan(watch.over(listed), generate.crops, written.rows["id"])
        if len(twice):
            passed[TWICE] += watch.photos - found // generate.crops
            check_places(generate, twice)
        watch.check_names(begun is not None)
        if begun is None:
            if "pairs" in holdout and not holdout["below"]:
                holdout["below"] = min(1.0, holdout["pairs"] / watch.photos)
            lowest, key = watch.lowest
            if not watch.held_out and lowest >= holdout.get("below", 1.0) * holdout["fraction"]:
                holdout["at_least"] = [key]
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
    alone = pc.ends_with(table["unit"], units.UNPAIRED)
    return pa.concat_tables(
        [
            plan_files.cut(table.filter(pc.invert(alone)), plan.unit_images, attempt),
            plan_files.cut(table.filter(alone), plan.unit_images, attempt, units.UNPAIRED),
        ]
    )


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
