"""Full disk, read-only output, store gone, clocks that jump: a clear error or a wait, and a clean resume."""

import json
import subprocess
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from batch_nst.data.dataset import plan_files, units
from batch_nst.data.storage.store import Store
from tests.support.dataset_laws import Seen, assert_each_planned_id_once, assert_whole, below, look
from tests.support.namespaces import unshared
from tests.support.photo_bucket import FEW, UNITS, Bucket, fill
from tests.support.store_proxy import Proxy, Request, at_random
from tests.support.units_job import Order, as_words, run


@pytest.fixture
def folder(tmp_path: Path) -> Bucket:
    """On a disk."""
    fill(Store(str(tmp_path)), 2 * UNITS)
    return Bucket(str(tmp_path), 2 * UNITS)


def outcomes(command: list[str]) -> list[dict[str, Any]]:
    """What each job that a command started has printed."""
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@cache
def clean_run(bucket: Bucket) -> tuple[dict[str, Any], Seen]:
    """What nothing befell."""
    recipe = bucket.recipe("clean-weather")
    return run(recipe), look(Store(recipe["output"]))


def assert_like_a_clean_run(bucket: Bucket, output: str, ended: dict[str, Any]) -> None:
    """The last of several runs made the rest, and all of it is what one run makes."""
    clean, seen = clean_run(bucket)
    assert {**ended, "made": clean["made"], "number": 1} == clean
    assert_same_dataset(look(Store(f"{bucket.uri}/{output}")), seen)


def assert_same_dataset(seen: Seen, clean: Seen) -> None:
    assert_whole(seen)
    assert_each_planned_id_once(seen)
    for part in (plan_files.PLAN, units.DATA):
        assert below(seen, part) == below(clean, part)


# --- disks


def test_a_full_disk_is_an_error_and_with_room_again_the_job_continues(folder: Bucket) -> None:
    here = Path(folder.uri)
    (here / "out").mkdir()
    job = as_words(Order(folder.recipe("out")))
    # Half of what the units take: the disk is this job's alone, and goes with it.
    script = f"""
        cd {here}
        mount -t tmpfs -o size=384k none out
        "$@"
        cp -a out full
        mount -o remount,size=64m out
        "$@"
        cp -a out enough
    """
    failed, ended = outcomes(unshared("--mount", script, *job))
    assert failed["exit_code"] == 1
    assert failed["error"].startswith(f"cannot create {here}/out/{units.DATA}/")
    assert failed["error"].endswith("No space left on device")
    full, enough = look(Store(str(here / "full"))), look(Store(str(here / "enough")))
    assert_whole({name: data for name, data in full.items() if not name.startswith("lease/")})
    assert 0 < len(below(full, units.DATA)) == UNITS - ended["made"]
    assert not list((here / "full" / ".tmp").iterdir())
    clean, seen = clean_run(folder)
    assert ended | {"made": UNITS} == clean
    assert_same_dataset(enough, seen)


def test_a_read_only_output_is_an_error_at_once(folder: Bucket) -> None:
    here = Path(folder.uri)
    recipe = folder.recipe("out")
    (here / "out").mkdir()
    script = f'cd {here}; mount --bind out out; mount -o remount,bind,ro out; "$@"'
    (refused,) = outcomes(unshared("--mount", script, *as_words(Order(recipe))))
    assert refused["exit_code"] == 1
    assert refused["error"].startswith(f"cannot create {here}/out/lease/000001.json")
    assert "Read-only file system" in refused["error"]
    assert look(Store(recipe["output"])) == {}
    assert run(recipe)["made"] == UNITS


def test_a_bucket_that_may_only_be_read_is_an_error_at_once(few: Bucket, proxy: Proxy) -> None:
    recipe = few.recipe("read-only")
    reader = {"AWS_ACCESS_KEY_ID": "reader", "AWS_ENDPOINT_URL": proxy.url}
    refused = run(recipe, environment=reader)
    assert refused["exit_code"] == 1
    assert refused["error"].startswith(f"cannot create {recipe['output']}/lease/000001.json: PermissionError")
    assert sum(proxy.count("put").values()) == 1
    assert look(Store(recipe["output"])) == {}
    assert run(recipe)["made"] == FEW


# --- a store that does not answer


