"""A sealed list of finished units: what training reads, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from batch_nst.data import units
from batch_nst.data.storage import Store
from batch_nst.errors import IncompleteError, LeaseError

SNAPSHOTS = "dataset/snapshots"


@dataclass(frozen=True)
class Snapshot:
    """The state of a dataset at one moment, written by exclusive create."""

    number: int
    token: int
    """Fencing token of the lease under which it was sealed."""
    digest: str
    """Over the units' digests and what is left out: equal digests mean equal training data."""
    counts: dict[str, int]
    """Images by the outcome of their latest attempt: ok (to train on), held_out (and ok), rejected, failed,
    pending; and gone: finished, but no longer in the input, and counted as nothing else."""
    units: list[dict[str, Any]]
    """For each unit its name, digest and counts without those `left_out`, which are gone or superseded."""
    left_out: list[str]
    """Ids (hex) in these units that are gone from the input."""

    @cached_property
    def gone(self) -> frozenset[bytes]:
        """The ids of `left_out`."""
        return frozenset(map(bytes.fromhex, self.left_out))

    @property
    def done(self) -> float:
        """The fraction of planned images that are done."""
        finished = sum(self.counts[status] for status in ("ok", "held_out", "rejected", "failed"))
        return finished / max(1, finished + self.counts["pending"])


def seal(
    store: Store, token: int, plan: pa.Table, present: set[bytes], known: Mapping[str, dict[str, Any]]
) -> Snapshot:
    """Seal what is done; returns the latest snapshot where nothing has changed since.

    Args:
        store: the output.
        token: of the lease held.
        plan: all segments.
        present: ids that the input holds now; planned ids that it does not are left out as gone.
        known: summaries of units that the caller has just committed, which saves reading them.

    Raises:
        LeaseError: a run with a later lease has sealed one meanwhile.
    """
    latest = latest_snapshot(store)
    if latest and latest.token > token:
        raise LeaseError(
            f"snapshot {latest.number} was sealed under lease {latest.token}, later than ours, {token}"
        )
    rows = sorted(zip(*(plan[name].to_pylist() for name in ("attempt", "id", "unit")), strict=True))
    in_force = {identity: unit for _, identity, unit in rows}  # the unit of its latest attempt
    done = units.done_units(store) & {unit for _, _, unit in rows}
    gone = {identity for identity, unit in in_force.items() if unit in done and identity not in present}
    without: dict[str, set[bytes]] = {}
    for _, identity, unit in rows:
        if unit in done and (identity in gone or in_force[identity] != unit):
            without.setdefault(unit, set()).add(identity)

    summaries = {summary["unit"]: summary for summary in latest.units} if latest else {}
    summaries |= known
    with ThreadPoolExecutor(16) as pool:
        finished = list(
            pool.map(
                lambda unit: _entry(store, unit, summaries.get(unit), without.get(unit, set())), sorted(done)
            )
        )
    counts = {status: sum(unit[status] for unit in finished) for status in units.count([])}
    counts["pending"] = sum(identity in present and unit not in done for identity, unit in in_force.items())
    counts["gone"] = len(gone)
    left_out = sorted(identity.hex() for identity in gone)

    digest = hashlib.blake2b(digest_size=16, person=b"batch_nst seal")
    for unit in finished:
        digest.update(unit["digest"].encode())
    digest.update(json.dumps(left_out).encode())
    if latest and latest.digest == digest.hexdigest() and latest.counts == counts:
        return latest
    snapshot = Snapshot(
        number=latest.number + 1 if latest else 1,
        token=token,
        digest=digest.hexdigest(),
        counts=counts,
        units=finished,
        left_out=left_out,
    )
    name = f"{SNAPSHOTS}/{snapshot.number:06}.json"
    if not store.establish(name, (json.dumps(asdict(snapshot), indent=1) + "\n").encode()):
        raise LeaseError(f"{store.join(name)}: sealed by another run a moment ago; start again")
    return snapshot


def latest_snapshot(store: Store) -> Snapshot | None:
    """The newest sealed snapshot, or None."""
    names = store.list(SNAPSHOTS)
    return Snapshot(**json.loads(store.read(names[-1]))) if names else None


def require_snapshot(store: Store, min_done: float = 0.0) -> Snapshot:
    """The newest sealed snapshot.

    Raises:
        IncompleteError: there is none, or less than `min_done` of the planned images is done in it.
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


def pairs(store: Store, snapshot: Snapshot, split: str) -> Iterator[dict[str, Any]]:
    """The ok rows of one side of the split, unit by unit in the snapshot's order."""
    count = "held_out" if split == "held_out" else "ok"
    for unit in snapshot.units:
        if unit[count]:
            yield from unit_pairs(store, snapshot, unit["unit"], split)


def unit_pairs(store: Store, snapshot: Snapshot, unit: str, split: str) -> Iterator[dict[str, Any]]:
    """The ok rows of a unit on one side of the split: as many as the snapshot's counts say."""
    for row in units.read_unit(store, unit):
        if row["status"] == "ok" and row["split"] == split and row["id"] not in snapshot.gone:
            yield row


def _entry(store: Store, unit: str, summary: dict[str, Any] | None, without: set[bytes]) -> dict[str, Any]:
    """A unit as a snapshot lists it: its summary, known or read, with counts that pass over some ids."""
    summary = summary or units.read_summary(store, unit)
    if not without and not summary.get("left_out"):
        return {**summary, "left_out": 0}
    rows = units.read_unit(store, unit, columns=["id", "status", "split"])
    counts = units.count(row for row in rows if row["id"] not in without)
    return {**summary, **counts, "left_out": len(without)}
