"""Laws of `batch-nst plan` against real runs: requests as a server counts them, bytes as they lie there."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import s3fs
from PIL import Image

from batch_nst.data.dataset.plan import survey
from batch_nst.data.dataset.units import DATA
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError
from batch_nst.figures import as_json
from batch_nst.pipelines import commands
from batch_nst.pipelines.cost.calibrate import Timing, extrapolate, longer
from batch_nst.pipelines.cost.requests import generate_requests
from batch_nst.pipelines.cost.workload import workload_of
from batch_nst.recipe import Recipe
from tests.support.pairs import generate_here
from tests.support.ray_nodes import small_ray
from tests.support.store_proxy import Proxy


@pytest.fixture(scope="module")
def small_ray_behind_the_proxy(shared_proxy: Proxy) -> Iterator[None]:
    """Its workers take the proxy's address from the environment, and so every request is counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", shared_proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()  # they keep the address that they began with
        with small_ray():
            yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def sent(small_ray_behind_the_proxy: None, proxy: Proxy) -> Callable[[], dict[str, int]]:
    """Requests by kind since the last call, of whatever process.

    Without renewals of the lease, of which a slow machine has more.
    """

    def counted() -> dict[str, int]:
        requests = list(proxy.requests)
        proxy.forget()
        for request in requests:  # a POST to a bucket deletes several
            assert request.kind != "post" or "/" not in request.key, request
        kinds = Counter(request.kind for request in requests)
        leases = sum(request.kind == "put" and "/lease/" in request.key for request in requests)
        renewals = max(0, leases - 3)  # it is taken, tried and given back
        return {
            "reads": kinds["get"] + kinds["head"],
            "writes": kinds["put"] - renewals,
            "lists": kinds["list"],
        }

    return counted


@pytest.fixture
def home(s3: str, tmp_path: Path) -> str:
    return f"{s3}/{tmp_path.name}"


def put(uri: str, side: int = 70) -> None:
    """A picture of noise, another for every name."""
    noise = np.random.default_rng(list(uri.encode())).integers(0, 256, (side, side, 3), dtype=np.uint8)
    with fsspec.open(uri, "wb") as file:
        Image.fromarray(noise).save(file, format="PNG")


def recipe(home: str, source: str, **changes: Any) -> Recipe:
    document = {
        "output": f"{home}/out",
        "style": {"image": f"{home}/painting.png", "size": 32},
        "loss": {"content_layers": {"relu1_2": 1.0}, "style_layers": {"relu1_1": 1.0}},
        "generate": {
            "input": source,
            "image_size": 32,
            "iterations": 5,
            "unit_images": 3,
            "precision": "fp32",
            "max_rejected": 1.0,
            **changes,
        },
        "train": {"batch_size": 1},
    }
    return Recipe.model_validate(document)


def planned(given: Recipe) -> dict[str, int]:
    """What the formula says, without renewals of the lease."""
    store = Store(given.output)
    return asdict(generate_requests(workload_of(survey(given, store), store, given).traffic))


@pytest.mark.slow
def test_a_first_run_and_its_successors_send_what_the_formula_says(
    sent: Callable[[], dict[str, int]], home: str
) -> None:
    filesystem, bucket = fsspec.filesystem("s3"), home.removeprefix("s3://")
    put(f"{home}/painting.png")
    for name in "abcde":
        put(f"{home}/photos/{name}.png")
    put(f"{home}/photos/small.png", side=20)
    given = recipe(home, f"{home}/photos", crops=2)
    plan = as_json(commands.plan(given))
    assert (plan["to_do"], plan["rates_from"]) == (12, None)
    sent()
    first = commands.generate(given)
    assert sent() == plan["store_requests"] == planned_before_first_run()

    # The bytes are those that lie there, and the next plan goes by them.
    sizes = {name: filesystem.size(f"{bucket}/out/{name}") for name in Store(given.output).list(DATA)}
    photos = {name: filesystem.size(f"{bucket}/photos/{name}.png") for name in (*"abcde", "small")}
    assert len(sizes) == 4
    assert first["bytes_written"] == sum(sizes.values())
    # Units of 3 images from photos of 2 crops: every second photo is read for two units.
    assert first["photos_read"] == 8
    assert first["bytes_read"] == sum(photos.values()) + photos["b"] + photos["e"]
    assert (first["tried"], first["made"], first["devices"]) == (12, 10, 1)

    # New photos, one that is gone, and a snapshot.
    put(f"{home}/photos/f.png")
    filesystem.rm(f"{bucket}/photos/a.png")
    plan, expected = as_json(commands.plan(given)), planned(given)
    assert (plan["to_do"], plan["device"]) == (2, first["device"])
    assert plan["rates_from"] == f"run {first['run']}"
    assert plan["device_hours"] == pytest.approx(first["device_seconds"] / 12 * 2 / 3600)
    assert plan["bytes_read"] == round(first["bytes_read"] / 8)
    assert plan["bytes_written"] == round(first["bytes_written"] / 12 * 2)
    sent()
    commands.generate(given)
    assert sent() == expected

    # As after a run that was cut off before it sealed what it had done.
    filesystem.rm(f"{bucket}/out/dataset/snapshots/000002.json")
    put(f"{home}/photos/g.png")
    expected = planned(given)
    sent()
    commands.generate(given)
    assert sent() == expected


