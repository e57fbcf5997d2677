"""Laws of every kind of input, on a disk and in a bucket: the same photos, ids that stay, few reads."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from batch_nst.data.images import codec
from batch_nst.data.sources.listing import list_files
from batch_nst.data.sources.passed import Passed
from batch_nst.data.sources.photos import (
    BATCH,
    LISTED,
    Photo,
    input_version,
    list_photos,
    photo_id,
    stream_photos,
    uri_of,
)
from batch_nst.data.sources.reader import read_photos
from batch_nst.data.storage import fetch
from batch_nst.data.storage.fetch import TooLarge
from batch_nst.data.storage.store import Store
from batch_nst.errors import OutageError, RecipeError, StorageError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["a.png", "deep/b c#.png", "deep/é.png", "z.png"]
Photos = dict[str, bytes]
Put = Callable[[Store, Photos], str]


@pytest.fixture
def bucket(s3: str, tmp_path: Path) -> Store:
    return Store(f"{s3}/{tmp_path.name}")


@pytest.fixture(params=["disk", "s3"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    on_disk = request.param == "disk"
    return Store(str(tmp_path / "home")) if on_disk else request.getfixturevalue("bucket")


def picture(seed: int, side: int = 24) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


PHOTOS = {name: picture(seed) for seed, name in enumerate(NAMES)}


def tar_of(photos: Photos, mtime: int = 7) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in photos.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def parquet_of(table: pa.Table, rows: int | None = None) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=rows, compression="none")
    return buffer.getvalue()


def structs(photos: Photos) -> pa.Array:
    return pa.array([{"bytes": data, "path": name} for name, data in photos.items()], IMAGE)


def csv_of(rows: list[list[str]]) -> bytes:
    return "\n".join(",".join(f'"{value}"' for value in row) for row in rows).encode()


def put_folder(home: Store, photos: Photos) -> str:
    for name, data in photos.items():
        home.replace(f"folder/{name}", data)
    return home.join("folder")


def put_tars(home: Store, photos: Photos) -> str:
    names = list(photos)
    home.replace("tars/one.tar", tar_of({name: photos[name] for name in names[::2]}))
    home.replace("tars/two.tar", tar_of({name: photos[name] for name in names[1::2]} | {"x.json": b"{}"}))
    return home.join("tars")


def put_structs(home: Store, photos: Photos) -> str:
    table = pa.table({"label": range(len(photos)), "image": structs(photos)})
    home.replace("structs/one.parquet", parquet_of(table.slice(0, 3), rows=2))
    home.replace("structs/two.parquet", parquet_of(table.slice(3)))
    return home.join("structs")


def put_bytes(home: Store, photos: Photos) -> str:
    table = pa.table({"id": list(photos), "jpg": list(photos.values())})
    home.replace("bytes.parquet", parquet_of(table, rows=3))
    return home.join("bytes.parquet")


def put_table(home: Store, photos: Photos) -> str:
    folder = put_folder(home, photos)
    uris, etags = [f"{folder}/{name}" for name in photos], list("1234")[: len(photos)]
    home.replace("table.parquet", parquet_of(pa.table({"uri": uris, "id": list(photos), "etag": etags})))
    return home.join("table.parquet")


def put_csv(home: Store, photos: Photos) -> str:
    put_folder(home, photos)
    rows = [["label", "file_name", "key"], *(["1", f"folder/{name}", name] for name in photos)]
    home.replace("table.csv", csv_of(rows))
    return home.join("*.csv")


PUT = [put_folder, put_tars, put_structs, put_bytes, put_table, put_csv]


def ids(source: str) -> dict[str, bytes]:
    return {photo.key: photo_id(photo.key, photo.version, 0) for photo in list_photos(source)}


# --- the same photos in whatever they lie


@pytest.mark.parametrize("put", PUT)
def test_every_kind_gives_the_same_pixels(home: Store, put: Put) -> None:
    photos = list_photos(put(home, PHOTOS))
    assert len(photos) == len(PHOTOS)
    limits = {"min_side": 1, "max_bytes": 1 << 20, "max_pixels": 1 << 20}
    for photo, data in zip(photos, read_photos(photos, 1 << 20), strict=True):
        (name,) = (name for name in NAMES if photo.key.endswith(name))
        assert isinstance(data, bytes)
        assert (codec.decode(data, **limits) == codec.decode(PHOTOS[name], **limits)).all()


@pytest.mark.parametrize("put", PUT)
def test_a_listing_streams_in_one_order(home: Store, put: Put) -> None:
    source = put(home, PHOTOS)
    batches = list(stream_photos(source))
    assert all(batch.schema == LISTED for batch in batches)
    assert list(stream_photos(source)) == batches


def test_uris_say_where_a_photo_is(home: Store) -> None:
    assert uri_of(list_photos(put_folder(home, PHOTOS))[0]) == home.join("folder/a.png")
    tars = [uri_of(photo) for photo in list_photos(put_tars(home, PHOTOS))]
    assert tars[1] == f"tar://deep/é.png::{home.join('tars/one.tar')}"
    rows = [uri_of(photo) for photo in list_photos(put_structs(home, PHOTOS))]
    assert rows[1] == f"{home.join('structs/one.parquet')}#row=1"


# --- ids stay


def test_members_of_a_tar_keep_their_ids_when_others_come_and_go(home: Store) -> None:
    source = put_tars(home, PHOTOS)
    before = ids(source)
    home.replace("tars/three.tar", tar_of({"new.png": b"x"}))
    home.replace("tars/one.tar", tar_of({"0.png": b"y" * 5000, "deep/é.png": PHOTOS["deep/é.png"]}))
    after = ids(source)
    assert after.keys() - before.keys() == {"three.tar/new.png", "one.tar/0.png"}
    assert before.keys() - after.keys() == {"one.tar/a.png"}
    assert all(after[key] == before[key] for key in before.keys() & after.keys())
    home.replace("tars/two.tar", tar_of(dict(zip(NAMES[1::2], [b"new", PHOTOS["z.png"]], strict=True))))
    again = ids(source)
    assert {key for key in again if again[key] != after[key]} == {"two.tar/deep/b c#.png"}


def test_rows_of_a_parquet_file_keep_their_ids_until_it_is_written_anew(home: Store) -> None:
    source = put_structs(home, PHOTOS)
    before = ids(source)
    home.replace("structs/three.parquet", parquet_of(pa.table({"image": structs({"new.png": b"x"})})))
    home.delete("structs/two.parquet")
    after = ids(source)
    assert sorted(after) == sorted(["three.parquet/new.png", *(f"one.parquet/{name}" for name in NAMES[:3])])
    assert all(after[key] == before[key] for key in before.keys() & after.keys())
    home.replace("structs/one.parquet", parquet_of(pa.table({"image": structs({"a.png": b"other"})})))
    assert ids(source)["one.parquet/a.png"] != before["one.parquet/a.png"]


def test_photos_of_a_table_keep_their_ids_when_others_come_and_go(home: Store) -> None:
    def listed(names: list[str], versions: list[str]) -> dict[str, bytes]:
        home.replace("a.parquet", parquet_of(pa.table({"uri": names, "version": versions})))
        return ids(home.join("a.parquet"))

    before = listed(["a.png", "b.png"], ["1", "1"])
    after = listed(["0.png", "b.png", "a.png"], ["1", "2", "1"])
    assert after[home.join("a.png")] == before[home.join("a.png")]
    assert after[home.join("b.png")] != before[home.join("b.png")]


def test_photos_of_a_table_without_versions_keep_their_ids_too(home: Store) -> None:
    def listed(names: list[str]) -> dict[str, bytes]:
        home.replace("a.csv", csv_of([["file_name", "key"], *([f"folder/{name}", name] for name in names)]))
        return ids(home.join("a.csv"))

    put_folder(home, PHOTOS)
    before, after = listed(NAMES[:3]), listed(["0.png", *NAMES[1:]])
    assert sorted(after) == ["0.png", *NAMES[1:]]
    assert all(after[name] == before[name] for name in NAMES[1:3])


@pytest.mark.parametrize("put", PUT)
def test_the_version_of_an_input_changes_with_its_files(home: Store, put: Put) -> None:
    source = put(home, PHOTOS)
    version = input_version(source)
    assert (version is None) == (put in (put_folder, put_csv))  # their photos must be looked at
    assert input_version(source) == version
    if version is not None:
        put(home, {name: PHOTOS[name] for name in NAMES[:3]})
        assert input_version(source) != version


def test_lists_and_nothing_have_no_version(home: Store) -> None:
    home.replace("list.txt", b"a.png")
    assert input_version(home.join("list.txt")) is None
    assert input_version([home.join("a.png")]) is None
    assert input_version(home.join("*.tar")) is None


# --- reading


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Sizes of what was read of objects in a bucket since the last call."""
    sizes: list[int] = []
    get = fetch.get_range

    def noted(*arguments: Any) -> tuple[bytes, str]:
        data, version = get(*arguments)
        sizes.append(len(data))
        return data, version

    monkeypatch.setattr(fetch, "get_range", noted)
    return lambda: [sizes.pop() for _ in range(len(sizes))]


