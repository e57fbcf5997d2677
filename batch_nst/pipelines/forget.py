"""The command `forget`: delete all pairs of some photos permanently, and list models that have seen them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from batch_nst.console import log
from batch_nst.data.dataset import forgotten, plan_files, units
from batch_nst.data.dataset.card import write_card
from batch_nst.data.dataset.forgotten import ForgottenPair
from batch_nst.data.dataset.ids import halves
from batch_nst.data.dataset.manifest import require_settings
from batch_nst.data.dataset.plan_files import Written
from batch_nst.data.dataset.snapshot import Snapshot, latest_snapshot, read_snapshot, seal
from batch_nst.data.models import registry
from batch_nst.data.storage.documents import read_document
from batch_nst.data.storage.lease import Lease
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError
from batch_nst.recipe import Quality

_SEEN = {
    "train": "was trained",
    "unpaired": "was trained",
    "held_out": "was scored",
    "unknown": "may have been trained or scored (its snapshot is deleted)",
}


@dataclass(frozen=True)
class Seen:
    """A model that has seen a forgotten pair."""

    version: str
    splits: list[str]
    """The sides of the split on which it saw them: `train`, `held_out`, or `unknown`."""
    published: bool


@dataclass(frozen=True)
class ForgetFigures:
    """Figures of `batch-nst forget`."""

    photos: int
    ids: list[str]
    """Ids (hex) of all images of these photos."""
    pairs: int
    """Number of pairs that units held of them."""
    snapshot: int
    """Number of the snapshot without them."""
    models: list[Seen]
    files: list[str]
    """Objects that may show a forgotten photo; they are not changed."""


def forget(store: Store, lease: Lease, words: Sequence[str]) -> ForgetFigures:
    """Forget photos with all their crops, versions and attempts. May be interrupted anywhere and repeated.

    The request is written first, then a snapshot without the photos is sealed, then each unit that holds them
    is rewritten. Their ids stay in the plan, so that they are never planned again.

    Args:
        store: the output.
        lease: held on the output.
        words: ids in hex, or their first 8 or more digits, each of one image of a photo.

    Raises:
        RecipeError: no image has such an id, or several have.
    """
    settings = require_settings(store)
    written = plan_files.read_written(store)
    named = pa.array([_image(store, written.rows["id"], word) for word in words], pa.binary(16))
    keys = _rows(store, written, "id", named)["key"].unique()
    images = _rows(store, written, "key", keys)
    ids = set(images["id"].to_pylist())
    new = ids - forgotten.forgotten_ids(store)
    lease.check()
    if new:
        pairs = _pairs(store, images, new)
        forgotten.write_request(store, {"ids": sorted(each.hex() for each in new), "pairs": pairs})
    snapshot = _seal(store, lease, written.rows)
    write_card(store, snapshot, settings)
    pairs = [
        pair
        for request in forgotten.read_requests(store)
        for pair in request["pairs"]
        if bytes.fromhex(pair["id"]) in ids
    ]
    seen = _models(store, pairs)
    figures = ForgetFigures(
        photos=len(keys),
        ids=sorted(each.hex() for each in ids),
        pairs=len(pairs),
        snapshot=snapshot.number,
        models=seen,
        files=_files(store, {model.version for model in seen}, pairs),
    )
    _log_figures(figures)
    return figures


def check_ids(store: Store, words: Sequence[str]) -> None:
    """Refuse what `forget` would refuse, before a lease is taken. Raises RecipeError."""
    require_settings(store)
    planned = plan_files.read_written(store).rows["id"]
    for word in words:
        _image(store, planned, word)


def _image(store: Store, planned: pa.ChunkedArray, word: str) -> bytes:
    """The planned id that begins with these digits."""
    digits = word.lower()
    if not re.fullmatch(r"[0-9a-f]{8,32}", digits):
        raise RecipeError(f"ID {word!r}: allowed: an image's id in hex, or 8 or more of its first digits")
    low, high = (int(digits.ljust(32, digit), 16) for digit in "0f")
    ids = halves(planned).view(">u8")
    near = ids[(ids[:, 0] >= low >> 64) & (ids[:, 0] <= high >> 64)]
    found: set[int] = {first << 64 | second for first, second in near.tolist()}
    matching = sorted(number for number in found if low <= number <= high)
    if not matching:
        raise RecipeError(
            f"ID {word!r}: no image of {store.uri} has this id; allowed: those in column id of its dataset"
        )
    if len(matching) > 1:
        some = " and ".join(f"{number:032x}" for number in matching[:2])
        raise RecipeError(f"ID {word!r}: {len(matching)} images have such an id, among them {some}")
    return matching[0].to_bytes(16)


def _rows(store: Store, written: Written, column: str, values: pa.Array) -> pa.Table:
    """Columns `id`, `key` and `unit` of the planned rows that have one of these values in `column`."""
    found = []
    for group in written.groups:
        rows = plan_files.read_group(store, group, columns=["id", "key", "unit"])
        found.append(rows.filter(pc.is_in(rows[column], values)))
    return pa.concat_tables(found)


def _pairs(store: Store, images: pa.Table, ids: set[bytes]) -> list[ForgottenPair]:
    """The pairs of these images that units hold now."""
    return [
        {"id": row["id"].hex(), "unit": unit, "split": row["split"]}
        for unit in sorted(units.done_units(store) & set(images["unit"].to_pylist()))
        for row in units.read_unit(store, unit, columns=["id", "status", "split"])
        if row["id"] in ids and row["status"] == "ok"
    ]


def _seal(store: Store, lease: Lease, planned: pa.Table) -> Snapshot:
    """A new snapshot with the quality rules and the input of the last one."""
    latest = latest_snapshot(store)
    gone = pa.array(map(bytes.fromhex, latest.left_out) if latest else [], pa.binary(16))
    planned = planned.append_column("present", pc.invert(pc.is_in(planned["id"], gone)))
    rules = Quality()
    if latest and latest.quality:
        quality = latest.quality
        rules = Quality(max_deviation=quality["max_deviation"], min_change=quality["min_change"])
    return seal(store, lease.token, planned, {}, rules)


def _models(store: Store, pairs: Sequence[ForgottenPair]) -> list[Seen]:
    """Models, finished or not, whose snapshot held one of the pairs."""
    numbers = {version: registry.snapshot_of(version) for version in registry.versions(store)}
    published = registry.current(store)
    seen: list[Seen] = []
    for number in sorted(set(numbers.values())):
        sides = _sides(store, number, pairs)
        seen += [
            Seen(version, sorted(sides), published is not None and published["version"] == version)
            for version in sorted(numbers)
            if sides and numbers[version] == number
        ]
    return seen


def _sides(store: Store, number: int, pairs: Sequence[ForgottenPair]) -> set[str]:
    """Sides of the split on which a snapshot held some of the pairs; `unknown` if it is deleted."""
    try:
        snapshot = read_snapshot(store, number)
    except FileNotFoundError:
        return {"unknown"} if pairs else set()
    held = {unit["unit"] for unit in snapshot.units}
    return {
        pair["split"]
        for pair in pairs
        if pair["unit"] in held and bytes.fromhex(pair["id"]) not in snapshot.skipped_ids
    }


def _files(store: Store, versions: Iterable[str], pairs: Sequence[ForgottenPair]) -> list[str]:
    """Previews, training logs and reports of models that have seen one of the pairs."""
    ids, versions = {pair["id"] for pair in pairs}, set(versions)
    held_out = any(pair["split"] == "held_out" for pair in pairs)
    found = []
    for version in sorted(versions):
        card = registry.read_card(store, version)
        if card and ids & card.get("evaluation", {}).get("objectives", {}).keys():
            found.append(registry.model_object(version, registry.PREVIEW))
        pictures = registry.model_object(version, registry.TRAINING)
        if held_out and store.list(pictures):
            found.append(pictures)
    for name in store.list("runs"):
        folder, _, file = name.rpartition("/")
        if file in ("report.html", "blind.html"):
            try:
                shown = read_document(store, f"{folder}/summary.json").get("version")
            except FileNotFoundError:  # killed before it was written
                shown = None
            if shown in versions or (versions and shown is None):
                found.append(name)
    return found


def _log_figures(figures: ForgetFigures) -> None:
    log(
        f"{figures.photos} photos forgotten: {len(figures.ids)} images, {figures.pairs} pairs; "
        f"snapshot {figures.snapshot} is without them"
    )
    for model in figures.models:
        seen = " and ".join(dict.fromkeys(_SEEN[split] for split in model.splits))
        log(f"model {model.version}{' (published)' if model.published else ''} {seen} on them")
    for name in figures.files:
        log(f"may show them: {name}")
