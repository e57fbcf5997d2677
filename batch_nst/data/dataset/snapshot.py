"""A snapshot: a sealed list of finished units. Training reads these and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain
from typing import TypedDict, cast

import pyarrow as pa
from pydantic import TypeAdapter

from batch_nst.data.dataset import forgotten, summaries, units
from batch_nst.data.dataset.audit import COUNTED, AuditCounts, Outcomes, UnitEntry, audit
from batch_nst.data.dataset.quality import QualityReport
from batch_nst.data.dataset.records import BadPhoto, StoredImage, UnitRow
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError, LeaseError, StorageError
from batch_nst.recipe import Quality

SNAPSHOTS = "dataset/snapshots"


@dataclass(frozen=True)
class Snapshot:
    """The state of a dataset at one moment, written by exclusive create."""

    number: int
    token: int
    """Fencing token of the lease under which it was sealed."""
    digest: str
    """Digest over the units' digests and what is left out: equal digests mean equal training data."""
    counts: dict[str, int]
    """Number of images by the outcome of their latest attempt: ok (pairs to train on), held_out (and ok),
    unpaired (photos alone), rejected, failed, forgotten, filtered (ok, but left out by a rule of `quality`)
    and pending. Images that are finished but no longer in the input count as gone, and as nothing else."""
    units: list[UnitEntry]
    left_out: list[str]
    """Ids (hex) in these units that are gone from the input."""
    quality: QualityReport = field(default_factory=lambda: QualityReport())
    """The filter that left pairs out."""
    forgotten: list[str] = field(default_factory=list)
    """Ids (hex) of forgotten images that units still held when it was sealed."""
    audit: AuditCounts = field(default_factory=lambda: AuditCounts())
    since: int = 0
    """Number of the first of the consecutive snapshots with this digest; 0, in old snapshots: its own
    number."""

    @property
    def first(self) -> int:
        """The number of the first snapshot with these pairs; models trained on them are named by it."""
        return self.since or self.number

    @cached_property
    def skipped_ids(self) -> frozenset[bytes]:
        """The ids of ok rows that training and scoring skip: gone, filtered or forgotten."""
        filtered = self.quality.get("left_out", {}).values()
        named = (self.left_out, self.forgotten, *filtered)
        return frozenset(bytes.fromhex(identity) for ids in named for identity in ids)

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digest of each unit by its name."""
        return {unit["unit"]: unit["digest"] for unit in self.units}

    @property
    def done(self) -> float:
        """The fraction of planned images that are done."""
        finished = sum(self.counts[status] for status in COUNTED)
        return finished / max(1, finished + self.counts["pending"])


def seal(
    store: Store,
    token: int,
    planned: pa.Table,
    known: Mapping[str, str],
    quality: Quality | None = None,
) -> Snapshot:
    """Seal the done units, after an audit; returns the latest snapshot where nothing has changed since.

    Forgotten photos are left out of the snapshot. Once it is sealed, they are removed from the units that
    still hold them.

    Args:
        store: the output.
        token: the token of the lease held.
        planned: one row for each id and attempt, with `id`, `attempt`, `unit` and `present`. Ids that the
            input no longer holds (`present` is false) are left out as gone.
        known: summaries, in JSON, of units that the caller has just committed, which saves reading them.
        quality: which pairs to leave out; None stands for the defaults.

    Raises:
        AuditError: an id is planned twice, or a unit does not hold what was planned. Nothing is sealed.
        LeaseError: a run with a later lease has sealed a snapshot meanwhile.
    """
    latest = latest_snapshot(store)
    if latest and latest.token > token:
        raise LeaseError(
            f"snapshot {latest.number} was sealed under lease {latest.token}, later than ours, {token}"
        )
    outcomes = audit(store, planned, known, forgotten.forgotten_ids(store), quality or Quality())
    snapshot = _snapshot(outcomes, latest.number + 1 if latest else 1, token)
    if latest and latest.digest == snapshot.digest:
        snapshot = replace(snapshot, since=latest.first)
    if latest and _says_the_same(latest, snapshot):
        snapshot = latest
    else:
        name = f"{SNAPSHOTS}/{snapshot.number:06}.json"
        if not store.establish(name, _text(snapshot)):
            raise LeaseError(f"{store.join(name)}: sealed by another run a moment ago; start again")
    rewritten = {
        unit: forgotten.take_out(store, token, unit, ids) for unit, ids in outcomes.to_forget.items()
    }
    if rewritten or not outcomes.gathered:
        summaries.write(store, summaries.updated(outcomes.summaries, rewritten))
    return snapshot


def is_sealed(store: Store, latest: Snapshot, planned: pa.Table, quality: Quality) -> bool:
    """Whether `seal` would write nothing: the latest snapshot is up to date and nothing is to be forgotten.

    Raises:
        AuditError: as `seal` does.
    """
    outcomes = audit(store, planned, {}, forgotten.forgotten_ids(store), quality)
    same = _says_the_same(latest, _snapshot(outcomes, latest.number, latest.token))
    return same and outcomes.gathered and not outcomes.to_forget


def _snapshot(outcomes: Outcomes, number: int, token: int) -> Snapshot:
    return Snapshot(
        number=number,
        token=token,
        digest=_digest(outcomes.units, outcomes.gone, outcomes.quality),
        counts=outcomes.counts,
        units=outcomes.units,
        left_out=outcomes.gone,
        quality=outcomes.quality,
        forgotten=sorted(identity.hex() for ids in outcomes.to_forget.values() for identity in ids),
        audit=outcomes.audit,
    )


def _digest(units: list[UnitEntry], left_out: list[str], quality: QualityReport) -> str:
    digest = hashlib.blake2b(digest_size=16, person=b"batch_nst seal")
    for unit in units:
        digest.update(unit["digest"].encode())
    digest.update(json.dumps(left_out).encode())
    filtered = sorted(identity for ids in quality.get("left_out", {}).values() for identity in ids)
    if filtered:
        digest.update(json.dumps(filtered).encode())
    return digest.hexdigest()


def _says_the_same(latest: Snapshot, snapshot: Snapshot) -> bool:
    """Whether two snapshots say the same; those of version 0.1.0 do not record the filter."""
    return (
        latest.digest == snapshot.digest
        and latest.counts == snapshot.counts
        and (latest.quality or snapshot.quality) == snapshot.quality
    )


_SHAPE = TypeAdapter(Snapshot)


def _read(store: Store, name: str) -> Snapshot:
    fields = read_document(store, name)
    with intact(store, name):
        fields["counts"] = {**dict.fromkeys(COUNTED, 0), **fields["counts"]}  # version 0.1.0 knew fewer
        snapshot = _SHAPE.validate_python(fields)
        digest = _digest(snapshot.units, snapshot.left_out, snapshot.quality)
        if digest != snapshot.digest:
            raise ValueError(f"the digest of what it lists is {digest}, but it says {snapshot.digest}")
    return snapshot


def _text(snapshot: Snapshot) -> bytes:
    """JSON with one line per field; indenting it would take a minute for a million units."""
    lines = (
        f" {json.dumps(each.name)}: {json.dumps(getattr(snapshot, each.name))}" for each in fields(snapshot)
    )
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def latest_snapshot(store: Store) -> Snapshot | None:
    """The newest sealed snapshot, or None.

    Raises:
        StorageError: it is damaged, or its digest is wrong.
    """
    names = store.numbered(SNAPSHOTS, ".json")
    return _read(store, names[max(names)]) if names else None


def read_snapshot(store: Store, number: int) -> Snapshot:
    """The snapshot with a number.

    Raises:
        FileNotFoundError: the output has no such snapshot.
        StorageError: it is damaged.
    """
    return _read(store, f"{SNAPSHOTS}/{number:06}.json")


def require_snapshot(store: Store, min_done: float = 0.0) -> Snapshot:
    """The newest sealed snapshot.

    Raises:
        IncompleteError: the output has no snapshot, or less than `min_done` of the planned images is done.
    """
    snapshot = latest_snapshot(store)
    if snapshot is None:
        raise IncompleteError(f"{store.uri}: no sealed dataset here; run `batch-nst generate` first")
    if snapshot.done < min_done:
        raise IncompleteError(
            f"{store.uri}: snapshot {snapshot.number} holds {snapshot.done:.1%} of the planned images, "
            f"train.min_done asks for {min_done:.1%}; run `batch-nst generate` again"
        )
    return snapshot


def bad_photos(store: Store, snapshot: Snapshot) -> Iterator[BadPhoto]:
    """The rejected and failed photos that a snapshot counts, unit by unit."""
    names = (unit["unit"] for unit in snapshot.units if unit["rejected"] or unit["failed"])
    return chain.from_iterable(units.bad_photos(store, name, snapshot.skipped_ids) for name in names)


class StoredPair(TypedDict):
    """An ok row of a unit: a photo and its optimised image, as they are stored."""

    id: bytes
    uri: str
    split: str
    """`train` or `held_out`."""
    status: str
    reason: str | None
    detail: str | None
    content: StoredImage
    stylized: StoredImage
    height: int
    """Pixels, as `width`."""
    width: int
    content_loss: float
    style_loss: float
    total_loss: float
    iterations: int
    init: str
    engine: str


def unit_pairs(store: Store, snapshot: Snapshot, unit: str, split: str | None = None) -> Iterator[StoredPair]:
    """The pairs of a unit, on one side of the split or on both, that the snapshot does not leave out.

    Raises:
        StorageError: the unit is damaged, or differs from the one in the snapshot.
    """
    for row in _good_rows(store, snapshot, unit):
        if row["split"] == split or (split is None and row["split"] != "unpaired"):
            yield cast(StoredPair, row)


def unit_photos(store: Store, snapshot: Snapshot, unit: str) -> Iterator[bytes]:
    """The photos without pairs of a unit, encoded, as `unit_pairs` gives pairs."""
    for row in _good_rows(store, snapshot, unit):
        if row["split"] == "unpaired" and row["content"]:
            yield row["content"]["bytes"]


def _good_rows(store: Store, snapshot: Snapshot, unit: str) -> Iterator[UnitRow]:
    rows, digest = units.read_rows(store, unit)
    expected = snapshot.digests[unit]
    # Forgetting rows changes the digest.
    forgets = snapshot.forgotten or any(row["status"] == "forgotten" for row in rows)
    if digest != expected and not forgets:
        raise StorageError(
            f"{store.join(units.unit_object(unit))}: its digest is {digest}, but snapshot {snapshot.number} "
            f"says {expected}"
        )
    for row in rows:
        if row["status"] == "ok" and row["id"] not in snapshot.skipped_ids:
            yield row