def test_a_listing_reads_headers_and_names_and_a_photo_is_one_read(
    bucket: Store, reads: Callable[[], list[int]]
) -> None:
    photos = {f"{index:02}.png": picture(index, 128) for index in range(20)}  # of 49 kB
    sizes = sorted(map(len, photos.values()))

    folder = put_folder(bucket, photos)
    listed = list_photos(folder)
    assert reads() == []
    assert read_photos(listed, 1 << 20) == list(photos.values())
    assert sorted(reads()) == sizes
    assert [type(fault) for fault in read_photos(listed, 40_000)] == [TooLarge] * 20
    assert reads() == []  # the listing has told their sizes

    bucket.replace("a.tar", tar_of(photos))
    listed = list_photos(bucket.join("a.tar"))
    headers = reads()
    assert len(headers) <= 21
    assert sum(headers) <= 21 * 4096
    assert read_photos(listed, 1 << 20) == list(photos.values())
    assert sorted(reads()) == [size + 512 for size in sizes]

    bucket.replace("a.parquet", parquet_of(pa.table({"image": structs(photos)}), rows=10))
    listed = list_photos(bucket.join("a.parquet"))
    assert sum(reads()) <= 2 * (64 << 10) + 4096  # the footer twice, Arrow takes so much, and the names
    assert read_photos(listed[12:15], 1 << 20) == list(photos.values())[12:15]
    rows = reads()
    assert len(rows) <= 3
    assert sum(rows) <= 10 * 50_000 + (64 << 10)  # one row group, once

    bucket.replace("a.csv", csv_of([["uri", "version"], *([f"{folder}/{name}", "1"] for name in photos)]))
    assert len(list_photos(bucket.join("a.csv"))) == 20
    assert sum(reads()) <= 3 * len(bucket.read("a.csv"))


