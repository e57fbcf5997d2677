"""Laws of `batch_nst.data.storage.fetch`: a fault of a web server is never taken for a missing object."""

from collections.abc import Iterator

import pytest

from batch_nst.data.sources.photos import Photo, list_photos
from batch_nst.data.sources.reader import read_photos
from batch_nst.data.storage import fetch as storage_fetch
from batch_nst.data.storage.fetch import fetch
from batch_nst.data.storage.store import Store
from batch_nst.errors import OutageError, RecipeError
from tests.support.served import served
from tests.support.small_store import SmallStore
from tests.support.web_server import Answer, Asked, WebServer

PASSING = [429, 500, 503, 408, 0]
"""Answers that say nothing of the object; 0 is none at all."""
MISSING = [404, 410, 400, 451]
PICTURE = b"picture"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(storage_fetch, "MAX_DELAY", 0.01)
    with served(WebServer()) as server:
        yield server


@pytest.mark.parametrize("answer", PASSING)
def test_a_server_with_trouble_is_an_outage_and_no_photo_counts_as_missing(
    web: WebServer, answer: Answer
) -> None:
    web.answer = lambda asked: answer if "bad" in asked.path else PICTURE
    told = "Server disconnected" if answer == 0 else str(answer)
    with pytest.raises(OutageError, match=rf"cannot look at {web.url}/bad.jpg: 5 attempts, last: .*{told}"):
        list_photos([f"{web.url}/good.jpg", f"{web.url}/bad.jpg"])
    with pytest.raises(OutageError, match=f"{web.url}/bad.jpg: 5 attempts, last: .*{told}"):
        list_photos(f"{web.url}/bad.jpg")
    with pytest.raises(OutageError, match=f"cannot list {web.url}/bad/: 5 attempts, last: .*{told}"):
        list_photos(f"{web.url}/bad/")
    with pytest.raises(OutageError, match=f"cannot read {web.url}/bad.jpg: 2 attempts, last: .*{told}"):
        fetch(f"{web.url}/bad.jpg", 10, attempts=2)


@pytest.mark.parametrize("answer", PASSING)
def test_a_short_trouble_is_outlived(web: WebServer, answer: Answer) -> None:
    def twice(asked: Asked) -> Answer:
        return answer if len(web.asked) <= 4 else PICTURE  # a look is a HEAD, then a GET

    web.answer = twice
    [photo] = list_photos([f"{web.url}/a.jpg"])
    assert (photo.version, photo.length) == ("7-", 7)


@pytest.mark.parametrize("answer", [*MISSING, 401, 403])
def test_a_photo_that_the_server_denies_is_a_row_and_asked_for_once(web: WebServer, answer: Answer) -> None:
    web.answer = lambda _: answer
    uri = f"{web.url}/a.jpg"
    photos = list_photos([uri])
    assert photos == [Photo(uri, uri, "missing", length=0)]
    assert web.asked == [("HEAD", "/a.jpg"), ("GET", "/a.jpg")]
    kind = FileNotFoundError if answer in MISSING else PermissionError
    assert [type(found) for found in read_photos(photos, 10)] == [kind]


def test_a_photo_that_was_missing_when_it_was_listed_is_not_read_under_that_id(web: WebServer) -> None:
    photos = list_photos([f"{web.url}/a.jpg"])
    web.answer = lambda _: PICTURE
    [found] = read_photos(photos, 10)
    assert isinstance(found, FileNotFoundError)
    assert "its content has changed" in str(found)


@pytest.mark.parametrize("name", ["a.jpg", "list.csv"])
def test_one_object_of_a_server_is_an_input_and_is_not_pulled_while_it_is_listed(
    web: WebServer, name: str
) -> None:
    web.answer = lambda asked: f"url\n{web.url}/b.jpg\n".encode() if "csv" in asked.path else PICTURE
    photos = list_photos(f"{web.url}/{name}")
    assert [photo.source.rpartition("/")[2] for photo in photos] == ["a.jpg" if name == "a.jpg" else "b.jpg"]
    assert ("GET", "/a.jpg") not in web.asked


def test_the_protocol_may_be_written_in_capitals(small_store: SmallStore) -> None:
    Store("s3://any/photos").create("a.jpg", PICTURE)
    [photo] = photos = list_photos("S3://any/photos")
    assert (photo.key, read_photos(photos, 10)) == ("a.jpg", [PICTURE])
    assert list_photos("S3://any/photos/*.jpg") == photos


@pytest.mark.parametrize("answer", PASSING)
def test_a_folder_that_cannot_be_listed_does_not_lose_its_photos(web: WebServer, answer: Answer) -> None:
    pages = {
        "/": b'<a href="a.jpg">a</a> <a href="b/">b</a> <a href="gone/">gone</a>',
        "/b/": b'<a href="c.jpg">c</a> <a href="../">up</a>',
    }
    web.answer = lambda asked: pages.get(asked.path, 404)
    assert [photo.key for photo in list_photos(f"{web.url}/")] == ["a.jpg", "b/c.jpg"]
    web.answer = lambda asked: answer if asked.path == "/b/" else pages.get(asked.path, 404)
    with pytest.raises(OutageError, match=f"cannot list {web.url}/b/"):
        list_photos(f"{web.url}/")


@pytest.mark.parametrize(
    "uri", ["http://[bad/x.jpg", "http://127.0.0.1:99999/x.jpg", "http:///x.jpg", "ftp:///x"]
)
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(RecipeError, match="is no address"):
        list_photos([uri])
