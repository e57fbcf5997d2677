"""Laws of `batch_nst.data.storage.store`, on a disk and on a real object store."""

import errno
import os
import pickle
import platform
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from batch_nst.data.sources.photos import Photo, list_photos
from batch_nst.data.sources.reader import read_photos
from batch_nst.data.storage import fetch as storage_fetch
from batch_nst.data.storage.fetch import TooLarge, fetch, is_remote, with_retries
from batch_nst.data.storage.store import Store
from batch_nst.errors import OutageError, RecipeError, StorageError
from tests.support import poor_disk
from tests.support.small_store import SmallStore
from tests.support.store_proxy import Proxy

ODD_NAMES = ["a b#1.jpg", "100%20.jpg", "é/ü?x=1&y.jpg", "[0]*.jpg", "a+b::c.jpg"]


@pytest.fixture
def bucket(s3: str, tmp_path: Path) -> Store:
    return Store(f"{s3}/{tmp_path.name}")


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    on_disk = request.param == "disk"
    return Store(str(tmp_path / "out")) if on_disk else request.getfixturevalue("bucket")


# --- a store


def test_what_was_written_is_read_listed_and_deleted(store: Store) -> None:
    assert store.list() == []
    assert store.list("units") == []
    names = sorted(f"units/{name}" for name in ODD_NAMES)
    for name in names:
        assert not store.exists(name)
        assert store.create(name, name.encode())
        assert store.exists(name)
    assert store.create("other", b"")
    assert store.create("units2/not-below-units", b"x")
    assert [store.read(name) for name in names] == [name.encode() for name in names]
    assert [fetch(store.join(name), 100) for name in names] == [name.encode() for name in names]
    assert store.read("other") == b""
    assert store.list("units") == store.list("units/") == names
    assert store.list() == sorted([*names, "other", "units2/not-below-units"])
    store.delete(names[0])
    store.delete(names[0])
    assert store.list("units") == names[1:]
    with pytest.raises(FileNotFoundError):
        store.read(names[0])


def test_a_path_is_local_and_other_protocols_are_remote() -> None:
    assert not any(map(is_remote, ["a.jpg", "/a/b.jpg", "file:///a.jpg", "local://a.jpg"]))
    assert all(map(is_remote, ["s3://a/b.jpg", "https://a/b.jpg", "gs://a"]))


def test_a_folder_is_no_object(store: Store) -> None:
    store.create("folder/name", b"x")
    assert not store.exists("folder")
    assert store.list("folder/name") == []


def test_one_of_many_writers_creates_and_its_bytes_stay(store: Store) -> None:
    writers = 16 if store.local_path else 3  # in SeaweedFS those who lose wait a second for each other
    contents = [f"writer {i} ".encode() * 1000 for i in range(writers)]
    start = threading.Barrier(writers)

    def write(data: bytes) -> bool:
        start.wait()
        return store.create("folder/name", data)

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(write, contents))
    assert won.count(True) == 1
    assert store.read("folder/name") == contents[won.index(True)]
    assert store.list() == ["folder/name"]


def test_replace_overwrites_and_create_does_not(store: Store) -> None:
    store.replace("name", b"old")
    store.replace("name", b"new")
    assert not store.create("name", b"newer")
    assert store.read("name") == b"new"
    assert store.establish("name", b"new")
    assert not store.establish("name", b"newer")
    assert store.establish("other", b"newer")


def test_it_is_pickled_by_its_uri_alone(store: Store) -> None:
    store.create("before", b"x")  # opens the file system, which must not travel
    assert pickle.dumps(store) == pickle.dumps(Store(store.uri))
    assert pickle.loads(pickle.dumps(store)) == store