def test_images_without_bytes_are_read_from_their_paths(home: Store) -> None:
    """As Hugging Face's datasets write them when images are not embedded; some rows may be."""
    folder = put_folder(home, PHOTOS)
    rows = [
        {"bytes": None, "path": f"{folder}/a.png"},
        {"bytes": PHOTOS["deep/é.png"], "path": "deep/é.png"},
        {"bytes": None, "path": "folder/z.png"},
        {"bytes": None, "path": "s3://elsewhere/x.png"},
        {"bytes": None, "path": "s3://key:word@elsewhere/y.png"},
        {"bytes": None, "path": "gone.png"},
        {"bytes": None, "path": ""},
    ]
    home.replace("a.parquet", parquet_of(pa.table({"image": pa.array(rows, IMAGE)}), rows=2))
    photos = {photo.key.removeprefix("a.parquet/"): photo for photo in list_photos(home.join("a.parquet"))}
    found = dict(zip(photos, read_photos(list(photos.values()), 1 << 20), strict=True))
    assert found[f"{folder}/a.png"] == PHOTOS["a.png"]
    assert found["deep/é.png"] == PHOTOS["deep/é.png"]
    assert found["folder/z.png"] == PHOTOS["z.png"]
    assert str(found["s3://elsewhere/x.png"]).startswith("outside_stores")
    assert str(found["s3://key:***@elsewhere/y.png"]).startswith("holds_credentials")
    assert isinstance(found["gone.png"], FileNotFoundError)
    assert found[""] == b""
    assert "word" not in str(photos)
    reached = list_photos(home.join("a.parquet"), ["s3://elsewhere"])
    assert ("s3://elsewhere/x.png", None) in [(photo.source, photo.offset) for photo in reached]
    assert input_version(home.join("a.parquet"))


