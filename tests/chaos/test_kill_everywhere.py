"""kill -9 at every request that a job sends to the store; then the same job once more."""

import itertools
from collections import Counter
from concurrent.futures import Future
from typing import Any, NamedTuple

import pytest

from batch_nst.data.dataset import plan_files, units
from batch_nst.data.dataset.snapshot import SNAPSHOTS
from batch_nst.data.storage.store import Store
from tests.support.dataset_laws import assert_each_planned_id_once, assert_whole, below, look
from tests.support.photo_bucket import FEW, Bucket
from tests.support.store_proxy import Proxy, Request
from tests.support.units_job import Job, Order, run

MOMENTS = ("before", "half", "after")
"""The store has not heard of the request; it has half the body of what was to be written; it has done what
was asked, and the job does not know."""

_OUTPUTS = itertools.count()
"""Tests kill at the same requests."""


class Clean(NamedTuple):
    """A run that nothing befell, through the proxy."""

    bucket: Bucket
    outcome: dict[str, Any]
    requests: list[Request]
    seen: dict[str, bytes]


@pytest.fixture(scope="module")
def clean(few: Bucket, shared_proxy: Proxy) -> Clean:
    return go(few, shared_proxy, "clean")


def go(bucket: Bucket, proxy: Proxy, output: str, **generate: Any) -> Clean:
    proxy.forget()
    recipe = bucket.recipe(output, **generate)
    outcome = run(recipe, environment={"AWS_ENDPOINT_URL": proxy.url})
    assert outcome["exit_code"] == 0, outcome
    return Clean(bucket, outcome, list(proxy.requests), look(Store(recipe["output"])))


def kill_at(number: int, moment: str, proxy: Proxy, clean: Clean) -> None:
    """Kill a job at one request and run it again: the laws."""
    told = f"{moment} request {number}, {' '.join(clean.requests[number - 1][1:])}"
    recipe = clean.bucket.recipe(f"killed-{next(_OUTPUTS)}")
    store = Store(recipe["output"])
    started: Future[Job] = Future()

    def strike(request: Request) -> str:
        if request.number == number and moment != "after":
            started.result().kill()
            return "half" if moment == "half" else "reset"
        return ""

    def strike_late(request: Request) -> None:
        if request.number == number and moment == "after":
            started.result().kill()

    proxy.forget()
    proxy.before, proxy.after = strike, strike_late
    started.set_result(Job(Order(recipe, {"AWS_ENDPOINT_URL": proxy.url})))
    assert started.result().finish() == {"exit_code": -9}, told
    proxy.before, proxy.after = lambda _: "", lambda _: None
    left_behind = look(store)
    assert_whole(left_behind)
    committed = below(left_behind, units.DATA)
    again = run(recipe, environment={"AWS_ENDPOINT_URL": proxy.url})
    assert again == clean.outcome | {"made": clean.outcome["made"] - len(committed)}, told
    seen = look(store)
    assert_whole(seen)
    assert_each_planned_id_once(seen)
    for folder in (plan_files.PLAN, units.DATA):
        assert below(seen, folder) == below(clean.seen, folder), told
    assert below(seen, "dataset").keys() == below(clean.seen, "dataset").keys(), told
    assert {name: seen[name] for name in committed} == committed, told
    per_unit = Counter(request.key for request in proxy.requests if f"/{units.DATA}/" in request.key)
    assert max(count for key, count in per_unit.items() if key.endswith(".parquet")) <= 2, told


def moments(request: Request) -> tuple[str, ...]:
    return MOMENTS if request.kind == "put" else ("before", "after")


def test_a_kill_at_what_is_written_costs_nothing_and_leaves_what_a_clean_run_makes(
    shared_proxy: Proxy, clean: Clean
) -> None:
    puts = [request for request in clean.requests if request.kind == "put"]
    unit = next(request for request in puts[len(puts) // 2 :] if units.DATA in request.key)
    plan, snapshot = (
        next(request for request in puts if part in request.key) for part in (plan_files.PLAN, "snapshots")
    )
    for request, moment in ((plan, "half"), (unit, "half"), (unit, "after"), (snapshot, "after")):
        kill_at(request.number, moment, shared_proxy, clean)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_a_kill_at_every_request(bucket: Bucket, shared_proxy: Proxy) -> None:
    clean = go(bucket, shared_proxy, "clean")
    tried = 0
    for request in clean.requests:
        for moment in moments(request):
            kill_at(request.number, moment, shared_proxy, clean)
            tried += 1
    print(f"{tried} kills at {len(clean.requests)} requests")


# --- requests


def test_a_committed_unit_takes_one_request_beside_one_read_an_image(clean: Clean) -> None:
    of_units = Counter(
        (request.kind, request.key) for request in clean.requests if f"/{units.DATA}/" in request.key
    )
    written = {key: count for (kind, key), count in of_units.items() if kind == "put"}
    assert len(written) == FEW
    assert set(written.values()) == {1}
    read = Counter(
        request.key for request in clean.requests if request.kind == "get" and "photos" in request.key
    )
    assert len(read) == clean.bucket.photos
    assert set(read.values()) == {1}


def test_requests_that_are_not_of_a_unit_or_a_photo_do_not_grow(shared_proxy: Proxy, clean: Clean) -> None:
    fewer = go(clean.bucket, shared_proxy, "larger-units", unit_images=8)
    assert len(below(fewer.seen, units.DATA)) == FEW // 4
    assert len(clean.requests) - len(fewer.requests) == FEW - FEW // 4


def test_a_resume_reads_a_committed_unit_once_and_another_start_does_not(
    few: Bucket, shared_proxy: Proxy
) -> None:
    recipe = few.recipe("resumed")
    started: Future[Job] = Future()
    shared_proxy.forget()

    def strike(request: Request) -> str:
        if request.kind == "put" and SNAPSHOTS in request.key:
            started.result().kill()
            return "reset"
        return ""

    shared_proxy.before = strike
    environment = {"AWS_ENDPOINT_URL": shared_proxy.url}
    started.set_result(Job(Order(recipe, environment)))
    started.result().finish()
    shared_proxy.forget()
    assert run(recipe, environment=environment)["made"] == 0
    assert not shared_proxy.count("get", "/photos/")
    assert sum(shared_proxy.count("get", f"/{units.DATA}/").values()) == FEW
    shared_proxy.forget()
    assert run(recipe, environment=environment)["made"] == 0
    assert not shared_proxy.count("get", f"/{units.DATA}/")
    for folder in (plan_files.PLAN, units.DATA, SNAPSHOTS):
        assert not shared_proxy.count("put", f"/{folder}/")
