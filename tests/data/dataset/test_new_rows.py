"""Laws of a census: each image of the input is either planned or new, once, however often it is named."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from batch_nst.data.dataset import new_rows
from batch_nst.data.dataset.new_rows import PlanDiff, diff_with_plan
from batch_nst.data.sources.photos import LISTED, Photo, photo_id

PHOTOS = [Photo(f"{index:03}.jpg", f"/photos/{index:03}.jpg", str(index)) for index in range(40)]


def listing(photos: list[Photo], batch: int = 9) -> Iterator[pa.RecordBatch]:
    for first in range(0, len(photos), batch):
        rows = [photo._asdict() for photo in photos[first : first + batch]]
        yield pa.RecordBatch.from_pylist(rows, schema=LISTED)


def ids(photos: list[Photo], crops: int = 1) -> list[bytes]:
    return [photo_id(photo.key, photo.version, crop) for photo in photos for crop in range(crops)]


def taken(photos: list[Photo], planned: list[bytes], crops: int = 1) -> tuple[PlanDiff, list[bytes]]:
    found = diff_with_plan(listing(photos), crops, pa.chunked_array([pa.array(planned, pa.binary(16))]))
    return found, [id for table in found.new for id in table["id"].to_pylist()]


@pytest.mark.parametrize("crops", [1, 3])
def test_what_is_found_is_planned_or_new(crops: int) -> None:
    found, new = taken(PHOTOS[10:], ids(PHOTOS[:25], crops), crops)
    assert found.found == 30 * crops
    assert found.present.tolist() == [place >= 10 * crops for place in range(25 * crops)]
    assert (found.new.count, new) == (15 * crops, ids(PHOTOS[25:], crops))


def test_a_photo_that_is_named_twice_counts_once() -> None:
    twice = [*PHOTOS[:20], *PHOTOS[5:30], *PHOTOS[:3]]
    found, new = taken(twice, ids(PHOTOS[10:12]))
    assert found.found == 30
    assert new == ids([*PHOTOS[:10], *PHOTOS[12:30]])
    assert found.new.count == len(new)


def test_every_attempt_of_an_id_is_as_present_as_the_first() -> None:
    planned = [*ids(PHOTOS[:6]), *ids(PHOTOS[2:4]), *ids(PHOTOS[3:4])]
    found, new = taken(PHOTOS[3:5], planned)
    assert found.present.tolist() == [False] * 3 + [True, True, False] + [False, True] + [True]
    assert (found.found, new) == (2, [])


def test_rows_are_those_of_the_listing_and_are_read_as_often_as_one_likes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(new_rows, "_IN_MEMORY", 100)  # bytes, so that a file is needed
    odd = [
        *PHOTOS,
        Photo("tar/a\n#.jpg", "s3://b/x.tar", "v", 2**40, 9),
        Photo("7", "s3://b/x.parquet", "w", 7),
    ]
    found, _ = taken(odd, [], crops=2)
    first, second = (pa.concat_tables(list(found.new)) for _ in range(2))
    assert first.equals(second)
    expected = [photo._asdict() for photo in odd for _ in range(2)]
    assert first.drop_columns(["id", "crop"]).to_pylist() == [
        {name: row[name] for name in LISTED.names} for row in expected
    ]
    assert first["crop"].to_pylist() == [0, 1] * len(odd)
    assert first["id"].to_pylist() == ids(odd, 2)


def test_nothing_found_is_a_census_too() -> None:
    found, new = taken([], ids(PHOTOS[:2]))
    assert (found.found, found.new.count, new) == (0, 0, [])
    assert not np.any(found.present)
