"""Crashes of drivers, actors and nodes of a real Ray, with a device that sleeps."""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from batch_nst.data.dataset import plan_files, units
from batch_nst.data.storage.store import Store
from tests.support.dataset_laws import assert_each_planned_id_once, assert_whole, below, look
from tests.support.fake_device import entries
from tests.support.namespaces import unshared
from tests.support.photo_bucket import UNITS, Bucket, fill
from tests.support.ray_nodes import Command, Machines, machines
from tests.support.store_proxy import Proxy, Request, at_random
from tests.support.units_job import run

pytestmark = pytest.mark.slow


def done(recipe: dict[str, Any]) -> int:
    return len(units.done_units(Store(recipe["output"])))


def wait_until_done(recipe: dict[str, Any], count: float, command: Command) -> None:
    while done(recipe) < count:
        assert command.process.poll() is None, command.log
        time.sleep(0.1)


def assert_as_from_one_clean_run(
    bucket: Bucket, output: str, figures: dict[str, Any], **generate: Any
) -> None:
    """The laws, and the very objects that the units layer makes without Ray and without a crash."""
    assert figures["exit_code"] == 0, figures
    clean = run(bucket.recipe(f"{output}-clean", **generate))
    compared = ("digest", "ok", "held_out", "rejected", "failed", "pending", "gone")
    assert {name: figures[name] for name in compared} == {name: clean[name] for name in compared}
    seen, expected = (look(Store(f"{bucket.uri}/{name}")) for name in (output, f"{output}-clean"))
    assert_whole({name: data for name, data in seen.items() if not name.startswith("runs/")})
    assert_each_planned_id_once(seen)
    for folder in (plan_files.PLAN, units.DATA):
        assert below(seen, folder) == below(expected, folder)


# --- kills


KINDS = ("driver", "actor", "node")


def strike(kind: str, dice: random.Random, command: Command, cluster: Machines) -> None:
    if kind == "driver":
        command.kill()
    elif kind == "node":
        cluster.replace(dice.choice(cluster.nodes))
    elif actors := living_actors(command):  # there is none for a moment after another blow
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(actors), signal.SIGKILL)


def living_actors(command: Command) -> list[int]:
    """Pids of those that have begun a unit."""
    begun = {entry["pid"] for entry in entries(command.journal)}
    return sorted(
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if process.pid in begun and "ray::" in " ".join(process.info["cmdline"] or [])
    )


