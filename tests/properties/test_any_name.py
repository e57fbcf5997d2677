"""Whatever a photo, a store or a file is called: it stays where it belongs, and secrets stay nowhere."""

import io
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from batch_nst.credentials import holds_credentials, redacted
from batch_nst.data.sources.allowlist import Allowlist, refused, without_credentials
from batch_nst.data.sources.photos import LISTED, Photo, list_photos, photo_id, photo_ids, uri_of
from batch_nst.data.storage import fetch as storage_fetch
from batch_nst.data.storage.fetch import fetch, is_remote, open_filesystem
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError, StorageError
from batch_nst.pipelines.apply.tasks import PictureRecord, target_name, write_picture
from tests.support.mutations import damaged, outcome

PROTOCOLS = ["", "s3://", "S3A://", "https://", "HTTP://", "file://", "local://", "memory://", "x+y.z-0://"]
HOSTS = ["photos", "photos2", "user:word@photos", "photos@evil", "photos:80", "", "..", "photos\\"]
PARTS = ["..", ".", "", "a", "b.jpg", "é", "a b", "::", "?x=1", "?sig=word", "#", "%2e%2e", "\0", "~"]
PATHS = st.lists(st.sampled_from(PARTS) | st.text(max_size=6), max_size=5).map("/".join)
FULL = st.tuples(st.sampled_from(PROTOCOLS), st.sampled_from(HOSTS), st.just("/"), PATHS).map("".join)
URIS = FULL | PATHS | st.text(max_size=30)
TEXTS = st.text(max_size=20)


@given(uri=URIS)
def test_a_uri_is_a_path_or_an_object_or_refused(uri: str) -> None:
    found, told = outcome(lambda: open_filesystem(uri), RecipeError)
    assert bool(found) != bool(told)
    assert found is None or is_remote(uri) or Path(found[1]).is_absolute()


@given(uri=URIS)
def test_an_output_is_a_store_or_refused(uri: str) -> None:
    store, _ = outcome(lambda: Store(uri), RecipeError)
    if store is not None:
        assert not holds_credentials(store.uri)
        assert store.local_path is None or store.local_path.is_absolute()


@given(names=st.lists(PATHS, min_size=1, max_size=3))
def test_no_name_leads_out_of_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    monkeypatch.setattr(storage_fetch, "MAX_DELAY", 0.0)
    store, beside = Store(str(tmp_path / "store" / "root")), tmp_path / "beside"
    beside.write_text("beside")
    for name in names:
        try:
            store.replace(name, b"x")
            assert store.read(name) == b"x"
        except (StorageError, FileNotFoundError):
            continue
        inside = Path(os.path.normpath(tmp_path / "store" / "root" / name))
        assert inside.is_relative_to(tmp_path / "store" / "root")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "store") == ["beside"]
    assert [path.name for path in (tmp_path / "store").glob("*")] in ([], ["root"])


@given(key=PATHS | TEXTS)
def test_a_painted_picture_lies_below_its_folder(key: str) -> None:
    name = target_name(key)
    assert Path(os.path.normpath(f"/out/{name}")).is_relative_to("/out")
    assert Path(name).suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    assert not {"", ".", ".."} & set(name.split("/"))


