"""What would run, and its writing down. Neither torch nor Ray is imported to plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from batch_nst.data import units
from batch_nst.data.inputs import Photo, is_held_out, key_hash, list_photos, photo_id
from batch_nst.data.settings import check_settings, write_settings
from batch_nst.data.storage import Store
from batch_nst.data.style import read_style
from batch_nst.data.weights import weights_digest
from batch_nst.errors import IncompleteError
from batch_nst.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """The state of a dataset against its input."""

    photos: list[Photo]
    present: frozenset[bytes]
    """Ids of all crops of these photos."""
    settings: dict[str, Any]
    """As in `dataset.json`, or as they would be written there."""
    segments: pa.Table
    """What is written down, `units.PLAN_SCHEMA`."""
    new: pa.Table
    """Rows that are not written down yet."""
    done: frozenset[str]
    """Committed units."""

    @property
    def pending(self) -> pa.Table:
        """Rows of units that are planned, or would be, and not committed."""
        rows = pa.concat_tables([self.segments, self.new])
        return rows.filter(pa.array([unit not in self.done for unit in rows["unit"].to_pylist()], pa.bool_()))

    def counts(self) -> dict[str, int]:
        """Photos found; images (crops) found, done, to do; and planned ones that are gone from the input."""
        rows = self.segments.select(["id", "unit"]).to_pylist()
        done = {row["id"] for row in rows if row["unit"] in self.done}
        planned = {row["id"] for row in rows}
        return {
            "photos": len(self.photos),
            "found": len(self.present),
            "done": len(done & self.present),
            "to_do": self.pending.num_rows,
            "gone": len(planned - self.present),
        }

    def split_of(self, key: str) -> str:
        """The side of the split that a photo is on."""
        holdout = self.settings["holdout"]
        held_out = is_held_out(key, holdout["fraction"], [*holdout["photos"], *holdout["at_least"]])
        return "held_out" if held_out else "train"


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
    photos = list_photos(recipe.generate.input)
    crops = range(recipe.generate.crops)
    present = frozenset(photo_id(photo.key, photo.version, crop) for photo in photos for crop in crops)
    segments = units.read_plan(store)
    done = frozenset(units.done_units(store))
    new = units.cut_units(
        photos, recipe.generate.crops, set(segments["id"].to_pylist()), recipe.generate.unit_images
    )
    if retry:
        again = units.retry_units(_failed(store, segments, done, present), recipe.generate.unit_images)
        new = pa.concat_tables([new, again])
    if begun:
        settings["holdout"]["at_least"] = begun["holdout"]["at_least"]
    plan = Plan(photos, present, settings, segments, new, done)
    if begun is None and not any(plan.split_of(photo.key) == "held_out" for photo in photos):
        settings["holdout"]["at_least"] = [min((photo.key for photo in photos), key=key_hash)]
    return plan


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


def write_down(plan: Plan, store: Store) -> Plan:
    """Make the plan a fact: settings first, then a segment for what is new. Needs the lease."""
    write_settings(store, plan.settings)
    if not plan.new.num_rows:
        return plan
    units.append_segment(store, plan.new)
    return replace(
        plan, segments=pa.concat_tables([plan.segments, plan.new]), new=units.PLAN_SCHEMA.empty_table()
    )


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


def _failed(
    store: Store, segments: pa.Table, done: frozenset[str], present: frozenset[bytes]
) -> list[dict[str, Any]]:
    """Planned rows, still in the input, whose latest attempt is done and failed."""
    latest: dict[bytes, dict[str, Any]] = {}
    for row in segments.to_pylist():
        if row["id"] in present and row["attempt"] >= latest.get(row["id"], row)["attempt"]:
            latest[row["id"]] = row
    by_unit = Counter(row["unit"] for row in latest.values() if row["unit"] in done)
    failed = {
        outcome["id"]
        for unit in by_unit
        for outcome in units.read_unit(store, unit, columns=["id", "status"])
        if outcome["status"] == "failed"
    }
    return [row for identity, row in latest.items() if identity in failed and row["unit"] in done]
