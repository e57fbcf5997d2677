"""Laws of `rows.decode_unit`: planned photos are read once each, wherever they lie."""

import io
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from batch_nst.data.dataset.plan import Chunk
from batch_nst.data.dataset.plan_files import Group
from batch_nst.data.dataset.records import PhotoRecord, UnitRecord
from batch_nst.data.sources.photos import Photo, list_photos, photo_id
from batch_nst.data.storage.store import Store
from batch_nst.pipelines.generate.decode import (
    Attempt,
    decode_unit,
    first_attempt,
    never,
    planned_photo,
    planned_units,
)
from batch_nst.pipelines.generate.write import write_unit
from batch_nst.recipe import Generate


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


PHOTOS = {f"{index}.png": picture(index) for index in range(3)} | {"bad.png": b"no picture"}


def planned(photos: list[Photo], crops: int) -> list[PhotoRecord]:
    return [
        # The crop is drawn from the id: the same for the same photo in whatever it lies.
        planned_photo(photo, photo_id(photo.key.rpartition("/")[2], "", crop), "train", crop)
        for photo in photos
        for crop in range(crops)
    ]


def put_folder(root: Path, photos: dict[str, bytes] = PHOTOS) -> None:
    for name, data in photos.items():
        (root / name).write_bytes(data)


def put_tar(root: Path, photos: dict[str, bytes] = PHOTOS) -> None:
    with tarfile.open(root / "a.tar", "w") as tar:
        for name, data in photos.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def put_parquet(root: Path, photos: dict[str, bytes] = PHOTOS) -> None:
    table = pa.table({"id": list(photos), "image": list(photos.values())})
    pq.write_table(table, root / "a.parquet", row_group_size=2)


LIMITS = Generate(input=".", image_size=32, min_side=32)


def decode(
    photos: list[PhotoRecord], limits: Generate = LIMITS, attempt: Attempt = first_attempt
) -> UnitRecord:
    return decode_unit(UnitRecord("u", tuple(photos)), limits, never, attempt)


def test_a_unit_is_the_same_whatever_its_photos_lie_in(tmp_path: Path) -> None:
    found = []
    for put in (put_folder, put_tar, put_parquet):
        root = tmp_path / put.__name__
        root.mkdir()
        put(root)
        unit = decode(planned(list_photos(str(root)), crops=2))
        assert (unit.outage, unit.photos_read) == ("", 4)
        assert unit.bytes_read == sum(map(len, PHOTOS.values()))
        assert sorted(photo.status for photo in unit.photos) == ["ok"] * 6 + ["rejected"] * 2
        found.append({photo.id: photo.content for photo in unit.photos})
        uri = next(photo.uri for photo in unit.photos if photo.id == photo_id("1.png", "", 0))
        assert (
            uri
            == {
                put_folder: f"{root}/1.png",
                put_tar: f"tar://1.png::{root}/a.tar",
                put_parquet: f"{root}/a.parquet#row=1",
            }[put]
        )
    assert found[0] == found[1] == found[2]


def test_rows_that_were_planned_before_there_were_parts_are_objects(tmp_path: Path) -> None:
    put_folder(tmp_path)
    (photo,) = planned(list_photos(str(tmp_path))[:1], crops=1)
    assert decode([replace(photo, offset=None, length=None)]).photos[0].ok


@pytest.mark.parametrize("put", [put_folder, put_tar, put_parquet])
def test_the_files_of_a_unit_are_not_all_in_memory_at_once(
    tmp_path: Path, put: Callable[[Path, dict[str, bytes]], None]
) -> None:
    """What it takes does not grow with the unit; 64 photos are read, and each is looked at."""
    size, noise = 1 << 18, np.random.default_rng(0)
    put(tmp_path, {f"{index:02}.png": noise.bytes(size) for index in range(64)})
    rows = planned(list_photos(str(tmp_path)), crops=1)
    limits = LIMITS.model_copy(update={"max_bytes": size})
    decode(rows[:1], limits)  # the decoder has been started, and modules are imported
    tracemalloc.start()
    unit = decode(rows, limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (unit.photos_read, unit.bytes_read) == (64, 64 * size)
    assert {photo.reason for photo in unit.photos} == {"not_an_image"}
    assert peak < 24 * size


# --- workers that die


def test_a_unit_that_has_ended_three_workers_is_given_up(tmp_path: Path) -> None:
    put_folder(tmp_path)
    rows, steps = planned(list_photos(str(tmp_path)), crops=2), []

    def so_many(deaths: int) -> Attempt:
        @contextmanager
        def attempt(step: str) -> Iterator[int]:
            steps.append(f"begin {step}")
            yield deaths
            steps.append(f"end {step}")

        return attempt

    assert decode(rows, attempt=so_many(2)).photos == decode(rows).photos
    assert steps == ["begin decode u", "end decode u"]
    unit = decode(rows, attempt=so_many(3))
    assert steps == 2 * ["begin decode u", "end decode u"]
    assert (unit.outage, unit.photos_read, unit.bytes_read) == ("", 0, 0)
    assert [photo.id for photo in unit.photos] == [photo.id for photo in rows]
    assert {photo.uri for photo in unit.photos} == {f"{tmp_path}/{name}" for name in PHOTOS}
    assert {(photo.status, photo.reason, photo.detail) for photo in unit.photos} == {
        ("failed", "worker_died", "its unit has ended 3 workers")
    }


def test_a_node_that_does_not_see_the_output_makes_nothing_and_writes_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "of another node"))
    chunk = Chunk(Group("dataset/plan/000001.parquet", 0, 2), ["a", "b"])
    first, second = planned_units(chunk, store, lambda _: "train")
    assert (first.unit, second.unit) == ("a", "b")
    written = write_unit(UnitRecord("a"), store, Generate(input="photos"))
    for reason in (first.outage, second.outage, written.outage, written.refused):
        assert f"does not see output {store.uri}; allowed: a bucket, or a disk that all nodes share" in reason
    assert list(tmp_path.iterdir()) == []
