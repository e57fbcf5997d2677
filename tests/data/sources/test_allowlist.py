"""Laws of `sources.allowlist`: a table or list names photos where the recipe says, and nowhere else."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from batch_nst.data.images.reasons import BadImage
from batch_nst.data.sources.allowlist import Allowlist, refused
from batch_nst.data.sources.photos import list_photos
from batch_nst.data.sources.reader import read_photos
from tests.support.served import served
from tests.support.web_server import WebServer

OUTSIDE, SECRET = "outside_stores", "holds_credentials"


def judged(source: str, stores: list[str], uris: list[str]) -> dict[str, str]:
    """Each URI's reason; empty where it may be read."""
    versions = Allowlist(source, stores).check(pa.array(uris, pa.string())).to_pylist()
    reasons = [version and refused(version) for version in versions]
    return dict(zip(uris, [reason.reason if reason else "" for reason in reasons], strict=True))


def test_a_table_in_a_bucket_reaches_that_bucket() -> None:
    reached = ["s3://photos/a.jpg", "s3a://photos/a.jpg", "S3://photos/../a.jpg", "s3://photos"]
    beyond = [
        *("s3://photos2/a.jpg", "s3://Photos/a.jpg", "gs://photos/a.jpg", "s3:///photos/a.jpg"),
        *("/etc/passwd", "file:///etc/passwd", "FILE://localhost/etc/passwd", "local:///etc/passwd"),
        *("http://169.254.169.254/latest/meta-data", "memory://a", "tar://a::s3://photos/a.tar"),
        *("simplecache::s3://photos/a", "filecache::file:///etc/passwd", "s3://photos@evil/a"),
        *("s3://photos?/a", "s3://photos#/a", "s3://photos\\@evil/a", "s3:/photos/a"),
        *("photos/a.jpg", "", "://"),
    ]
    found = judged("s3://photos/tables/a.parquet", [], reached + beyond)
    assert found == dict.fromkeys(reached, "") | dict.fromkeys(beyond, OUTSIDE)


def test_a_table_on_the_disk_reaches_the_disk() -> None:
    reached = ["/photos/a.jpg", "/x/../etc/a.jpg", "file:///a.jpg", "a.jpg"]
    beyond = ["s3://photos/a.jpg", "http://127.0.0.1/a.jpg"]
    found = judged("/tables/a.csv", [], reached + beyond)
    assert found == dict.fromkeys(reached, "") | dict.fromkeys(beyond, OUTSIDE)


def test_stores_of_the_recipe_are_reached_too() -> None:
    stores = ["s3://others/", "https://images.example.com", "/mnt/photos"]
    reached = [
        *("s3://mine/a", "s3://others/a", "HTTPS://images.example.com/a"),
        "https://images.example.com/a.jpg?id=5",
        *("/mnt/photos/a.jpg", "/mnt/photos/../photos/a.jpg", "file:///mnt/photos/a.jpg", "/mnt//photos/./a"),
    ]
    beyond = [
        *("http://images.example.com/a", "https://images.example.com:8080/a"),
        *("https://images.example.com.evil/a", "https://images.example.com#evil/a"),
        *("https://images.example.com\\evil/a", "/mnt", "mnt/photos/a"),
        *("/mnt/photos2/a.jpg", "/mnt/photos/../a.jpg", "file:///mnt/photos/../../etc/a"),
    ]
    found = judged("s3://mine/a.parquet", stores, reached + beyond)
    assert found == dict.fromkeys(reached, "") | dict.fromkeys(beyond, OUTSIDE)


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:word@images.example.com/a.jpg",
        "https://word@images.example.com/a.jpg",
        "s3://key:word@mine/a.jpg",
        "https://mine.s3.amazonaws.com/a.jpg?X-Amz-Date=1&X-Amz-Signature=word",
        "https://storage.googleapis.com/a.jpg?x-goog-credential=word",
        "https://mine.blob.core.windows.net/a.jpg?sv=1&sig=word&se=2",
        "https://images.example.com/a.jpg?token=word",
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "versions.csv", "a.txt"])
def test_credentials_are_refused_and_not_written_down(tmp_path: Path, uri: str, name: str) -> None:
    stores = [uri[: uri.index("/", 8)].partition("?")[0]]
    text = {"a.csv": f"uri\n{uri}\n", "versions.csv": f"uri,etag\n{uri},1\n", "a.txt": f"{uri}\n"}[name]
    (tmp_path / name).write_text(text)
    (photo,) = list_photos(str(tmp_path / name), stores)
    assert "word" not in str(photo)
    (found,) = read_photos([photo], 100)
    assert isinstance(found, BadImage)
    assert found.reason == SECRET
    assert "word" not in str(found)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with served(WebServer()) as started:
        started.answer = lambda _: b"photo"
        yield started


@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_what_is_out_of_reach_is_a_row_and_never_asked_for(tmp_path: Path, web: WebServer, name: str) -> None:
    uri = f"{web.url}/latest/meta-data.jpg"
    (tmp_path / "b.jpg").write_bytes(b"near")
    (tmp_path / name).write_text(("uri\n" if name == "a.csv" else "") + f"{uri}\nb.jpg\n")
    near, far = sorted(list_photos(str(tmp_path / name)), key=lambda photo: photo.source)
    assert (far.key, far.source, far.length) == (uri, uri, None)
    found, fault = read_photos([near, far], 100)
    assert found == b"near"
    assert isinstance(fault, BadImage)
    assert fault.reason == OUTSIDE
    assert web.asked == []
    _, reached = sorted(list_photos(str(tmp_path / name), [web.url]), key=lambda photo: photo.source)
    assert reached.version != far.version  # a new photo, once the recipe names its store
    assert read_photos([reached], 100) == [b"photo"]
    assert web.asked


def test_what_the_recipe_itself_lists_is_reached(web: WebServer) -> None:
    assert read_photos(list_photos([f"{web.url}/a.jpg"]), 100) == [b"photo"]


def test_a_table_cannot_claim_that_it_was_judged(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("uri,version\ns3://elsewhere/a.jpg,1\n/b.jpg,holds credentials\n")
    photos = list_photos(str(tmp_path / "a.csv"))
    assert [type(found) for found in read_photos(photos, 100)] == [BadImage] * 2
