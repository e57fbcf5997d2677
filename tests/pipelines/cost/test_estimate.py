"""Laws of an estimate: exact arithmetic on what was measured, and nothing where nothing was."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from batch_nst.data.storage.store import Store
from batch_nst.pipelines.cost.estimate import UNKNOWN, estimate, estimate_lines
from batch_nst.pipelines.cost.requests import Requests, Traffic, generate_requests
from batch_nst.pipelines.cost.unit_costs import UnitCosts, last_unit_costs
from batch_nst.pipelines.cost.workload import Workload

MADE = {
    "tried": 40,
    "made": 38,
    "device": "cuda",
    "devices": 4,
    "device_seconds": 100.0,
    "photos_read": 20,
    "bytes_read": 5_000,
    "bytes_written": 8_000,
}
BUCKETS = Traffic(
    photo_reads=90, units=10, listed=70, output=True, new_segments=1, chunks=1, segments=1, done=2
)
WORK = Workload(images=160, unpaired=0, units=10, photo_reads=90, traffic=BUCKETS)
NOTHING = replace(WORK, images=0, units=0, photo_reads=0, traffic=replace(BUCKETS, photo_reads=0, units=0))
UNMEASURED = (
    "device",
    "devices",
    "device_hours",
    "hours",
    "bytes_read",
    "bytes_written",
    "price",
    "rates_from",
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def leave(store: Store, name: str, **figures: Any) -> None:
    store.replace(f"runs/{name}/summary.json", json.dumps({"run": name, **figures}).encode())


def test_the_rates_are_those_of_the_last_run_that_made_images(store: Store) -> None:
    leave(store, "1-generate", **{**MADE, "device_seconds": 1.0})
    leave(store, "2-generate", **MADE)
    leave(store, "3-generate", **{**MADE, "tried": 2, "made": 0})
    leave(store, "4-generate", error="stopped by SIGTERM")
    leave(store, "5-train", steps=4000)
    assert last_unit_costs(store) == UnitCosts(
        source="run 2-generate", device="cuda", devices=4, seconds=2.5, bytes_read=250.0, bytes_written=200.0
    )
    leave(store, "6-nightly", dataset={**MADE, "device_seconds": 200.0}, version="abc")
    rates = last_unit_costs(store)
    assert rates is not None
    assert (rates.source, rates.seconds) == ("run 6-nightly", 5.0)


def test_where_no_run_tells_there_are_no_rates(store: Store) -> None:
    assert last_unit_costs(store) is None
    leave(store, "1-generate", made=38, device_seconds=100.0)  # as version 0.1.0 wrote it
    assert last_unit_costs(store) is None


def test_an_estimate_is_counts_times_rates(store: Store) -> None:
    leave(store, "2-generate", **MADE)
    figures = estimate(WORK, last_unit_costs(store), price=9.0)
    assert asdict(figures) == {
        "store_requests": asdict(generate_requests(BUCKETS, 4, 100.0)),
        "device": "cuda",
        "devices": 4,
        "device_hours": 400 / 3600,
        "hours": 100 / 3600,
        "bytes_read": 22_500,
        "bytes_written": 32_000,
        "price": 1.0,
        "rates_from": "run 2-generate",
    }
    assert estimate(WORK, last_unit_costs(store)).price is None


def test_each_device_that_has_a_unit_starts_once() -> None:
    rates = UnitCosts("calibration", "cpu", 64, 2.0, 1.0, 1.0, start_seconds=30.0)
    figures = estimate(WORK, rates)
    assert (figures.devices, figures.device_hours) == (10, (10 * 30 + 160 * 2) / 3600)


def test_nothing_is_guessed_before_anything_is_measured() -> None:
    figures = asdict(estimate(WORK, None, price=9.0))
    assert {name: figures[name] for name in UNMEASURED} == dict.fromkeys(UNMEASURED)
    assert figures["store_requests"] == asdict(generate_requests(BUCKETS))


def test_photos_without_pairs_take_no_device_and_half_the_room() -> None:
    rates = UnitCosts("calibration", "cpu", 4, 2.0, 1.0, 10.0)
    with_pairs = estimate(WORK, rates)
    more = estimate(replace(WORK, unpaired=100), rates)
    assert more.device_hours == with_pairs.device_hours
    assert more.bytes_written == with_pairs.bytes_written + 500


@pytest.mark.parametrize(("price", "told"), [(None, None), (9.0, 0.0)])
def test_nothing_to_do_costs_nothing(price: float | None, told: float | None) -> None:
    figures = estimate(NOTHING, None, price)
    assert (figures.device_hours, figures.hours, figures.bytes_read, figures.bytes_written) == (0, 0, 0, 0)
    assert (figures.store_requests, figures.price) == (Requests(0, 0, 0), told)


def test_only_what_is_in_buckets_sends_requests() -> None:
    assert generate_requests(Traffic(), seconds=3600.0) == Requests(0, 0, 0)
    assert generate_requests(Traffic(photo_reads=7, listed=7)) == Requests(7, 0, 2)
    assert generate_requests(Traffic(photo_reads=7, looked_at=7, single_reads=3)) == Requests(17, 0, 0)
    assert generate_requests(Traffic(weights=True), devices=5) == Requests(7, 0, 0)


def test_a_thousand_keys_are_a_request_and_the_lease_is_renewed_three_times_a_minute() -> None:
    before, pages = generate_requests(BUCKETS), replace(BUCKETS, listed=2001, done=1000, units=11)
    listed = generate_requests(pages)
    assert (listed.writes - before.writes, listed.lists - before.lists) == (1, 2 + 1)
    assert generate_requests(BUCKETS, seconds=600.0) == replace(before, writes=before.writes + 30)


def test_people_see_the_same_figures() -> None:
    rates = UnitCosts("run 2-generate", "cuda", 4, 90.0, 1.5 * 2**20, 2**30, 0.0)
    shown = estimate_lines({"photos": 1234, "to_do": 160}, estimate(WORK, rates, price=2.5))
    requests = generate_requests(BUCKETS, 4, 3600.0)
    assert shown == [
        "        photos 1,234",
        "         to do 160",
        "  device-hours 4.00 of cuda; 1.00 hours for 4 at a time",
        f"store requests {requests.reads + requests.writes + requests.lists}: {requests.reads} reads, "
        f"{requests.writes} writes, {requests.lists} lists",
        "    bytes read 135.0 MiB",
        " bytes written 160.0 GiB",
        "         price 10.00",
        "    rates from run 2-generate",
    ]


def test_people_are_told_what_is_not_known_and_how_to_know_it() -> None:
    shown = estimate_lines({"to_do": 160}, estimate(replace(WORK, traffic=Traffic()), None, price=2.5))
    assert shown == [
        "         to do 160",
        f"  device-hours {UNKNOWN}",
        "store requests 0",
        "    bytes read not known",
        " bytes written not known",
    ]
    assert "--calibrate" in UNKNOWN


def test_people_see_small_figures_too() -> None:
    rates = UnitCosts("calibration", "cpu", 1, 0.9, 5.0, 6.4, 0.0)
    shown = estimate_lines({}, estimate(WORK, rates, price=0.1))
    assert shown[0] == "  device-hours 0.04 of cpu; 0.04 hours for 1 at a time"
    assert shown[2:5] == ["    bytes read 450 bytes", " bytes written 1.0 KiB", "         price 0.004"]
