"""Several submissions of one recipe: one runs, and who lost its lease without noticing spoils nothing."""

import json
import os
import signal
import subprocess
import threading
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any

import psutil
import pytest

from batch_nst.data.dataset import units
from batch_nst.data.storage.lease import CLOCK_SKEW, SECONDS
from batch_nst.data.storage.store import Store
from tests.support.dataset_laws import assert_each_planned_id_once, assert_whole, below, look
from tests.support.namespaces import unshared
from tests.support.photo_bucket import FEW, Bucket
from tests.support.store_proxy import Proxy, Request
from tests.support.units_job import Job, Order, as_words, run

HOUR = 3600.0


def test_of_eight_submissions_at_the_same_moment_one_runs_and_the_others_name_it(
    few: Bucket, proxy: Proxy
) -> None:
    recipe = few.recipe("eight")
    others_gone, taken = threading.Event(), threading.Event()
    all_here = threading.Barrier(8, taken.set, timeout=300)

    def hold(request: Request) -> str:
        # Each has found the output free and asks for the same lease; the one that gets it seals after the
        # others have seen it at work.
        if request.kind == "put" and "/lease/" in request.key and not taken.is_set():
            all_here.wait()
        if request.kind == "put" and "/snapshots/" in request.key:
            others_gone.wait(300)
        return ""

    proxy.before = hold
    jobs = [Job(Order(recipe, {"AWS_ENDPOINT_URL": proxy.url})) for _ in range(8)]
    outcomes: dict[int, dict[str, Any]] = {}

    def wait_for(job: Job) -> None:
        outcomes[job.pid] = job.finish()
        if len(outcomes) == 7:
            others_gone.set()

    waiters = [threading.Thread(target=wait_for, args=(job,)) for job in jobs]
    for waiter in waiters:
        waiter.start()
    for waiter in waiters:
        waiter.join()
    assert sorted(outcome["exit_code"] for outcome in outcomes.values()) == [0] + [4] * 7
    (winner,) = (pid for pid, outcome in outcomes.items() if outcome["exit_code"] == 0)
    assert outcomes[winner]["made"] == FEW
    for pid, outcome in outcomes.items():
        assert pid == winner or f"(pid {winner}, generate)" in outcome["error"]
    seen = look(Store(recipe["output"]))
    assert_whole(seen)
    assert_each_planned_id_once(seen)
    assert len(below(seen, "lease")) == len(below(seen, "dataset/snapshots")) == 1


def test_a_dead_holder_is_followed_at_once_on_its_own_host(few: Bucket, proxy: Proxy) -> None:
    recipe = few.recipe("dead")
    started: Future[Job] = Future()

    def strike(request: Request) -> None:
        if request.kind == "put" and f"/{units.DATA}/" in request.key:
            started.result().kill()

    proxy.after = strike
    started.set_result(Job(Order(recipe, {"AWS_ENDPOINT_URL": proxy.url})))
    assert started.result().finish() == {"exit_code": -signal.SIGKILL}
    assert run(recipe)["made"] == FEW - 1  # without waiting for the end of its lease
    assert record(recipe, 1)["released"] is False


@pytest.mark.chaos
def test_a_dead_holder_is_followed_after_its_time_elsewhere(few: Bucket, proxy: Proxy) -> None:
    recipe = few.recipe("dead-elsewhere")
    first: Future[int] = Future()

    def strike(request: Request) -> None:
        if request.kind == "put" and f"/{units.DATA}/" in request.key:
            os.kill(first.result(), signal.SIGKILL)

    proxy.after = strike
    words = as_words(Order(recipe, {"AWS_ENDPOINT_URL": proxy.url}))
    far_away = unshared("--uts", 'hostname far-away && exec "$@"', *words)
    with subprocess.Popen(far_away, stdout=subprocess.DEVNULL) as process:
        first.set_result(process.pid)  # `unshare` and the shell have become the job
    assert process.returncode == -signal.SIGKILL
    refused = run(recipe)
    assert refused["exit_code"] == 4
    assert "@far-away (pid " in refused["error"]
    assert run(recipe, wait=True)["made"] == FEW - 1
    expired, taken = (
        datetime.fromisoformat(record(recipe, n)[key]) for n, key in ((1, "expires"), (2, "acquired"))
    )
    assert taken > expired + timedelta(seconds=CLOCK_SKEW)
    assert expired >= datetime.fromisoformat(record(recipe, 1)["acquired"]) + timedelta(seconds=SECONDS)


class Zombie:
    """A job that is stopped while a request of its is on the way, and woken after another has done it all."""

    def __init__(self, bucket: Bucket, proxy: Proxy, output: str, at: str, delivered: bool) -> None:
        """`at` is a part of the key of what it writes; `delivered`: before it is stopped, or after."""
        self.recipe = bucket.recipe(output)
        started: Future[Job] = Future()
        asleep, woken = threading.Event(), threading.Event()

        def stop(request: Request) -> None:
            if request.kind == "put" and at in request.key and not asleep.is_set():
                os.kill(started.result().pid, signal.SIGSTOP)
                asleep.set()
                woken.wait(600)

        def stop_before(request: Request) -> str:
            stop(request)
            return ""

        if delivered:
            proxy.after = stop
        else:
            proxy.before = stop_before
        started.set_result(Job(Order(self.recipe, {"AWS_ENDPOINT_URL": proxy.url})))
        self.job = started.result()
        while not asleep.wait(0.1):
            assert not self.job.ended
        self._woken = woken

    def wake(self) -> dict[str, Any]:
        """Its outcome."""
        assert psutil.Process(self.job.pid).status() == psutil.STATUS_STOPPED
        os.kill(self.job.pid, signal.SIGCONT)
        self._woken.set()
        return self.job.finish()


@pytest.mark.parametrize(
    ("at", "delivered"),
    [
        (f"/{units.DATA}/", True),
        ("/snapshots/", False),
        pytest.param("/snapshots/", True, marks=pytest.mark.chaos),
    ],
)
def test_a_zombie_that_wakes_up_cannot_spoil_a_snapshot(
    few: Bucket, proxy: Proxy, at: str, delivered: bool
) -> None:
    zombie = Zombie(few, proxy, f"zombie-{at.strip('/').replace('/', '-')}-{delivered}", at, delivered)
    refused = run(zombie.recipe)  # it is not dead, only asleep
    assert refused["exit_code"] == 4
    assert f"(pid {zombie.job.pid}, generate)" in refused["error"]
    successor = run(zombie.recipe, clock=HOUR)  # its lease has run out
    assert successor["exit_code"] == 0
    before = look(Store(zombie.recipe["output"]))
    outcome = zombie.wake()
    if (at, delivered) == ("/snapshots/", True):
        assert outcome == successor | {"made": FEW}  # both have sealed the same
    else:
        assert outcome["exit_code"] == 4, outcome
    after = look(Store(zombie.recipe["output"]))
    assert below(after, "dataset") == below(before, "dataset")
    assert_whole(after)
    assert_each_planned_id_once(after)
    (snapshot,) = below(after, "dataset/snapshots").values()
    assert json.loads(snapshot)["digest"] == successor["digest"]


def record(recipe: dict[str, Any], token: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Store(recipe["output"]).read(f"lease/{token:06}.json"))
    return found
