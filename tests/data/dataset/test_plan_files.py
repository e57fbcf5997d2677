"""Laws of what is written down: an id is in one unit an attempt, segments are read as they were written."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pytest

from batch_nst.data.dataset import plan_files
from batch_nst.data.dataset.new_rows import diff_with_plan
from batch_nst.data.dataset.plan_files import PLAN_SCHEMA, Written
from batch_nst.data.sources.photos import LISTED, Photo, photo_id
from batch_nst.data.storage.store import Store
from batch_nst.errors import LeaseError

PHOTOS = [Photo(f"{index:03}.jpg", f"s3://photos/{index:03}.jpg", f"etag{index}") for index in range(50)]


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: str) -> Store:
    if request.param == "disk":
        return Store(f"{tmp_path}/out")
    return Store(f"{request.getfixturevalue('s3')}/segments/{request.node.name}")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of two units, and segments of two groups of units of 4 images."""
    monkeypatch.setattr(plan_files, "GROUP_UNITS", 2)
    monkeypatch.setattr(plan_files, "SEGMENT_ROWS", 16)


def listing(photos: list[Photo], batch: int = 7) -> Iterator[pa.RecordBatch]:
    for first in range(0, len(photos), batch):
        rows = [photo._asdict() for photo in photos[first : first + batch]]
        yield pa.RecordBatch.from_pylist(rows, schema=LISTED)


def new_rows(photos: list[Photo], crops: int = 1, planned: pa.Table | None = None) -> list[pa.Table]:
    ids = (planned or PLAN_SCHEMA.empty_table())["id"]
    return list(diff_with_plan(listing(photos), crops, ids).new)


def cut(
    photos: list[Photo], crops: int = 1, unit_images: int = 4, planned: pa.Table | None = None
) -> pa.Table:
    rows = new_rows(photos, crops, planned)
    groups = plan_files.cut_groups(rows, unit_images, attempt=0)
    return pa.concat_tables([PLAN_SCHEMA.empty_table(), *groups])


def written_down(store: Store, *groups: pa.Table) -> Written:
    return plan_files.append_segments(store, groups, plan_files.read_written(store))


def whole(store: Store, written: Written) -> pa.Table:
    tables = [plan_files.read_group(store, group) for group in written.groups]
    return pa.concat_tables([PLAN_SCHEMA.empty_table(), *tables])


def test_every_crop_is_planned_once_in_units_of_the_given_size() -> None:
    plan = cut(PHOTOS, crops=3, unit_images=16)
    assert plan.schema == PLAN_SCHEMA
    rows = plan.to_pylist()
    assert [(row["key"], row["crop"]) for row in rows] == [(p.key, c) for p in PHOTOS for c in range(3)]
    assert [row["id"] for row in rows] == [photo_id(row["key"], row["version"], row["crop"]) for row in rows]
    assert len({row["id"] for row in rows}) == 150
    assert sorted(Counter(row["unit"] for row in rows).values()) == [6] + [16] * 9
    assert {row["attempt"] for row in rows} == {0}


@pytest.mark.usefixtures("small")
def test_the_cutting_is_blind_to_how_rows_arrive() -> None:
    rows = pa.concat_tables(new_rows(PHOTOS))
    at_once = plan_files.cut(rows, 4, attempt=0)
    for size in (1, 7, 50):
        parts = [rows.slice(first, size) for first in range(0, len(PHOTOS), size)]
        groups = list(plan_files.cut_groups(parts, 4, attempt=0))
        assert [group.num_rows for group in groups] == [8] * 6 + [2]
        assert pa.concat_tables(groups).equals(at_once)


def test_new_units_take_only_what_no_segment_has() -> None:
    old = cut(PHOTOS[::2])
    new = cut(PHOTOS, planned=old)
    ids = [set(table["id"].to_pylist()) for table in (old, new, cut(PHOTOS))]
    assert ids[0] | ids[1] == ids[2]
    assert not ids[0] & ids[1]
    assert not set(old["unit"].to_pylist()) & set(new["unit"].to_pylist())
    more = cut(PHOTOS, crops=2, planned=pa.concat_tables([old, new]))  # more crops: only the second ones
    assert (set(more["crop"].to_pylist()), more.num_rows) == ({1}, len(PHOTOS))


