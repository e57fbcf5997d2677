"""Laws of `rows.decode_unit`: planned photos are read once each, wherever they lie."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from batch_nst.data.inputs import Photo, list_photos, photo_id
from batch_nst.data.segments import Group
from batch_nst.data.storage import Store
from batch_nst.pipelines.rows import decode_unit, pack, planned_units, unpack, write_unit
from batch_nst.recipe import Generate


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


PHOTOS = {f"{index}.png": picture(index) for index in range(3)} | {"bad.png": b"no picture"}


def planned(photos: list[Photo], crops: int) -> list[dict[str, Any]]:
    return [
        {
            **photo._asdict(),
            # The crop is drawn from the id: the same for the same photo in whatever it lies.
            "id": photo_id(photo.key.rpartition("/")[2], "", crop),
            "crop": crop,
            "split": "train",
        }
        for photo in photos
        for crop in range(crops)
    ]


def put_folder(root: Path) -> None:
    for name, data in PHOTOS.items():
        (root / name).write_bytes(data)


def put_tar(root: Path) -> None:
    with tarfile.open(root / "a.tar", "w") as tar:
        for name, data in PHOTOS.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def put_parquet(root: Path) -> None:
    table = pa.table({"id": list(PHOTOS), "image": list(PHOTOS.values())})
    pq.write_table(table, root / "a.parquet", row_group_size=2)


def decode(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return decode_unit(
        {"unit": "u", "photos": pack(rows), "outage": ""}, Generate(input=".", image_size=32, min_side=32)
    )


def test_a_unit_is_the_same_whatever_its_photos_lie_in(tmp_path: Path) -> None:
    found = []
    for put in (put_folder, put_tar, put_parquet):
        root = tmp_path / put.__name__
        root.mkdir()
        put(root)
        unit = decode(planned(list_photos(str(root)), crops=2))
        assert (unit["outage"], unit["photos_read"]) == ("", 4)
        assert unit["bytes_read"] == sum(map(len, PHOTOS.values()))
        rows = unpack(unit["photos"])
        assert sorted(row["status"] for row in rows) == ["ok"] * 6 + ["rejected"] * 2
        found.append({row["id"]: row["content"] for row in rows})
        uri = next(row["uri"] for row in rows if row["id"] == photo_id("1.png", "", 0))
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
    rows = planned(list_photos(str(tmp_path))[:1], crops=1)
    del rows[0]["offset"], rows[0]["length"]
    assert unpack(decode(rows)["photos"])[0]["status"] == "ok"


def test_a_node_that_does_not_see_the_output_makes_nothing_and_writes_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "of another node"))
    chunk = {"group": Group("dataset/plan/000001.parquet", 0, 2)._asdict(), "units": ["a", "b"]}
    rows = planned_units(chunk, store, {}, str)
    assert [row["unit"] for row in rows] == ["a", "b"]
    written = write_unit({"unit": "a", "outage": "", "photos": pack([])}, store, Generate(input="photos"))
    for reason in (rows[0]["outage"], rows[1]["outage"], written["outage"], written["refused"]):
        assert f"does not see output {store.uri}; allowed: a bucket, or a disk that all nodes share" in reason
    assert list(tmp_path.iterdir()) == []
