"""What becomes of every kind of photo on its way to a row, and of faults of the store that it lies in."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pytest

from batch_nst.data.dataset.plan import Plan, survey
from batch_nst.data.dataset.records import PhotoRecord, UnitRecord
from batch_nst.data.images import codec
from batch_nst.data.storage import fetch
from batch_nst.data.storage.fetch import open_filesystem
from batch_nst.data.storage.store import Store
from batch_nst.pipelines.generate.decode import decode_unit, units_of
from batch_nst.recipe import Recipe
from tests.support.photos import FORBIDDEN, KINDS, LIMITS, MAX_SECONDS, VANISHED, file_name
from tests.support.places import PAINTING
from tests.support.store_proxy import FAULTS, Proxy, Request

SIDE = 32
QUICK = [fault for fault in FAULTS if fault != "stall"]

Row = dict[str, Any]


def recipe(output: Path, source: str, **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "output": str(output),
            "style": {"image": str(PAINTING), "size": SIDE},
            "loss": {"content_layers": {"relu1_1": 1.0}, "style_layers": {"relu1_1": 1.0}},
            "generate": {
                **LIMITS,
                "input": source,
                "image_size": SIDE,
                "iterations": 2,
                "max_seconds": MAX_SECONDS,
                "max_rejected": 1.0,
                "precision": "fp32",
                **changes,
            },
            "evaluate": {"holdout": 0.0},
        }
    )


def place(root: str, kind: str) -> str:
    """Where a photo lies; a visitor may not read what is shut."""
    return f"{root}/{'shut' if kind == FORBIDDEN else 'open'}/{file_name(kind)}"


def fill(root: str, kinds: Iterable[str] = KINDS) -> None:
    """A folder or bucket with one photo of each kind."""
    filesystem, _ = open_filesystem(root)
    places = {place(root, name): KINDS[name].data for name in kinds}
    for uri in places:
        filesystem.makedirs(uri.rpartition("/")[0], exist_ok=True)
    filesystem.pipe({open_filesystem(uri)[1]: data for uri, data in places.items()})


def planned(plan: Plan, given: Recipe) -> list[UnitRecord]:
    """The units of a plan that is not written down."""
    return units_of(pa.concat_tables(plan.pending(Store(given.output))), plan.split_of)


def decode_all(given: Recipe, root: str, owner: Any) -> dict[str, PhotoRecord]:
    """Each photo's record by its URI after the stages before the device's; one is deleted once listed."""
    plan = survey(given, Store(given.output))
    owner.rm_file(open_filesystem(place(root, VANISHED))[1])
    decoded = [decode_unit(unit, given.generate) for unit in planned(plan, given)]
    assert not any(unit.pending for unit in decoded)
    photos = [photo for unit in decoded for photo in unit.photos]
    assert sum(unit.photos_read for unit in decoded) == len(photos)
    assert plan.counts().found == len(photos)
    return {photo.uri: photo for photo in photos}


def assert_as_the_table_says(root: str, photos: dict[str, PhotoRecord], kinds: list[str]) -> None:
    told = {uri: (photo.status, photo.reason) for uri, photo in photos.items()}
    assert told == {place(root, name): (KINDS[name].status, KINDS[name].reason) for name in kinds}
    for name in kinds:
        photo = photos[place(root, name)]
        if KINDS[name].status == "ok":
            picture = codec.crop(codec.decode(KINDS[name].data, **LIMITS), SIDE)
            assert photo.content == picture.tobytes()
        else:
            assert photo.content is None
            assert photo.detail


def test_photos_in_a_folder_have_the_outcomes_of_those_in_a_bucket(tmp_path: Path) -> None:
    root = str(tmp_path / "photos")
    kinds = ["JPEG", "an empty file", "more bytes than generate.max_bytes", VANISHED, FORBIDDEN]
    fill(root, kinds)
    Path(place(root, FORBIDDEN)).chmod(0)
    if os.access(place(root, FORBIDDEN), os.R_OK):  # nothing is forbidden to root
        kinds.remove(FORBIDDEN)
        Path(place(root, FORBIDDEN)).unlink()
    rows = decode_all(recipe(tmp_path / "out", root), root, open_filesystem(root)[0])
    assert_as_the_table_says(root, rows, kinds)


class Bucket(NamedTuple):
    """A photo of each kind in a bucket."""

    root: str
    owner: Any
    """A file system that may do everything, and goes past the proxy."""


@pytest.fixture
def bucket(s3: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """All kinds, for one who may list all and not read all, and goes through a proxy."""
    kind = fsspec.get_filesystem_class("s3")
    root = f"{s3}/kinds"
    fill(root)
    owner, path = open_filesystem(root)
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "MAX_DELAY", 0.01)
        patch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
        patch.setattr(kind, "read_timeout", 2)
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "visitor")
        kind.clear_instance_cache()  # instances keep the endpoint that they were made with
        yield Bucket(root, owner)
    kind.clear_instance_cache()
    owner.rm(path, recursive=True)


def test_every_kind_of_photo_in_a_bucket_is_read_by_one_request(
    bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    rows = decode_all(recipe(tmp_path / "out", bucket.root), *bucket)
    assert_as_the_table_says(bucket.root, rows, list(KINDS))
    # The listing has told which one is too large.
    read = rows.keys() - {uri for uri, row in rows.items() if row.reason == "too_many_bytes"}
    assert len(read) == len(rows) - 1
    assert proxy.count("get") == {uri.removeprefix("s3://"): 1 for uri in read}


def test_faults_of_the_store_are_no_properties_of_photos(
    bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    done: Counter[str] = Counter()

    def every_fifth(request: Request) -> str:
        turn = request.number // 5
        fault = "" if request.number % 5 else "stall" if turn == 5 else QUICK[turn % len(QUICK)]
        done[fault] += 1
        return fault

    proxy.before = every_fifth
    rows = decode_all(recipe(tmp_path / "out", bucket.root), *bucket)
    assert_as_the_table_says(bucket.root, rows, list(KINDS))
    assert done.keys() == {"", *FAULTS}


def test_an_outage_makes_no_row_and_leaves_its_unit_to_the_next_start(
    bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    given = recipe(tmp_path / "out", bucket.root)
    plan = survey(given, Store(given.output))
    out, *others = planned(plan, given)
    source = out.photos[0].source
    proxy.before = lambda request: "503" if source.endswith(request.key) else ""
    told = decode_unit(out, given.generate)
    assert told.outage.startswith(f"cannot read {source}: ")
    assert told.photos == out.photos
    assert not any(decode_unit(unit, given.generate).pending for unit in others)
    proxy.forget()
    assert not decode_unit(out, given.generate).pending
