"""Laws of `batch_nst.data.dataset.snapshot`: what is sealed, what is left out, and what training is given."""

import dataclasses
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_nst.data.dataset import plan_files, units
from batch_nst.data.dataset.snapshot import (
    SNAPSHOTS,
    Snapshot,
    latest_snapshot,
    require_snapshot,
    seal,
    unit_pairs,
)
from batch_nst.data.dataset.summaries import SUMMARIES, changes_of
from batch_nst.data.images.codec import encode
from batch_nst.data.sources.photos import photo_id
from batch_nst.data.storage.store import Store
from batch_nst.errors import AuditError, IncompleteError, LeaseError
from batch_nst.recipe import Quality

COUNTS = dict.fromkeys(
    ("ok", "held_out", "unpaired", "rejected", "failed", "forgotten", "filtered", "pending", "gone"), 0
)
DIGEST = "0" * 32


class Dataset:
    """A dataset whose rows come out as told, without pictures."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.plan = plan_files.PLAN_SCHEMA.empty_table()
        self.present: set[bytes] = set()
        self.known: dict[str, str] = {}

    def add(self, *names: str) -> None:
        """Plan photos, two in a unit."""
        rows = planned_rows(names)
        self.plan = pa.concat_tables([self.plan, plan_files.cut(rows, 2, attempt=0)])
        self.present |= set(rows["id"].to_pylist())

    def retry(self, *names: str) -> None:
        """Plan photos once more."""
        attempt = 1 + max(row["attempt"] for row in self.plan.to_pylist() if row["key"] in names)
        self.plan = pa.concat_tables([self.plan, plan_files.cut(planned_rows(names), 2, attempt)])

    def make(self, **outcomes: str) -> None:
        """Commit the units of the latest attempts of these photos: ok, held_out, rejected or failed."""
        latest = {row["key"]: row["unit"] for row in self.plan.to_pylist()}
        for unit in sorted({latest[name] for name in outcomes}):
            members = [row for row in self.plan.to_pylist() if row["unit"] == unit]
            rows = [made_row(row, outcomes[row["key"]]) for row in members]
            digest = units.row_digest((row["id"], row["status"], b"", ()) for row in rows)
            self.known[unit] = json.dumps(units.commit_unit(self.store, unit, rows, digest))

    def gone(self, *names: str) -> None:
        """Take photos from the input."""
        self.present -= self.ids(*names)

    def ids(self, *names: str) -> set[bytes]:
        return {row["id"] for row in self.plan.to_pylist() if row["key"] in names}

    def seal(self, token: int = 1, known: bool = False) -> Snapshot:
        return seal(self.store, token, self.planned, self.known if known else {})

    @property
    def planned(self) -> pa.Table:
        return planned(self.plan, self.present)


def planned_rows(names: Sequence[str]) -> pa.Table:
    rows = [
        {"id": photo_id(name, "1", 0), "key": name, "source": name, "version": "1", "crop": 0}
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=plan_files.PLAN_SCHEMA)


def made_row(row: dict[str, Any], outcome: str = "ok", **more: object) -> dict[str, Any]:
    """The row of a unit that a planned one becomes."""
    split, status = ("held_out", "ok") if outcome == "held_out" else ("train", outcome)
    return {"id": row["id"], "uri": row["key"], "split": split, "status": status, **more}


def planned(plan: pa.Table, present: set[bytes]) -> pa.Table:
    held = pa.array([identity in present for identity in plan["id"].to_pylist()], pa.bool_())
    return plan.select(["id", "attempt", "unit"]).append_column("present", held)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(Store(str(tmp_path / "out")))


def uris(store: Store, snapshot: Snapshot, split: str) -> list[str]:
    names = [unit["unit"] for unit in snapshot.units]
    return sorted(row["uri"] for name in names for row in unit_pairs(store, snapshot, name, split))


def check(dataset: Dataset, snapshot: Snapshot, **counts: int) -> None:
    """The given counts and no others, in the snapshot, in its units, and in what is handed out."""
    assert snapshot.counts == COUNTS | counts
    assert latest_snapshot(dataset.store) == snapshot
    for status in ("ok", "held_out", "rejected", "failed"):
        assert sum(unit[status] for unit in snapshot.units) == snapshot.counts[status]
    assert len(uris(dataset.store, snapshot, "train")) == snapshot.counts["ok"]
    assert len(uris(dataset.store, snapshot, "held_out")) == snapshot.counts["held_out"]
    for unit in snapshot.units:
        assert len(list(unit_pairs(dataset.store, snapshot, unit["unit"], "train"))) == unit["ok"]


# --- sealing


def test_what_is_done_is_sealed_and_the_rest_is_pending(dataset: Dataset) -> None:
    dataset.add("a", "b", "c", "d", "e")
    dataset.make(a="ok", b="held_out", c="rejected", d="failed")
    snapshot = dataset.seal(token=7)
    check(dataset, snapshot, ok=1, held_out=1, rejected=1, failed=1, pending=1)
    assert (snapshot.number, snapshot.token, snapshot.left_out) == (1, 7, [])
    assert snapshot.done == 0.8
    assert dataset.store.list(SNAPSHOTS) == ["dataset/snapshots/000001.json"]


def test_nothing_done_is_sealed_too(dataset: Dataset) -> None:
    dataset.add("a", "b", "c")
    snapshot = dataset.seal()
    check(dataset, snapshot, pending=3)
    assert snapshot.done == 0


def test_sealing_again_gives_the_same_one_until_something_is_new(dataset: Dataset) -> None:
    dataset.add("a", "b", "c", "d")
    dataset.make(a="ok", b="ok")
    first = dataset.seal(token=1)
    assert dataset.seal(token=1) == dataset.seal(token=2, known=True) == first
    assert len(dataset.store.list(SNAPSHOTS)) == 1
    dataset.make(c="ok", d="held_out")
    second = dataset.seal(token=2)
    check(dataset, second, ok=3, held_out=1)
    assert second.number == 2
    assert second.digest != first.digest
    dataset.add("e")  # only pending is new: a snapshot, of the same training data
    third = dataset.seal(token=3)
    check(dataset, third, ok=3, held_out=1, pending=1)
    assert (third.number, third.digest) == (3, second.digest)
    dataset.add("f")
    fourth = dataset.seal(token=4)
    assert [each.first for each in (first, second, third, fourth)] == [1, 2, 2, 2]
    dataset.make(e="ok")
    assert dataset.seal(token=5).first == 5
    assert dataset.store.list(SNAPSHOTS) == [f"{SNAPSHOTS}/{number:06}.json" for number in range(1, 6)]


def test_what_the_caller_knows_changes_nothing_but_the_reading(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset.add("a", "b", "c")
    dataset.make(a="ok", b="failed")
    read = dataset.seal()
    for name in ("dataset/snapshots/000001.json", SUMMARIES):
        dataset.store.delete(name)
    monkeypatch.setattr(units, "read_summary", lambda *_: pytest.fail("it was known"))
    assert dataset.seal(known=True) == read
    dataset.make(c="ok")
    assert dataset.seal(known=True).counts["ok"] == 2
    dataset.known.clear()
    dataset.gone("a")
    assert dataset.seal(known=True).counts["gone"] == 1  # those of the last snapshot are known, too


def test_units_that_nobody_planned_are_ignored(dataset: Dataset) -> None:
    dataset.add("a")
    dataset.make(a="ok")
    units.commit_unit(dataset.store, "ff" * 16, [], "0")
    check(dataset, dataset.seal(), ok=1)


def test_two_datasets_with_the_same_content_have_the_same_digest(tmp_path: Path) -> None:
    digests = set()
    for name, order in (("one", "abcd"), ("two", "cdab")):
        dataset = Dataset(Store(str(tmp_path / name)))
        dataset.add("a", "b", "c", "d")
        for pair in (order[:2], order[2:]):
            dataset.make(**dict.fromkeys(pair, "ok"))
        digests.add(dataset.seal().digest)
    assert len(digests) == 1


# --- gone photos


def test_gone_photos_are_left_out_and_counted(dataset: Dataset) -> None:
    dataset.add("a", "b", "c", "d", "e", "f")
    dataset.make(a="ok", b="ok", c="held_out", d="rejected")
    before = dataset.seal()
    dataset.gone("a", "d", "f")
    snapshot = dataset.seal()
    check(dataset, snapshot, ok=1, held_out=1, pending=1, gone=2)
    assert snapshot.number == 2
    assert snapshot.digest != before.digest
    assert snapshot.left_out == sorted(identity.hex() for identity in dataset.ids("a", "d"))
    assert uris(dataset.store, snapshot, "train") == ["b"]
    assert uris(dataset.store, snapshot, "held_out") == ["c"]
    assert dataset.seal() == snapshot


def test_gone_photos_that_come_back_count_again(dataset: Dataset) -> None:
    dataset.add("a", "b")
    dataset.make(a="ok", b="ok")
    before = dataset.seal()
    dataset.gone("a")
    check(dataset, dataset.seal(), ok=1, gone=1)
    dataset.present |= dataset.ids("a")
    after = dataset.seal()
    check(dataset, after, ok=2)
    assert (after.number, after.digest) == (3, before.digest)


# --- later attempts


def test_a_later_attempt_takes_the_place_of_the_failed_one(dataset: Dataset) -> None:
    dataset.add("a", "b", "c", "d")
    dataset.make(a="ok", b="failed", c="failed", d="held_out")
    check(dataset, dataset.seal(), ok=1, held_out=1, failed=2)
    dataset.retry("b", "c")
    waiting = dataset.seal()
    check(dataset, waiting, ok=1, held_out=1, pending=2)  # asked for again, so not done
    assert waiting.done == 0.5
    dataset.make(b="ok", c="failed")
    snapshot = dataset.seal()
    check(dataset, snapshot, ok=2, held_out=1, failed=1)
    assert uris(dataset.store, snapshot, "train") == ["a", "b"]
    dataset.retry("c")
    dataset.make(c="rejected")
    check(dataset, dataset.seal(), ok=2, held_out=1, rejected=1)
    dataset.gone("b", "c")
    check(dataset, dataset.seal(), ok=1, held_out=1, gone=2)


# --- fencing


def test_a_zombie_with_an_older_lease_is_refused(dataset: Dataset) -> None:
    dataset.add("a", "b", "c")
    dataset.make(a="ok", b="ok")
    sealed = dataset.seal(token=5)
    dataset.make(c="ok")
    with pytest.raises(LeaseError, match=r"snapshot 1 was sealed under lease 5, later than ours, 4"):
        dataset.seal(token=4)
    assert latest_snapshot(dataset.store) == sealed
    assert dataset.seal(token=5).number == 2


def test_a_zombie_that_looked_before_is_refused(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.add("a", "b", "c")
    dataset.make(a="ok", b="ok")
    sealed = dataset.seal(token=5)
    monkeypatch.setattr("batch_nst.data.dataset.snapshot.latest_snapshot", lambda _: None)
    with pytest.raises(LeaseError, match=r"000001\.json: sealed by another run"):
        dataset.seal(token=4)
    monkeypatch.undo()
    assert latest_snapshot(dataset.store) == sealed


# --- reading


def test_a_snapshot_is_required(dataset: Dataset) -> None:
    assert latest_snapshot(dataset.store) is None
    with pytest.raises(IncompleteError, match="no sealed dataset"):
        require_snapshot(dataset.store)
    dataset.add("a", "b", "c", "d", "e", "f", "g", "h")
    dataset.make(a="ok", b="failed", c="rejected", d="held_out", e="ok", f="ok")
    snapshot = dataset.seal()
    assert require_snapshot(dataset.store, 0.75) == require_snapshot(dataset.store) == snapshot
    with pytest.raises(IncompleteError, match=r"holds 75\.0% of the planned images, .* asks for 80\.0%"):
        require_snapshot(dataset.store, 0.8)


def test_an_old_snapshot_is_not_changed_by_new_units(dataset: Dataset) -> None:
    dataset.add("a", "b", "c", "d")
    dataset.make(a="ok", b="ok")
    old = dataset.seal()
    dataset.make(c="ok", d="ok")
    dataset.seal()
    assert uris(dataset.store, old, "train") == ["a", "b"]


def test_sealing_is_not_quadratic(tmp_path: Path) -> None:
    few = min(seconds_to_seal(Store(str(tmp_path / str(attempt))), 4_000) for attempt in range(3))
    # In this process's own seconds, which are as long on a busy machine. It was a hundred times as much.
    assert seconds_to_seal(Store(str(tmp_path / "many")), 40_000) < 40 * few


def seconds_to_seal(store: Store, count: int) -> float:
    """A unit whose images are all gone: the worst case."""
    plan = plan_files.cut(planned_rows([str(index) for index in range(count)]), count, attempt=0)
    rows = [{"id": identity, "split": "train", "status": "ok"} for identity in plan["id"].to_pylist()]
    units.commit_unit(store, plan["unit"][0].as_py(), rows, "0")
    start = time.process_time()
    snapshot = seal(store, 1, planned(plan, set()), {})
    took = time.process_time() - start
    assert snapshot.counts == COUNTS | {"gone": count}
    assert uris(store, snapshot, "train") == []
    return took


# --- the audit


def test_nothing_is_sealed_where_a_unit_is_not_as_planned(dataset: Dataset) -> None:
    dataset.add("a", "b", "c", "d")
    dataset.make(a="ok", b="ok")
    sealed = dataset.seal()
    assert sealed.audit == {"planned": 4, "done": 2, "pending": 2, "gone": 0}
    unit = dataset.plan["unit"][2].as_py()
    units.commit_unit(dataset.store, unit, [{"id": b"?" * 16, "split": "train", "status": "ok"}], DIGEST)
    with pytest.raises(AuditError, match=r"holds 1 images, 2 were planned"):
        dataset.seal()
    assert latest_snapshot(dataset.store) == sealed


# --- the quality filter


def rated(store: Store, losses: dict[str, float], changes: dict[str, float]) -> Dataset:
    """Photos a00, a01, ... and those named; loss 100, moved by 30 grey levels, if not told; c* held out."""
    dataset = Dataset(store)
    names = [f"a{number:02}" for number in range(22)] + sorted({*losses, *changes})
    dataset.add(*names)
    members: dict[str, list[dict[str, Any]]] = {}
    for row in dataset.plan.to_pylist():
        name = row["key"]
        figures = {"total_loss": losses.get(name, 100.0), "change": changes.get(name, 30.0)}
        made = made_row(row, "held_out" if name.startswith("c") else "ok", **figures)
        members.setdefault(row["unit"], []).append(made)
    for unit, rows in members.items():
        dataset.known[unit] = json.dumps(units.commit_unit(store, unit, rows, DIGEST))
    return dataset


@pytest.mark.parametrize("known", [False, True])
def test_pairs_that_break_a_rule_are_left_out_of_training_and_counted(dataset: Dataset, known: bool) -> None:
    wild = rated(dataset.store, {"b1": 1e4, "c1": 1e9}, {"b2": 0.5, "c2": 0.0})
    snapshot = wild.seal(known=known)
    check(wild, snapshot, ok=22, held_out=2, filtered=2)
    assert snapshot.quality["left_out"] == {
        "barely_changed": [identity.hex() for identity in wild.ids("b2")],
        "blew_up": [identity.hex() for identity in wild.ids("b1")],
    }
    assert (snapshot.quality["pairs"], snapshot.quality["losses"]["median"]) == (24, 100.0)
    assert {"b1", "b2"}.isdisjoint(uris(wild.store, snapshot, "train"))
    assert uris(wild.store, snapshot, "held_out") == ["c1", "c2"]  # evaluation sees what there is
    assert wild.seal() == snapshot
    assert snapshot.done == 1


def test_rules_are_the_recipes_and_rows_stay_as_they_are(dataset: Dataset) -> None:
    wild = rated(dataset.store, {"b1": 1e4}, {"b2": 0.5})
    before = {name: wild.store.read(name) for name in wild.store.list(units.DATA)}
    first = wild.seal()
    off = seal(wild.store, 1, wild.planned, {}, Quality(max_deviation=None, min_change=None))
    check(wild, off, ok=24)
    assert (off.number, off.quality["left_out"]) == (2, {"barely_changed": [], "blew_up": []})
    assert off.digest != first.digest
    assert {name: wild.store.read(name) for name in wild.store.list(units.DATA)} == before


def test_a_pair_that_is_gone_is_judged_no_more(dataset: Dataset) -> None:
    wild = rated(dataset.store, {"b1": 1e4}, {"b2": 0.5})
    wild.gone("b1")
    check(wild, wild.seal(), ok=22, filtered=1, gone=1)


# --- what version 0.1.0 left


def test_a_unit_whose_summary_says_less_is_read_once(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset.add("a", "b", "c", "d")
    flat = [{"bytes": encode(np.full((8, 8, 3), shade, np.uint8), "png"), "path": None} for shade in (9, 49)]
    rows = [
        made_row(row, total_loss=7.0, content=flat[0], stylized=flat[row["key"] == "a"])
        for row in dataset.plan.to_pylist()[:2]
    ]
    unit = dataset.plan["unit"][0].as_py()
    summary = {"unit": unit, "digest": DIGEST, "ok": 2, "held_out": 0, "rejected": 0, "failed": 0}
    old = pa.Table.from_pylist(rows, schema=units.UNIT_SCHEMA)
    old = old.replace_schema_metadata({"batch_nst": json.dumps(summary)})
    pq.write_table(old, buffer := io.BytesIO())
    dataset.store.create(units.unit_object(unit), buffer.getvalue())
    assert changes_of(units.read_summary(dataset.store, unit), rows) == {
        rows[0]["id"]: 40.0,
        rows[1]["id"]: 0.0,
    }
    check(dataset, dataset.seal(), ok=1, filtered=1, pending=2)
    monkeypatch.setattr(units, "read_summary", lambda *_: pytest.fail("it was read before"))
    dataset.gone("a")
    check(dataset, dataset.seal(), filtered=1, gone=1, pending=2)


def test_a_snapshot_that_says_less_stands_where_nothing_has_changed(dataset: Dataset) -> None:
    dataset.add("a", "b")
    dataset.make(a="ok", b="ok")
    old = json.loads(json.dumps(dataclasses.asdict(dataset.seal())))
    for name in ("quality", "audit"):
        del old[name]
    for name in ("forgotten", "filtered"):
        del old["counts"][name]
    dataset.store.replace(f"{SNAPSHOTS}/000001.json", json.dumps(old).encode())
    kept = dataset.seal()
    assert (kept.number, kept.done, kept.quality) == (1, 1.0, {})
    assert uris(dataset.store, kept, "train") == ["a", "b"]