def test_a_units_name_depends_on_its_ids_and_the_attempt_alone() -> None:
    one = cut(PHOTOS[:4])
    moved = cut([photo._replace(source=f"/mnt/{photo.key}") for photo in PHOTOS])
    for plan in (one, moved.slice(0, 4)):
        assert plan["unit"].to_pylist() == ["d7d7507d8080e3fd8a3cf8b45d25ec13"] * 4
    again = plan_files.cut(one, 4, attempt=1)
    fewer = plan_files.cut(one.slice(0, 3), 4, attempt=0)
    for plan in (again, fewer):
        assert not set(plan["unit"].to_pylist()) & set(one["unit"].to_pylist())
    assert again.drop_columns(["unit", "attempt"]).equals(one.drop_columns(["unit", "attempt"]))
    assert again["attempt"].to_pylist() == [1] * 4


@pytest.mark.usefixtures("small")
def test_segments_are_read_as_they_were_written(store: Store) -> None:
    assert plan_files.read_written(store).rows.num_rows == 0
    odd = [
        Photo("é\n #%.jpg", "s3://b/é\n #%.jpg", "missing", 2**40, 17),
        Photo("row", "s3://b/x.parquet", "1", 5),
    ]
    first = list(plan_files.cut_groups(new_rows(PHOTOS), 4, attempt=0))
    written = plan_files.append_segments(store, first, plan_files.read_written(store), listing="of the first")
    assert store.list(plan_files.PLAN) == [f"dataset/plan/{number:06}.parquet" for number in (1, 2, 3, 4)]
    assert [group.rows for group in written.groups] == [8] * 6 + [2]
    assert plan_files.segments_for(len(first), 4) == 4
    found = plan_files.read_written(store)
    assert (found.rows.to_pylist(), *found[1:]) == (written.rows.to_pylist(), *written[1:])
    assert (found.segments, found.listing) == (4, "of the first")
    written = written_down(store, cut(odd))
    assert (written.segments, written.listing) == (5, "")
    assert whole(store, written).equals(pa.concat_tables([*first, cut(odd)]))
    outline = whole(store, written).select(["id", "attempt", "unit"])
    assert written.rows.to_pylist() == outline.to_pylist()


@pytest.mark.usefixtures("small")
def test_some_units_of_a_group_are_read_without_the_others(store: Store) -> None:
    (group, *_), plan = written_down(store, cut(PHOTOS[:8])).groups, cut(PHOTOS[:8])
    second = plan["unit"].to_pylist()[4]
    assert plan_files.read_group(store, group, [second]).equals(plan.slice(4))
    keys = plan_files.read_group(store, group, [second], ["unit", "key"])
    assert keys.to_pydict() == {"unit": [second] * 4, "key": plan["key"].to_pylist()[4:]}


def test_a_segment_is_written_by_one(store: Store) -> None:
    before = plan_files.read_written(store)
    written = written_down(store, cut(PHOTOS))
    with pytest.raises(LeaseError, match=r"000001\.parquet: written by another run"):
        plan_files.append_segments(store, [cut(PHOTOS[:3])], before)  # a zombie that looked before
    assert plan_files.read_written(store).rows.to_pylist() == written.rows.to_pylist()


@pytest.mark.usefixtures("small")
def test_where_a_segment_is_deleted_the_next_ones_find_a_number(store: Store) -> None:
    written_down(store, *plan_files.cut_groups(new_rows(PHOTOS), 4, attempt=0))
    store.delete(f"{plan_files.PLAN}/000002.parquet")
    store.create(f"{plan_files.PLAN}/.DS_Store", b"what a file manager leaves")
    left = plan_files.read_written(store)
    assert (left.segments, left.rows.num_rows) == (3, len(PHOTOS) - 16)
    again = new_rows(PHOTOS, planned=whole(store, left))
    assert sum(table.num_rows for table in again) == 16
    written = written_down(store, *plan_files.cut_groups(again, 4, attempt=0))
    assert store.exists(f"{plan_files.PLAN}/000005.parquet")
    assert (written.segments, written.rows.num_rows) == (4, len(PHOTOS))