KEYS = PATHS | TEXTS | st.sampled_from(["a.png", "a.png/b.png", "a/b/c.png", "x" * 300, "é" * 126 + ".png"])
PAINTED = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@given(keys=st.lists(KEYS | st.sampled_from(["p/" * 2000, f"{'d' * 200}/" * 25]), min_size=1, max_size=6))
def test_a_name_that_no_file_can_have_costs_its_own_picture_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str]
) -> None:
    """On the disk at hand, without hard links and without exclusive create."""
    root = tmp_path_factory.mktemp("painted")
    (root / "a" / "b").mkdir(parents=True)  # a folder that was there before
    store = Store(str(root))
    names = list(dict.fromkeys(target_name(key) for key in [*keys, "good.png"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(os, "link")
        outcomes = [
            write_picture(PictureRecord(name, name, "ok", pixels=PAINTED.tobytes(), height=4, width=4), store)
            for name in names
        ]
    assert outcomes[-1].status == "ok"
    for row in outcomes:
        assert (row.status, row.reason, row.refused) in (("ok", "", ""), ("rejected", "unusable_name", ""))
        assert bool(row.detail) == (row.status != "ok")
    usable = {row.name for row in outcomes if row.status == "ok"}
    for name in usable:
        with Image.open(root / name) as picture:
            assert picture.size == (4, 4)
    assert set(store.list()) == usable


STORES = ["s3://photos", "https://photos:80", "/mnt/photos"]


@given(
    uris=st.lists(URIS, min_size=1, max_size=8),
    source=st.sampled_from(["s3://photos/a.csv", "https://photos/x/"]),
)
def test_what_a_table_reaches_lies_in_a_named_store(uris: list[str], source: str) -> None:
    versions = Allowlist(source, STORES).check(pa.array(uris, pa.string()))
    shown = without_credentials(pa.array(uris, pa.string()), versions).to_pylist()
    assert "://user:word@" not in "".join(shown)
    own = "s3|s3a" if source.startswith("s3") else "s3|s3a|https"
    for uri, version in zip(uris, versions.to_pylist(), strict=True):
        if version is not None:
            assert refused(version)
        elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", uri) and is_remote(uri):
            assert re.match(rf"(?i:{own})://photos(/|$)|(?i:https)://photos:80(/|$)", uri), uri
        else:
            path = re.sub(r"^(?i:file|local)://", "", uri)
            assert os.path.normpath(path).startswith("/mnt/photos")


@given(
    text=TEXTS,
    protocol=st.sampled_from(["s3://", "https://", "ftp://"]),
    user=st.text("abc-_.", min_size=1, max_size=5),
    word=st.text("xyzXYZ0189:@!$&+,;=%~", min_size=4, max_size=12),
    path=st.text("abc/.", max_size=8),
)
def test_a_password_is_found_and_not_told(text: str, protocol: str, user: str, word: str, path: str) -> None:
    uri = f"{protocol}{user}:pw{word}@host/{path}"
    assert holds_credentials(uri)
    told = redacted(f"{text} {uri} {text}")
    assert f"pw{word}" not in told
    assert f"{user}:***@host/" in told
    assert redacted(told) == told


@given(text=TEXTS | URIS)
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)


@given(photos=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), crop=st.integers(0, 3))
def test_ids_are_those_of_key_version_and_crop(photos: list[tuple[str, str]], crop: int) -> None:
    keys, versions = zip(*photos, strict=True)
    nothing = [None] * len(photos)
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(each, field.type)
            for each, field in zip([keys, keys, nothing, nothing, versions], LISTED, strict=True)
        ],
        schema=LISTED,
    )
    ids = photo_ids(batch, crop).to_pylist()
    assert ids == [photo_id(key, version, crop) for key, version in photos]
    assert photo_ids(batch.slice(1), crop) == photo_ids(batch, crop).slice(1)
    assert len(set(ids)) == len(set(photos))
    assert not set(ids) & set(photo_ids(batch, crop + 1).to_pylist())


NUMBERS = st.none() | st.integers(0)


@given(photo=st.builds(Photo, TEXTS, URIS, TEXTS, NUMBERS, NUMBERS))
def test_any_photo_has_a_place_for_people(photo: Photo) -> None:
    assert photo.source in uri_of(photo)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("containers")


def _tar() -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.jpg", "../b.jpg", "é" * 120 + ".jpg"):
            info = tarfile.TarInfo(name)
            info.size = 100
            tar.addfile(info, io.BytesIO(bytes(100)))
    return file.getvalue()


def _parquet(columns: dict[str, object]) -> bytes:
    pq.write_table(pa.table(columns), file := io.BytesIO())
    return file.getvalue()


STRUCTS = pa.array([{"bytes": b"x", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}])
GOOD: dict[str, list[bytes]] = {
    "a.csv": [b"uri,etag\n/a.jpg,1\ns3://x/b.jpg,2\n", b'id,uri\n1,"a b.jpg"\n', b"uri\n/a\n"],
    "a.txt": [b"/a.jpg\nb.jpg\ns3://x/c.jpg\n"],
    "a.tar": [_tar()],
    "a.parquet": [
        _parquet({"uri": ["/a.jpg", "s3://x/b.jpg"], "etag": ["1", "2"]}),
        _parquet({"image": STRUCTS}),
        _parquet({"id": [1, 2], "jpg": [b"x", b"y"]}),
    ],
}


@pytest.mark.parametrize("name", GOOD)
@given(data=st.data())
def test_a_damaged_container_lists_photos_or_is_refused(
    containers: Path, name: str, data: st.DataObject
) -> None:
    (containers / name).write_bytes(data.draw(damaged(GOOD[name]) | st.binary(max_size=100)))
    photos, told = outcome(lambda: list_photos(str(containers / name)), RecipeError)
    assert photos or told.startswith("generate.input: ")


@given(uri=PATHS.map(lambda path: f"/nowhere/{path}"))
def test_a_read_of_any_path_is_bytes_or_no_such_file(uri: str) -> None:
    with pytest.raises(FileNotFoundError):
        fetch(uri, 10)
