"""What would run, and its writing down. Neither torch nor Ray is imported to plan."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_nst.data import segments, summaries, units
from batch_nst.data.census import NewRows, take_census
from batch_nst.data.ids import Index, Mask, halves, latest
from batch_nst.data.inputs import input_version, key_hash, stream_photos
from batch_nst.data.segments import Group, Written
from batch_nst.data.settings import check_settings, split_of, write_settings
from batch_nst.data.snapshot import latest_snapshot
from batch_nst.data.storage import Store
from batch_nst.data.style import read_style
from batch_nst.data.weights import weights_digest
from batch_nst.errors import IncompleteError
from batch_nst.pipelines.progress import say
from batch_nst.recipe import Recipe

_TOLD_SECONDS = 10.0


class Chunk(NamedTuple):
    """Units to be made that are written down in one place."""

    group: Group
    units: list[str]


@dataclass(frozen=True)
class Plan:
    """The state of a dataset against its input. Of what is written down it holds ids, not whole rows."""

    settings: dict[str, Any]
    """As in `dataset.json`, or as they would be written there."""
    written: Written
    present: Mask
    """For each written row whether the input holds its photo now."""
    done: frozenset[str]
    """Committed units."""
    new: NewRows
    """Images that are not written down yet."""
    again: pa.Table
    """Rows of further attempts that are not written down yet, `segments.PLAN_SCHEMA`."""
    found: int
    """Different images in the input."""
    rejected: int
    """Of those that are done, by the latest snapshot."""
    crops: int
    unit_images: int
    listing: str
    """Digest of the input as it was found, or empty, see `segments.Written`."""

    @cached_property
    def unit_done(self) -> Mask:
        """For each of the units that are written down whether it is committed."""
        return _mask(pc.is_in(_units(self.written.rows), value_set=pa.array(self.done, pa.string())))

    @cached_property
    def unit_wanted(self) -> Mask:
        """For each of these units whether it is to be made: not done, and a photo of it is in the input."""
        held = np.zeros(self.units, np.bool_)
        held[_numbers(self.written.rows)[self.present]] = True
        return held & ~self.unit_done

    @cached_property
    def row_done(self) -> Mask:
        """For each written row whether its unit is committed."""
        return self.unit_done[_numbers(self.written.rows)]

    @property
    def to_do(self) -> int:
        """Images of units that are planned, or would be, and are to be made."""
        waiting = self.unit_wanted[_numbers(self.written.rows)]
        return int(waiting.sum() + self.new.count + self.again.num_rows)

    @property
    def in_input(self) -> pa.Table:
        """`id`, `attempt` and `unit` of each written row, and whether its photo is `present`."""
        return self.written.rows.append_column("present", pa.array(self.present))

    @property
    def is_written_down(self) -> bool:
        """Whether everything that is to be done stands in a segment."""
        return not self.new.count and not self.again.num_rows

    @property
    def new_groups(self) -> int:
        """Row groups that are to be written down."""
        size = segments.GROUP_UNITS * self.unit_images
        return int(-(-self.new.count // size) + (self.again.num_rows > 0))

    @property
    def units(self) -> int:
        """How many are written down."""
        return len(_units(self.written.rows))

    @property
    def done_units(self) -> set[str]:
        """Committed units that are planned."""
        return set(_units(self.written.rows).filter(pa.array(self.unit_done)).to_pylist())

    def counts(self) -> dict[str, int]:
        """Photos found; images (crops) found, done, rejected, to do; planned ones gone from the input."""
        once = self.written.rows["attempt"].to_numpy() == 0  # further attempts repeat an id
        done = np.zeros(len(once), np.bool_)
        done[:] = self.row_done
        if not once.all():
            ids = halves(self.written.rows["id"])
            np.logical_or.at(done, Index(ids).find(ids), self.row_done)
        return {
            "photos": -(-self.found // self.crops),
            "found": self.found,
            "done": int((once & done & self.present).sum()),
            "rejected": self.rejected,
            "to_do": self.to_do,
            "gone": int((once & ~self.present).sum()),
        }

    def chunks(self) -> list[Chunk]:
        """The units that are written down and to be made, by their places."""
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
        """Rows of units that are planned, or would be, and to be made; some columns of `PLAN_SCHEMA`."""
        columns = columns or segments.PLAN_SCHEMA.names
        for chunk in self.chunks():
            yield segments.read_group(store, chunk.group, chunk.units, columns)
        for table in self._unwritten():
            yield table.select(columns)

    def write_down(self, store: Store) -> Plan:
        """Make the plan a fact: settings first, then segments for what is new. Needs the lease."""
        write_settings(store, self.settings)
        if self.is_written_down:
            return self
        # Everything that is planned is in the input, and the other way round: so the next start need not
        # compare them if it finds the same input.
        listing = self.listing if self.present.all() else ""
        written = segments.append_segments(store, self._unwritten(), self.written, listing)
        present = np.ones(written.rows.num_rows, np.bool_)
        present[: len(self.present)] = self.present
        return replace(
            self, written=written, present=present, new=_nothing(), again=segments.PLAN_SCHEMA.empty_table()
        )

    def split_of(self, key: str) -> str:
        """The side of the split that a photo is on."""
        return split_of(key, self.settings["holdout"])

    def _unwritten(self) -> Iterator[pa.Table]:
        """What is not written down, whole units in each table."""
        yield from segments.cut_groups(self.new, self.unit_images, attempt=0)
        if self.again.num_rows:
            yield self.again


def survey(recipe: Recipe, store: Store, retry: bool = False) -> Plan:
    """List the input, compare it with what is planned and done. Writes nothing.

    Args:
        recipe: the recipe.
        store: its output.
        retry: plan failed images once more.

    Raises:
        RecipeError: no photos, an unreadable painting, or settings other than the dataset was begun with.
    """
    settings = _settings(recipe)
    begun = check_settings(store, settings, ignore=("holdout.at_least",))
    if begun:
        settings["holdout"]["at_least"] = begun["holdout"]["at_least"]
    written = segments.read_written(store)
    generate = recipe.generate
    listing = _listing_digest(recipe)
    if listing and listing == written.listing:
        found = int((written.rows["attempt"].to_numpy() == 0).sum())
        present, new = np.ones(written.rows.num_rows, np.bool_), _nothing()
    else:
        watch = _Watch(settings["holdout"])
        found, present, new = take_census(
            watch.over(stream_photos(generate.input, generate.stores)), generate.crops, written.rows["id"]
        )
        if begun is None and not watch.held_out:
            settings["holdout"]["at_least"] = [watch.lowest[1]]
    snapshot = latest_snapshot(store)
    plan = Plan(
        settings=settings,
        written=written,
        present=present,
        done=frozenset(units.done_units(store, len(_units(written.rows)))),
        new=new,
        again=segments.PLAN_SCHEMA.empty_table(),
        found=found,
        rejected=snapshot.counts["rejected"] if snapshot else 0,
        crops=generate.crops,
        unit_images=generate.unit_images,
        listing=listing,
    )
    return replace(plan, again=_again(plan, store)) if retry else plan


def check_recipe(recipe: Recipe, store: Store) -> dict[str, Any]:
    """The settings of the dataset that a recipe continues.

    Raises:
        IncompleteError: no dataset has been begun.
        RecipeError: it was begun with other settings.
    """
    settings = check_settings(store, _settings(recipe), ignore=("holdout.at_least",))
    if settings is None:
        raise IncompleteError(f"{store.uri}: no dataset here; run `batch-nst generate` first")
    return settings


class _Watch:
    """Looks at a listing that passes by: tells how far it is, and whether a photo is held out."""

    def __init__(self, holdout: dict[str, Any]) -> None:
        self._holdout = holdout
        self.held_out = False
        self.lowest = (1.0, "")
        """Of the keys' hashes, while no photo was held out; and its key."""

    def over(self, listing: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        photos, told = 0, time.monotonic()
        for batch in listing:
            if not self.held_out:
                keys = batch["key"].to_pylist()
                self.held_out = any(split_of(key, self._holdout) == "held_out" for key in keys)
                self.lowest = min([self.lowest, *((key_hash(key), key) for key in keys)])
            photos += len(batch)
            if time.monotonic() - told >= _TOLD_SECONDS:
                told = time.monotonic()
                say(f"listing: {photos:,} photos")
            yield batch


def _listing_digest(recipe: Recipe) -> str:
    """Equal ones mean that the input holds the same images; empty where only listing it tells."""
    version = input_version(recipe.generate.input)
    if version is None:
        return ""
    generate = recipe.generate
    parts = json.dumps([generate.input, version, generate.crops, *generate.stores])
    return hashlib.blake2b(parts.encode(), digest_size=16, person=b"batch_nst list").hexdigest()


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Everything that decides pixels, and the split that rows carry."""
    generate = recipe.generate
    return {
        "style": {"sha256": read_style(recipe.style).digest, "size": recipe.style.size},
        "vgg": {"sha256": weights_digest(recipe.vgg), "input": recipe.vgg.input},
        "loss": recipe.loss.model_dump(),
        "generate": generate.model_dump(include={"image_size", "iterations", "optimizer", "encoding"}),
        "holdout": {
            "fraction": recipe.evaluate.holdout,
            "photos": sorted(recipe.evaluate.holdout_photos),
            "at_least": [],
        },
        "gram_divisor": "C*H*W",
    }


def _again(plan: Plan, store: Store) -> pa.Table:
    """A further attempt at images, still in the input, whose latest attempt is done and failed."""
    rows = plan.written.rows
    last = latest(halves(rows["id"])) & plan.present & plan.row_done
    of_units = _units(rows).take(pa.array(np.unique(_numbers(rows)[last])))
    failed = _failed(store, of_units.to_pylist())
    mine = last & _mask(pc.is_in(rows["id"].combine_chunks(), value_set=pa.array(failed, pa.binary(16))))
    chosen, first = [segments.PLAN_SCHEMA.empty_table()], 0
    for group in plan.written.groups:
        here = mine[first : first + group.rows]
        first += group.rows
        if here.any():
            chosen.append(segments.read_group(store, group).filter(pa.array(here)))
    table = pa.concat_tables(chosen)
    attempt = 1 + max(table["attempt"].to_pylist(), default=0)
    return segments.cut(table, plan.unit_images, attempt)


def _failed(store: Store, names: Collection[str]) -> list[bytes]:
    """Ids of failed images in committed units; units that have none by their summaries are not read."""
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
    """Names of the units of written rows, each once."""
    return rows["unit"].chunk(0).dictionary


def _numbers(rows: pa.Table) -> npt.NDArray[np.int32]:
    """For each written row the number of its unit among `_units`."""
    return np.concatenate([chunk.indices.to_numpy() for chunk in rows["unit"].chunks])


def _mask(values: pa.BooleanArray) -> Mask:
    mask: Mask = values.to_numpy(zero_copy_only=False)
    return mask