def test_a_table_of_paths_alone_has_whatever_type_for_bytes(home: Store) -> None:
    folder = put_folder(home, PHOTOS)
    for kind in (pa.null(), pa.binary(), pa.large_binary()):
        rows = [{"bytes": None, "path": f"{folder}/{name}"} for name in NAMES]
        image = pa.array(rows, pa.struct([("bytes", kind), ("path", pa.string())]))
        home.replace("b.parquet", parquet_of(pa.table({"label": [0] * 4, "image": image})))
        assert read_photos(list_photos(home.join("b.parquet")), 1 << 20) == [PHOTOS[name] for name in NAMES]


def test_what_cannot_be_read_says_why(home: Store) -> None:
    table = pa.table(
        {"image": pa.array([{"bytes": None, "path": None}, {"bytes": b"xyz", "path": "1"}, None], IMAGE)}
    )
    home.replace("a.parquet", parquet_of(table))
    home.replace("a.tar", tar_of({"0.png": b"xyz", "1.png": b"x"}))
    rows, members = list_photos(home.join("a.parquet")), list_photos(home.join("a.tar"))
    assert [photo.key for photo in rows] == [f"a.parquet/{row}" for row in range(3)]
    assert read_photos(rows, 3) == [b"", b"xyz", b""]
    assert read_photos(members, 3) == [b"xyz", b"x"]
    for fault in read_photos([rows[1], members[0]], 2):
        assert isinstance(fault, TooLarge)
        assert (fault.size, fault.max_bytes) == (3, 2)
    home.replace("a.parquet", parquet_of(table.slice(1)))
    home.delete("a.tar")
    gone = read_photos([*rows, *members, Photo("b", home.join("b.png"), "1")], 100)
    assert [type(fault) for fault in gone] == [FileNotFoundError] * 6
    home.delete("a.parquet")
    assert [type(fault) for fault in read_photos(rows, 100)] == [FileNotFoundError] * 3
    home.replace("a.parquet/a.png", b"a folder now")
    assert [type(fault) for fault in read_photos(rows, 100)] == [FileNotFoundError] * 3


# --- what is another one than was listed


def put_list(home: Store, photos: Photos) -> str:
    folder = put_folder(home, photos)
    home.replace("list.txt", "\n".join(f"{folder}/{name}" for name in photos).encode())
    return home.join("list.txt")


def overwrite(home: Store, name: str, data: bytes) -> None:
    home.replace(f"folder/{name}", data)
    if home.local_path:  # a clock may tick so slowly that files written one after the other are of one time
        os.utime(home.local_path / "folder" / name, ns=(0, 0))