def test_a_store_that_is_gone_for_good_is_an_error_and_when_it_is_back_the_job_continues(
    few: Bucket, proxy: Proxy
) -> None:
    recipe = few.recipe("gone")

    def leave(request: Request) -> None:
        proxy.gone |= request.kind == "put" and f"/{units.DATA}/" in request.key

    proxy.after = leave
    failed = run(recipe, environment={"AWS_ENDPOINT_URL": proxy.url})
    assert failed["exit_code"] == 1
    assert recipe["output"] in failed["error"] or f"{few.uri}/photos" in failed["error"]
    assert "5 attempts" in failed["error"]
    left_behind = look(Store(recipe["output"]))
    assert_whole(left_behind)
    assert len(below(left_behind, units.DATA)) == 1
    ended = run(recipe)
    assert ended["made"] == FEW - 1
    assert_like_a_clean_run(few, "gone", ended)


def test_a_plan_that_cannot_be_read_leaves_its_units_pending(few: Bucket, proxy: Proxy) -> None:
    recipe = few.recipe("plan-out")
    proxy.before = lambda request: "503" if request.kind == "get" and plan_files.PLAN in request.key else ""
    failed = run(recipe, environment={"AWS_ENDPOINT_URL": proxy.url})
    assert failed["exit_code"] == 1
    assert failed["error"].startswith(f"{few.photos} images are pending: cannot read {recipe['output']}/")
    assert_like_a_clean_run(few, "plan-out", run(recipe))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.chaos)])
def test_faults_in_a_fifth_of_the_requests_are_no_bad_photos(bucket: Bucket, proxy: Proxy, seed: int) -> None:
    proxy.before = at_random(0.2, seed, ("503", "reset", "lose", "truncate"))
    ended = run(bucket.recipe(f"faults-{seed}"), environment={"AWS_ENDPOINT_URL": proxy.url})
    assert (ended["exit_code"], ended["made"], ended["rejected"], ended["failed"]) == (0, UNITS, 0, 0)
    assert_like_a_clean_run(bucket, f"faults-{seed}", ended)


@pytest.mark.chaos
@pytest.mark.parametrize("at", ["/photos/", f"/{units.DATA}/", "/snapshots/", "/plan/"])
def test_a_store_gone_for_a_minute(few: Bucket, proxy: Proxy, at: str) -> None:
    name = f"minute-{at.strip('/').replace('/', '-')}"
    recipe = few.recipe(name)
    back = threading.Timer(60, lambda: setattr(proxy, "gone", False))

    def leave(request: Request) -> str:
        if at in request.key and request.kind in ("get", "put") and back.ident is None:
            proxy.gone = True
            back.start()
        return ""

    proxy.before = leave
    environment = {"AWS_ENDPOINT_URL": proxy.url}
    told = run(recipe, environment=environment, patient=True)
    back.join()
    assert told["exit_code"] in (0, 1, 4)
    if told["exit_code"]:
        assert few.uri in told["error"], told
    print(f"store gone for 60 s at {at}: exit {told['exit_code']}, {told.get('error', 'it waited')}")
    ended = run(recipe, environment=environment, wait=True)
    assert_like_a_clean_run(few, name, ended)


# --- clocks


def faketime() -> str:
    """The library that gives a process another clock."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("no libfaketime (apt-get install faketime)")
    return str(found[0])


@pytest.mark.slow
@pytest.mark.parametrize("jump", ["+1h", pytest.param("-1h", marks=pytest.mark.chaos)])
def test_a_clock_that_jumps_while_it_works_stops_nobody(folder: Bucket, tmp_path: Path, jump: str) -> None:
    recipe = folder.recipe("out")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": faketime(),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    job = subprocess.Popen(
        [
            "env",
            *(f"{name}={value}" for name, value in environment.items()),
            *as_words(Order(recipe)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "out" / plan_files.PLAN).exists():
        assert job.poll() is None
        time.sleep(0.01)
    clock.write_text(jump)
    stdout, _ = job.communicate()
    ended = json.loads(stdout)
    assert (ended["exit_code"], ended["made"]) == (0, UNITS)
    seen = look(Store(recipe["output"]))
    assert_whole(seen)
    assert_each_planned_id_once(seen)


@pytest.mark.parametrize("off", [-3600.0, 3600.0])
def test_a_clock_far_off_is_an_error_that_says_so(few: Bucket, off: float) -> None:
    recipe = few.recipe(f"clock{off:+.0f}")
    refused = run(recipe, dates=off)
    assert refused["exit_code"] == 1
    assert "difference between the request time and the server's time is too large" in refused["error"]
    assert run(recipe)["made"] == FEW
