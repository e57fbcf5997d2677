"""Laws of `pipelines.work`: what an input costs to list, against the requests that a server counts."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_nst.data.dataset.plan import survey
from batch_nst.data.storage.store import Store
from batch_nst.pipelines.cost.requests import Traffic, generate_requests
from batch_nst.pipelines.cost.workload import Split, refusals, remaining_split, workload_of
from batch_nst.recipe import Recipe
from batch_nst.recipe_file import load_recipe
from tests.support import fake_night
from tests.support.places import PAINTING
from tests.support.store_proxy import Proxy

PHOTOS = {f"{index}.png": np.random.default_rng(index).bytes(6000) for index in range(5)}
"""Larger than what is read with a header."""


@pytest.fixture
def home(s3: str, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A place in the bucket, which this process sees through the proxy."""
    kind = fsspec.get_filesystem_class("s3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    kind.clear_instance_cache()  # instances keep the endpoint that they were made with
    yield Store(f"{s3}/{tmp_path.name}")
    kind.clear_instance_cache()


def put_folder(home: Store, _: Path) -> str:
    for name, data in PHOTOS.items():
        home.create(f"photos/{name}", data)
    return home.join("photos")


def put_tars(home: Store, _: Path) -> str:
    for tar_name, names in (("a.tar", list(PHOTOS)[:2]), ("b.tar", list(PHOTOS)[2:])):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(PHOTOS[name])
                tar.addfile(info, io.BytesIO(PHOTOS[name]))
        home.create(f"tars/{tar_name}", buffer.getvalue())
    return home.join("tars")


def put_uris(home: Store, disk: Path) -> list[str]:
    folder = put_folder(home, disk)
    return [f"{folder}/{name}" for name in PHOTOS]


def put_csv(home: Store, disk: Path) -> str:
    """On the disk, of photos in the bucket."""
    (disk / "table.csv").write_text("\n".join(["uri", *put_uris(home, disk)]))
    return str(disk / "table.csv")


def put_versions(home: Store, disk: Path) -> str:
    uris = put_uris(home, disk)
    pq.write_table(pa.table({"uri": uris, "version": ["1"] * len(uris)}), disk / "table.parquet")
    return str(disk / "table.parquet")


def put_list(home: Store, disk: Path) -> str:
    (disk / "list.txt").write_text("\n".join(put_uris(home, disk)))
    return str(disk / "list.txt")


@pytest.mark.parametrize(
    ("put", "listed", "looked_at"),
    [(put_folder, 5, 0), (put_list, 0, 5), (put_csv, 0, 5), (put_versions, 0, 0), (put_tars, 2, 5 + 2)],
)
def test_requests_to_list_an_input_are_counted(
    home: Store,
    proxy: Proxy,
    tmp_path: Path,
    put: Callable[[Store, Path], str],
    listed: int,
    looked_at: int,
) -> None:
    given = Recipe.model_validate(
        {
            "output": str(tmp_path / "out"),
            "style": {"image": str(PAINTING), "size": 32},
            "generate": {
                "input": put(home, tmp_path),
                # of photos that tables name
                "stores": [] if listed else [home.uri.removesuffix(f"/{tmp_path.name}")],
                "image_size": 32,
                "unit_images": 2,
            },
        }
    )
    store = Store(given.output)
    proxy.requests.clear()
    plan = survey(given, store)
    sent = [request.kind for request in proxy.requests]
    traffic = workload_of(plan, store, given).traffic
    assert traffic == Traffic(photo_reads=5, listed=listed, looked_at=looked_at)
    requests = generate_requests(traffic)
    assert requests.reads == 5 + sent.count("head") + sent.count("get")
    assert requests.lists == sent.count("list")

    plan.write_down(store)
    again = workload_of(survey(given, store), store, given).traffic
    known = put in (put_tars, put_versions)  # whose files tell whether anything has changed
    assert again == Traffic(photo_reads=5, listed=listed, looked_at=0 if known else looked_at)


def test_photos_without_pairs_are_there_to_train_on(tmp_path: Path) -> None:
    recipe = load_recipe(fake_night.begin(tmp_path), ["generate.pairs=0.01", "train.batch_size=2"])
    store = Store(recipe.output)
    before = remaining_split(survey(recipe, store), store, recipe)
    snapshot = fake_night.make_pairs(recipe)
    assert (snapshot.counts["ok"], snapshot.counts["unpaired"]) == (0, 2)
    assert remaining_split(survey(recipe, store), store, recipe) == before == Split(2, 1)
    assert not any("batch_size" in line for line in refusals(recipe, before))