@pytest.mark.parametrize(
    ("call", "name", "point"),
    [
        ("create", "new", "os.fsync"),
        ("create", "new", "os.link"),
        ("replace", "old", "os.fsync"),
        ("replace", "old", "os.replace"),
    ],
)
def test_a_writer_killed_at_any_point_leaves_nothing_partial(
    tmp_path: Path, call: str, name: str, point: str
) -> None:
    store = Store(str(tmp_path))
    store.replace("old", b"old")
    code = (
        "import os; from batch_nst.data.storage.store import Store\n"
        f"{point} = lambda *_: os.kill(os.getpid(), 9)\n"
        f"Store({store.uri!r}).{call}({name!r}, b'new')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert store.list() == ["old"]
    assert store.read("old") == b"old"
    assert store.create("new", b"new")


def test_a_writer_killed_at_random_leaves_whole_objects(store: Store) -> None:
    """It is another process, which got the store by its pickle."""
    code = (
        "import itertools, pickle\n"
        f"store = pickle.loads({pickle.dumps(store)!r})\n"
        "for i in itertools.count():\n"
        "    store.create(f'units/{i}', bytes([i]) * 3_000_000)\n"
        "    print(i, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(3):
            writer.stdout.readline()
        writer.kill()
    names = store.list("units")
    assert len(names) >= 3
    for name in names:
        assert store.read(name) == bytes([int(name.removeprefix("units/"))]) * 3_000_000


def test_local_paths_and_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("out").local_path == tmp_path / "out"
    assert Store("out") == Store(f"file://{tmp_path}/out/")
    assert Store("s3://bucket/out/").local_path is None
    assert Store("s3://bucket/out/").join("a/b") == "s3://bucket/out/a/b"
    assert Store("S3://bucket/out") == Store("s3://bucket/out")


@pytest.mark.parametrize("uri", ["https://host/out", "memory://out", "ftp://host/out", "S4://bucket"])
def test_a_root_of_another_kind_is_refused(uri: str) -> None:
    given = uri.partition("/")[0].lower()
    with pytest.raises(RecipeError, match=rf"^output {uri}: given {given}//; allowed: a local path, .*s3://"):
        Store(uri)


@pytest.mark.parametrize(
    "uri", ["s3:/bucket/out", "file:/out", "$HOME/out", "~nobody-here/out", "file://out"]
)
def test_a_root_that_only_looks_like_one_is_refused(uri: str) -> None:
    with pytest.raises(RecipeError, match=r"no folder gets such a name; probably meant: "):
        Store(uri)


@pytest.mark.parametrize("uri", ["s3://", "s3:///", "s3:///out", "abfs:////"])
def test_a_root_without_a_bucket_is_refused(uri: str) -> None:
    with pytest.raises(RecipeError, match=r"names no bucket; allowed: (s3|abfs)://BUCKET/NAME"):
        Store(uri)


@pytest.mark.parametrize("root", ["/proc", "/proc/out"])
def test_a_folder_that_cannot_be_made_is_one_line_and_no_fault_of_a_name(root: str) -> None:
    told = rf"output {root}: no folder can be made there: .*; allowed: a disk"
    with pytest.raises(StorageError, match=told):
        Store(root).create("a", b"")


# --- disks that lack something

RACE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError
store = Store(sys.argv[1])
try:
    with ThreadPoolExecutor(8) as pool:
        print(list(pool.map(lambda i: store.create("raced", b"%d" % i), range(8))).count(True))
except RecipeError as error:
    print(error)
store.replace("added", b"first")
print(store.read("added"), store.list())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls")
def test_a_disk_without_hard_links_creates_by_an_exclusive_rename(tmp_path: Path) -> None:
    ended = poor_disk.python(["link"], RACE, str(tmp_path))
    assert ended.stdout.splitlines() == ["1", "b'first' ['added', 'raced']"], ended.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls")
def test_a_disk_without_either_says_so_and_takes_what_need_not_be_exclusive(tmp_path: Path) -> None:
    told, added = poor_disk.python(["link", "renameat2"], RACE, str(tmp_path)).stdout.splitlines()
    assert told.startswith(f"output {tmp_path}: its disk has neither hard links nor an exclusive rename")
    assert added == "b'first' ['added']"


def test_a_protocol_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(RecipeError, match="pip install gcsfs"):
        Store("gs://bucket/out").list()
    with pytest.raises(RecipeError, match="no such protocol"):
        fetch("nonsense://x", 10)


@pytest.mark.parametrize(("below", "told"), [("", "is a file"), ("/a/b", r".*/file is a file")])
def test_a_file_in_the_place_of_a_root_is_told(tmp_path: Path, below: str, told: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store(f"{tmp_path}/file{below}")
    for call in (
        lambda: store.create("name", b"x"),
        lambda: store.read("name"),
        lambda: store.replace("a", b""),
    ):
        with pytest.raises(RecipeError, match=rf"^output {store.uri}: {told}; allowed: a folder"):
            call()


def test_a_missing_bucket_is_a_storage_error_and_no_empty_folder(s3: str) -> None:
    with pytest.raises(StorageError, match="make the bucket first"):
        Store("s3://no-such-bucket/out").list()


# --- one object from anywhere


@pytest.mark.parametrize("kind", ["folder", "below a file", "pipe", "device", "loop", "socket"])
def test_what_is_no_regular_file_is_missing(tmp_path: Path, kind: str) -> None:
    """A pipe would be waited for and a device never end."""
    path = tmp_path / "a.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "below a file":
        path.touch()
        path /= "below"
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    for read in (
        lambda: fetch(str(path), 10),
        lambda: storage_fetch.fetch_range(str(path), 0, 1),
        lambda: storage_fetch.open_object(str(path), 10),
    ):
        with pytest.raises(FileNotFoundError):
            read()


def test_a_file_that_says_it_is_empty_and_is_not_is_bounded_too() -> None:
    with pytest.raises(TooLarge):
        fetch("/proc/self/status", 10)


def test_numbered_objects_are_told_from_what_else_lies_there(store: Store) -> None:
    for name in ("000002.json", "1000000.json", "000010.json", ".DS_Store", "3.json.tmp", "deep/000001.json"):
        store.create(f"runs/{name}", b"")
    found = store.numbered("runs", ".json")
    assert list(found.items()) == [(n, f"runs/{n:06}.json") for n in (2, 10, 1_000_000)]


def test_fetch_refuses_large_objects_and_tells_their_size(store: Store) -> None:
    store.create("large", b"x" * 1001)
    store.create("empty", b"")
    assert len(fetch(store.join("large"), 1001)) == 1001
    assert fetch(store.join("empty"), 10) == b""
    with pytest.raises(TooLarge, match="1001 bytes") as caught:
        fetch(store.join("large"), 1000)
    assert caught.value.size == 1001
    assert pickle.loads(pickle.dumps(caught.value)).size == 1001


def test_retries_end_in_a_storage_error_that_names_the_last_fault() -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise TimeoutError("slow\nday")

    with pytest.raises(OutageError, match="cannot read x: 4 attempts, last: TimeoutError: slow day"):
        with_retries("read x", fail, attempts=4, first_delay=0.001)
    assert len(calls) == 4


@pytest.mark.parametrize(
    "error",
    [
        *(kind("why") for kind in (FileNotFoundError, PermissionError, FileExistsError, TypeError, KeyError)),
        *(OSError(number, "why") for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)),
    ],
)
def test_answers_and_bugs_are_not_retried(error: Exception) -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        with_retries("read x", fail, first_delay=0.001)
    assert len(calls) == 1


# --- faults of an object store


@pytest.fixture
def faults(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[deque[str]]:
    """What the proxy, which this process goes through, does to the next requests, one each."""
    kind = fsspec.get_filesystem_class("s3")
    monkeypatch.setattr(storage_fetch, "MAX_DELAY", 0.01)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    kind.clear_instance_cache()  # instances keep the endpoint that they were made with
    faults: deque[str] = deque()
    proxy.before = lambda _: faults.popleft() if faults else ""
    yield faults
    kind.clear_instance_cache()


@pytest.mark.parametrize("fault", ["503", "500", "reset", "lose", "truncate"])
def test_fetch_outlives_transient_faults(bucket: Store, faults: deque[str], fault: str) -> None:
    bucket.create("photo", b"picture" * 1000)
    faults.extend([fault] * 4)  # one more than botocore bears
    assert fetch(bucket.join("photo"), 10_000, first_delay=0.01) == b"picture" * 1000
    assert not faults


def test_fetch_outlives_a_store_that_does_not_answer(
    bucket: Store, faults: deque[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.create("photo", b"picture")
    kind = fsspec.get_filesystem_class("s3")
    monkeypatch.setattr(kind, "read_timeout", 1)
    kind.clear_instance_cache()
    faults.append("stall")
    assert fetch(bucket.join("photo"), 10) == b"picture"
    assert not faults


def test_a_store_outlives_transient_faults(bucket: Store, faults: deque[str]) -> None:
    faults.extend(["503", "reset", "500"])
    assert bucket.create("a", b"a")
    faults.extend(["503", "reset"])
    bucket.replace("b", b"b")
    faults.extend(["503", "truncate"])
    assert bucket.list() == ["a", "b"]
    faults.append("lose")
    assert not bucket.create("c", b"c")  # it is there: "exists" says that, not whose it is
    assert bucket.read("c") == b"c"
    faults.append("lose")
    assert bucket.establish("d", b"d")
    assert not faults


def test_an_outage_is_a_storage_error_that_names_the_object(
    bucket: Store, proxy: Proxy, faults: deque[str]
) -> None:
    faults.extend(["503"] * 1000)
    uri = bucket.join("photo")
    with pytest.raises(OutageError, match=rf"cannot read {uri}: 2 attempts, last: OSError: .*on purpose"):
        fetch(uri, 10, attempts=2, first_delay=0.01)
    assert len(proxy.requests) == 2 * 3  # botocore's three tries in each


@pytest.mark.usefixtures("faults")
def test_an_object_is_fetched_with_one_request_and_a_missing_one_too(bucket: Store, proxy: Proxy) -> None:
    bucket.create("photo", b"picture")
    proxy.requests.clear()
    fetch(bucket.join("photo"), 10)
    assert len(proxy.requests) == 1
    with pytest.raises(FileNotFoundError):
        fetch(bucket.join("none"), 10)
    assert len(proxy.requests) == 2


def test_no_permission_is_raised_at_once(bucket: Store, proxy: Proxy, faults: deque[str]) -> None:
    faults.append("403")
    with pytest.raises(PermissionError):
        fetch(bucket.join("photo"), 10)
    assert len(proxy.requests) == 1


def test_a_bad_request_is_not_taken_for_an_existing_object(bucket: Store, faults: deque[str]) -> None:
    faults.append("400")  # errno 22 in s3fs, as is a lost race
    assert bucket.create("a", b"a")


@pytest.mark.usefixtures("faults")
def test_bad_credentials_are_an_outage_and_no_photo_counts_as_missing(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look is a HEAD, which is answered with 403 and nothing more, for whatever reason."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    uri = bucket.join("photo.jpg")
    with pytest.raises(OutageError, match=rf"cannot read {uri}: .*signature"):
        fetch(uri, 10, attempts=2)
    with pytest.raises(OutageError, match=rf"cannot look at {uri}: .*signature"):
        list_photos([uri])


@pytest.mark.usefixtures("faults")
def test_a_look_that_is_refused_for_the_photos_own_sake_costs_one_request_more(
    bucket: Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = bucket.join("photo.jpg")
    bucket.create("photo.jpg", b"picture")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "visitor")  # who may list this, and not read it
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    proxy.requests.clear()
    photos = list_photos([uri])
    assert photos == [Photo(uri, uri, "missing", length=0)]
    assert [request.kind for request in proxy.requests] == ["head", "get"]
    assert [type(found) for found in read_photos(photos, 10)] == [PermissionError]


@pytest.mark.usefixtures("faults")
def test_a_look_that_alone_is_refused_is_an_outage(bucket: Store, proxy: Proxy) -> None:
    bucket.create("photo.jpg", b"picture")
    proxy.before = lambda request: "403" if request.kind == "head" else ""
    with pytest.raises(OutageError, match="HEAD is refused, and GET is not"):
        list_photos([bucket.join("photo.jpg")])


# --- stores that lack something


@pytest.mark.parametrize(
    ("header", "refusal"),
    [
        ("x-amz-sdk-checksum-algorithm", (501, "NotImplemented", "A header is not implemented")),
        ("x-amz-sdk-checksum-algorithm", (400, "InvalidArgument", "Unsupported header")),
        ("x-amz-checksum-crc32", (400, "Other", "x-amz-checksum-crc32 is not known here")),
    ],
)
def test_headers_that_a_store_does_not_know_are_told_with_the_remedy_which_helps(
    small_store: SmallStore, monkeypatch: pytest.MonkeyPatch, header: str, refusal: tuple[int, str, str]
) -> None:
    small_store.refuses[header] = refusal
    remedy = "set AWS_REQUEST_CHECKSUM_CALCULATION and AWS_RESPONSE_CHECKSUM_VALIDATION to when_required"
    with pytest.raises(StorageError, match=f"cannot create s3://any/out/a: .*{remedy}"):
        Store("s3://any/out").create("a", b"a")
    assert small_store.requests == 1
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert Store("s3://any/out").create("a", b"a")


def test_another_region_is_told_with_the_remedy(small_store: SmallStore) -> None:
    small_store.refuses["authorization"] = (400, "AuthorizationHeaderMalformed", "expecting 'eu-west-1'")
    with pytest.raises(StorageError, match="expecting 'eu-west-1'; set AWS_DEFAULT_REGION"):
        Store("s3://any/out").create("a", b"a")


def test_no_credentials_are_told_with_the_remedy_and_nothing_is_asked(
    small_store: SmallStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    for attempt in (lambda: fetch("s3://any/a", 1), lambda: Store("s3://any").read("a")):
        with pytest.raises(StorageError, match="Unable to locate credentials; set AWS_ACCESS_KEY_ID and"):
            attempt()
    assert small_store.requests == 0
    # They are there again, and the same process finds them.
    for name, value in small_store.environment.items():
        monkeypatch.setenv(name, value)
    assert Store("s3://any/out").create("a", b"a")


def test_a_name_that_no_bucket_has_is_told_without_an_expression(small_store: SmallStore) -> None:
    with pytest.raises(StorageError, match='Invalid bucket name "a:b"; allowed: s3://BUCKET/NAME') as caught:
        Store("s3://a:b/out").list()
    assert "regex" not in str(caught.value)
    assert small_store.requests == 0