@pytest.mark.parametrize("put", [put_folder, put_list, put_csv])
@pytest.mark.parametrize("new", ["other", "larger", "too large", "empty"])
def test_a_photo_that_was_overwritten_since_it_was_listed_is_gone(home: Store, put: Put, new: str) -> None:
    data = {
        "other": PHOTOS["a.png"][:-1] + b"!",  # of the same size
        "larger": PHOTOS["a.png"] + b"!",
        "too large": bytes((1 << 20) + 1),
        "empty": b"",
    }[new]
    source = put(home, PHOTOS)
    listed = list_photos(source)
    overwrite(home, "a.png", data)
    for photo, found in zip(listed, read_photos(listed, 1 << 20), strict=True):
        name = next(name for name in NAMES if photo.source.endswith(f"/folder/{name}"))
        if name == "a.png":
            assert isinstance(found, FileNotFoundError)
            assert str(found) == f"{photo.source}: its content has changed"
        else:
            assert found == PHOTOS[name]
    again = [photo for photo in list_photos(source) if photo.source.endswith("a.png")]
    assert again[0].version != next(photo.version for photo in listed if photo.key == again[0].key)
    (read,) = read_photos(again, 1 << 20)
    assert read == data or isinstance(read, TooLarge)


def test_a_photo_that_came_after_it_was_listed_as_missing_is_another_one(home: Store) -> None:
    uri = home.join("late.png")
    listed = list_photos([uri])
    home.replace("late.png", PHOTOS["a.png"])
    assert [type(found) for found in read_photos(listed, 1 << 20)] == [FileNotFoundError]
    assert read_photos(list_photos([uri]), 1 << 20) == [PHOTOS["a.png"]]


def test_an_empty_photo_is_empty_and_not_another_one(home: Store) -> None:
    source = put_folder(home, {"a.png": b""})
    assert read_photos(list_photos(source), 1 << 20) == [b""]


def test_versions_that_a_table_tells_are_not_held_against_the_store(home: Store) -> None:
    photos = list_photos(put_table(home, PHOTOS))
    overwrite(home, "a.png", b"new")
    assert read_photos(photos, 1 << 20) == [b"new", *(PHOTOS[name] for name in NAMES[1:])]


def test_large_objects_of_several_chunks_are_what_was_listed(bucket: Store) -> None:
    source = put_folder(bucket, {"large.png": bytes(20 << 20)})
    assert read_photos(list_photos(source), 32 << 20) == [bytes(20 << 20)]


def test_the_digest_that_google_lists_is_held_against_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/google/a.png", b"x")
    monkeypatch.setattr(fetch, "open_filesystem", lambda _: (memory, "/google/a.png"))
    listed = Photo("a.png", "gs://google/a.png", "QVKQdpWURg4uSFkikE80XQ==", length=1)
    assert isinstance(read_photos([listed], 10)[0], FileNotFoundError)
    assert read_photos([listed._replace(version="ndTkYSaMgDT1yFZOFVxnpg==")], 10) == [b"x"]
    assert read_photos([listed._replace(version="crc32c==")], 10) == [b"x"]
    memory.rm("/google", recursive=True)


def test_broken_pages_are_gone_and_do_not_stop_the_others(home: Store) -> None:
    data = parquet_of(pa.table({"jpg": [bytes(range(256)) * 40] * 4}), rows=2)
    broken = bytearray(data)
    broken[4:30] = b"\xff" * 26  # the head of the first page
    home.replace("a.parquet", bytes(broken))
    home.replace("b.png", b"x")
    rows = list_photos(home.join("a.parquet"))
    found = read_photos([*rows, Photo("b", home.join("b.png"), "")], 1 << 20)
    assert [type(outcome) for outcome in found] == [FileNotFoundError] * 4 + [bytes]
    assert "a.parquet: cannot be read" in str(found[0])