def planned_before_first_run() -> dict[str, int]:
    """Counted by hand."""
    photos, painting, settings = 8, 2, 2
    units, lease, segment, snapshot, summary, summaries, card = 4, 3, 1, 1, 1, 1, 1
    full = {"input": 2, "lease": 3, "units when sealing": 1}
    chunks, of_a_chunk = 1, 3
    empty = {"lease": 1, "plan": 1, "units": 1, "snapshots": 2, "forgotten": 1}
    return {
        "reads": photos + painting + settings + summaries + chunks * of_a_chunk + sum(empty.values()),
        "writes": units + lease + 1 + segment + snapshot + summary + summaries + card,
        "lists": sum(full.values()) + 2 * sum(empty.values()),
    }


@pytest.mark.slow
def test_a_list_of_uris_sends_what_the_formula_says(sent: Callable[[], dict[str, int]], home: str) -> None:
    put(f"{home}/painting.png")
    names = [f"{home}/elsewhere/{name}.png" for name in "ab"]
    for name in names:
        put(name)
    with fsspec.open(f"{home}/photos.txt", "w") as file:
        file.write("\n".join(names))
    given = recipe(home, f"{home}/photos.txt")
    expected = planned(given)
    sent()
    commands.generate(given)
    assert sent() == expected


@pytest.mark.slow
def test_a_trial_measures_on_a_worker_and_writes_nothing(
    sent: Callable[[], dict[str, int]], home: str
) -> None:
    put(f"{home}/painting.png")
    for name in "abcd":
        put(f"{home}/photos/{name}.png")
    given = recipe(home, f"{home}/photos", crops=2, iterations=40)
    sent()
    plan = as_json(commands.plan(given, calibrate=True, price_per_device_hour=3600.0))
    assert sent()["writes"] == 0
    assert Store(given.output).list() == []
    assert (plan["to_do"], plan["rates_from"], plan["devices"]) == (8, "calibration", 1)
    assert plan["device_hours"] > 0
    assert min(plan["steps"][step]["hours"] for step in ("pairs", "training", "scoring")) > 0
    assert plan["price"] == pytest.approx(plan["device_hours"] * 3600)
    size = fsspec.filesystem("s3").size(f"{home}/photos/a.png")
    assert plan["bytes_read"] == pytest.approx(5 * size, rel=0.02)  # two photos have a crop in a second unit
    generate_here(given)
    written = sum(
        fsspec.filesystem("s3").sizes([f"{given.output}/{name}" for name in Store(given.output).list(DATA)])
    )
    assert plan["bytes_written"] == pytest.approx(written, rel=0.15)
    assert plan["device"] == "cpu"


@pytest.mark.slow
def test_a_trial_without_a_good_photo_says_what_is_wrong(
    sent: Callable[[], dict[str, int]], home: str
) -> None:
    put(f"{home}/painting.png")
    put(f"{home}/photos/a.png", side=20)
    with pytest.raises(IncompleteError, match=r"of 1 photos is good; the first, s3:.*/a\.png: too_small"):
        commands.plan(recipe(home, f"{home}/photos"), calibrate=True)


def test_seconds_are_drawn_out_along_the_line_through_two_timings() -> None:
    assert extrapolate(Timing(3, 5.0), Timing(13, 10.0), 300) == 10.0 + 287 * 0.5
    assert extrapolate(Timing(3, 5.0), Timing(13, 10.0), 1) == 4.0
    assert extrapolate(Timing(2, 5.0), Timing(2, 4.0), 2) == 4.0
    assert extrapolate(Timing(3, 5.0), Timing(6, 4.0), 9) == 4.0  # noise: more work is never less time


def test_the_longer_trial_is_as_long_as_time_and_recipe_allow() -> None:
    assert longer(Timing(3, 4.0), 300) == 19  # 20 evaluations of a second in 20 seconds
    assert longer(Timing(3, 4.0), 10) == 10
    assert longer(Timing(3, 400.0), 300) == 6
    assert longer(Timing(1, 400.0), 1) == 1