@pytest.mark.chaos
@pytest.mark.parametrize(("kills", "crops"), [(1, 3), (5, 8)], ids=["three", "fifteen"])
def test_kills_at_random_times_leave_what_one_clean_run_makes(
    bucket: Bucket, tmp_path: Path, kills: int, crops: int
) -> None:
    """So many kills of each kind, spread over the run."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    blows = dice.sample([*KINDS] * kills, len(KINDS) * kills)
    output = f"kills-{kills}"
    recipe = bucket.recipe(output, crops=crops, actors=[2, 2])
    total = UNITS * crops
    with machines(2) as cluster:
        command = Command(tmp_path, recipe, 1.0, cluster.cluster.address)
        for number, kind in enumerate(blows):
            wait_until_done(recipe, number * total / (len(blows) + 1), command)
            time.sleep(dice.uniform(0, 2))
            print(f"{done(recipe)} of {total} done: kill -9 of the {kind}", flush=True)
            strike(kind, dice, command, cluster)
            if kind == "driver":
                command = Command(tmp_path, recipe, 1.0, cluster.cluster.address)
        figures = command.finish()
    assert_as_from_one_clean_run(bucket, output, figures, crops=crops)


@pytest.mark.chaos
def test_after_sigterm_no_unit_begins_and_all_that_have_are_committed(bucket: Bucket, tmp_path: Path) -> None:
    recipe = bucket.recipe("sigterm", crops=3, actors=[2, 2])
    with machines(2) as cluster:
        command = Command(tmp_path, recipe, 3.0, cluster.cluster.address)
        wait_until_done(recipe, 2, command)
        command.process.terminate()
        at = time.time()
        stopped = command.finish()
        took = time.time() - at
        assert stopped["exit_code"] == 143
        assert sorted(begun(command)) == sorted(units.done_units(Store(recipe["output"])))
        assert len(begun(command)) < UNITS * 3
        print(f"ended after {took:.1f} s")
        command = Command(tmp_path, recipe, 0.1, cluster.cluster.address)
        figures = command.finish()
    assert_as_from_one_clean_run(bucket, "sigterm", figures, crops=3)
    assert set(begun(command).values()) == {1}


# --- nodes


def begun(command: Command) -> Counter[str]:
    return Counter(entry["unit"] for entry in entries(command.journal) if entry["event"] == "began")


def ended(command: Command) -> Counter[str]:
    return Counter(entry["unit"] for entry in entries(command.journal) if entry["event"] == "ended")


@pytest.mark.chaos
def test_a_node_that_is_lost_costs_its_actor_one_unit_and_its_replacement_works(
    bucket: Bucket, tmp_path: Path
) -> None:
    recipe = bucket.recipe("lost-node", crops=5, actors=[3, 3])
    with machines(3) as cluster:
        command = Command(tmp_path, recipe, 1.0, cluster.cluster.address)
        command.wait_until_busy(3)
        wait_until_done(recipe, UNITS * 5 / 3, command)
        crashed = time.time()
        replacement = cluster.replace(cluster.nodes[0])
        there = time.time()
        figures = command.finish()
        first = [entry for entry in entries(command.journal) if entry["node"] == replacement.node_id]
    assert_as_from_one_clean_run(bucket, "lost-node", figures, crops=5)
    again = sum(count - 1 for count in begun(command).values())
    done_again = sum(count - 1 for count in ended(command).values())
    assert first
    busy = first[0]["time"]
    print(
        f"replacement up {there - crashed:.1f} s after the crash, busy {busy - crashed:.1f} s after it; "
        f"{again} units begun again, {done_again} done again"
    )
    # An actor writes a unit while it works on the next: both go with it, and the first had been done.
    assert done_again <= 1
    assert again <= 2


@pytest.mark.chaos
def test_where_no_replacement_comes_the_other_nodes_finish(bucket: Bucket, tmp_path: Path) -> None:
    recipe = bucket.recipe("fewer-nodes", crops=4, actors=[3, 3])
    with machines(3) as cluster:
        command = Command(tmp_path, recipe, 1.0, cluster.cluster.address)
        command.wait_until_busy(3)
        cluster.crash(cluster.nodes[0])
        figures = command.finish()
    assert_as_from_one_clean_run(bucket, "fewer-nodes", figures, crops=4)
    assert sum(count - 1 for count in begun(command).values()) <= 1


@pytest.mark.chaos
def test_a_notice_of_30_seconds_loses_no_unit(bucket: Bucket, tmp_path: Path) -> None:
    recipe = bucket.recipe("notice", crops=12, actors=[3, 3])
    with machines(3) as cluster:
        command = Command(tmp_path, recipe, 1.0, cluster.cluster.address)
        command.wait_until_busy(3)
        told, node = time.time(), cluster.nodes[0]
        cluster.drain(node, 30)
        cluster.add()
        while time.time() < told + 30:
            assert command.process.poll() is None, command.log
            time.sleep(0.1)
        last = max(entry["time"] for entry in entries(command.journal) if entry["node"] == node.node_id)
        cluster.crash(node)
        figures = command.finish()
    assert_as_from_one_clean_run(bucket, "notice", figures, crops=12)
    print(f"the node's last sign of work came {last - told:.1f} s after the notice")
    assert set(begun(command).values()) == {1}


# --- a store that fails


@pytest.mark.chaos
def test_a_fifth_of_all_requests_fails_and_nothing_counts_as_bad(
    bucket: Bucket, tmp_path: Path, proxy: Proxy
) -> None:
    recipe = bucket.recipe("ray-faults")
    proxy.before = at_random(0.2, seed=4)
    command = Command(tmp_path, recipe, 0.0, AWS_ENDPOINT_URL=proxy.url)
    figures = command.finish()
    assert figures["made"] == bucket.photos, command.log
    assert_as_from_one_clean_run(bucket, "ray-faults", figures)


@pytest.mark.chaos
@pytest.mark.parametrize("gone", ["/photos/", f"/{plan_files.PLAN}/", f"/{units.DATA}/"])
def test_an_outage_that_outlasts_the_retries_leaves_units_pending(
    bucket: Bucket, tmp_path: Path, proxy: Proxy, gone: str
) -> None:
    output = f"ray-outage-{gone.strip('/').replace('/', '-')}"
    recipe = bucket.recipe(output)
    came = 0

    def refuse(request: Request) -> str:
        nonlocal came
        if request.kind in ("get", "put") and gone in request.key:
            came += 1
            return "503" if came > (1 if gone == f"/{plan_files.PLAN}/" else 6) else ""
        return ""

    proxy.before = refuse
    command = Command(tmp_path, recipe, 0.0, AWS_ENDPOINT_URL=proxy.url)
    figures = command.finish()
    assert figures["exit_code"] == 1, command.log
    assert figures["rejected"] == figures["failed"] == 0
    assert 0 < figures["pending"] <= bucket.photos
    assert figures["error"].startswith(f"{figures['pending']} images are pending: cannot ")
    proxy.forget()
    again = Command(tmp_path, recipe, 0.0, AWS_ENDPOINT_URL=proxy.url).finish()
    assert again["made"] == figures["pending"]
    assert_as_from_one_clean_run(bucket, output, again)


@pytest.mark.chaos
def test_a_store_that_is_gone_for_good_ends_the_command_with_an_error(
    bucket: Bucket, tmp_path: Path, proxy: Proxy
) -> None:
    recipe = bucket.recipe("ray-gone")

    def leave(request: Request) -> None:
        proxy.gone |= request.kind == "put" and f"/{units.DATA}/" in request.key

    proxy.after = leave
    command = Command(tmp_path, recipe, 0.0, AWS_ENDPOINT_URL=proxy.url)
    figures = command.finish()
    assert figures["exit_code"] == 1, command.log
    assert bucket.uri in figures["error"]
    proxy.forget()
    again = Command(tmp_path, recipe, 0.0, AWS_ENDPOINT_URL=proxy.url).finish()
    assert_as_from_one_clean_run(bucket, "ray-gone", again)


@pytest.mark.chaos
def test_a_full_disk_ends_the_command_with_one_line(tmp_path: Path) -> None:
    fill(Store(str(tmp_path)), 2 * UNITS)
    (tmp_path / "out").mkdir()
    mount = f'mount -t tmpfs -o size=384k none {tmp_path}/out; exec "$@"'
    recipe = Bucket(str(tmp_path), 2 * UNITS).recipe("out")
    command = Command(tmp_path, recipe, 0.0, inside=lambda words: unshared("--mount", mount, *words))
    figures = command.finish()
    assert figures["exit_code"] == 1, command.log
    assert figures["error"].startswith("cannot ")
    assert figures["error"].endswith("No space left on device")
    assert "Traceback" not in command.log