def test_an_outage_is_a_storage_error(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [list_photos(put(bucket, PHOTOS))[0] for put in (put_folder, put_tars, put_structs)]

    def refuse(*_: object) -> bytes:
        raise ConnectionResetError("reset")

    monkeypatch.setattr(fetch, "get_range", refuse)
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    assert [type(fault) for fault in read_photos(photos, 1 << 20)] == [OutageError] * 3
    for name in ("tars", "structs"):
        with pytest.raises(StorageError):  # and no fault of the recipe
            list_photos(bucket.join(name))


def test_names_that_are_not_unique_are_no_keys(home: Store) -> None:
    photos = pa.array([{"bytes": b"x", "path": "same"}, {"bytes": b"y", "path": "same"}], IMAGE)
    home.replace("a.parquet", parquet_of(pa.table({"image": photos})))
    assert [photo.key for photo in list_photos(home.join("a.parquet"))] == ["a.parquet/0", "a.parquet/1"]
    home.replace("a.parquet", parquet_of(pa.table({"image": photos, "id": [70, 50]})))
    assert [photo.key for photo in list_photos(home.join("a.parquet"))] == ["a.parquet/50", "a.parquet/70"]


def test_many_rows_come_in_bounded_batches(tmp_path: Path) -> None:
    count = BATCH + 5
    uris = pc.binary_join_element_wise("s3://b/", pa.array(range(count)).cast(pa.string()), "")
    pq.write_table(
        pa.table({"url": uris, "size": range(count), "mtime": range(count)}), tmp_path / "a.parquet"
    )
    batches = list(stream_photos(str(tmp_path / "a.parquet"), ["s3://b"]))
    assert [batch.num_rows for batch in batches] == [BATCH, 5]
    assert batches[1].to_pylist()[4] == {
        "key": f"s3://b/{count - 1}",
        "source": f"s3://b/{count - 1}",
        "offset": None,
        "length": None,
        "version": f"{count - 1}-{count - 1}",
    }


# --- what is refused


def test_more_than_one_kind_is_refused(home: Store) -> None:
    put_tars(home, PHOTOS)
    home.replace("tars/a.parquet", b"")
    with pytest.raises(RecipeError, match=r"given a\.parquet and one\.tar"):
        input_version(home.join("tars"))
    with pytest.raises(RecipeError, match=r"one\.tar in a list"):
        list_photos([home.join("tars/one.tar")])
    put_structs(home, PHOTOS)
    home.replace("structs/zzz.parquet", parquet_of(pa.table({"uri": ["a.png"]})))
    with pytest.raises(RecipeError, match=r"one\.parquet holds photos, .*zzz\.parquet names photos without"):
        list_photos(home.join("structs"))


def test_s3_is_listed_page_by_page(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{index}.png" for index in range(7)]
    folder = put_folder(bucket, dict.fromkeys(names, b"x"))
    kind = fsspec.get_filesystem_class("s3")
    call, pages = kind.call_s3, []

    def small(self: Any, method: str, **request: Any) -> Any:
        pages.append(request)
        return call(self, method, MaxKeys=3, **request)

    monkeypatch.setattr(kind, "call_s3", small)
    files = list_files(folder, Passed())
    assert next(files).key == names[0]
    assert len(pages) == 1
    assert [file.key for file in files] == names[1:]
    assert len(pages) == 3


def test_a_store_without_s3s_pages_is_listed_too() -> None:
    memory = fsspec.filesystem("memory")
    for name, data in PHOTOS.items():
        memory.pipe_file(f"/photos/{name}", data)
    try:
        assert [photo.key for photo in list_photos("memory://photos")] == sorted(NAMES)
        assert [photo.key for photo in list_photos("memory://photos/*.png")] == ["a.png", "z.png"]
        assert read_photos(list_photos("memory://photos/a.png"), 1 << 20) == [PHOTOS["a.png"]]
    finally:
        memory.rm("/photos", recursive=True)
