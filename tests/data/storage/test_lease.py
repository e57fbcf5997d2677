"""Laws of `batch_nst.data.storage.lease`."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batch_nst.data.storage import lease as lease_module
from batch_nst.data.storage.lease import CLOCK_SKEW, Lease, acquire
from batch_nst.data.storage.store import Store
from batch_nst.errors import LeaseError, RecipeError, StorageError
from tests.support.small_store import SmallStore

HOLDER = """
import sys
from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from batch_nst.errors import LeaseError
sys.stdin.readline()
try:
    with acquire(Store(sys.argv[1]), command="generate") as lease:
        print(lease.token, flush=True)
        sys.stdin.readline()
except LeaseError as error:
    print(error, flush=True)
"""
"""A process that takes the lease at the first line of its input and releases it at the second."""


@contextlib.contextmanager
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, store.uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def record(store: Store, token: int) -> dict[str, Any]:
    return dict(json.loads(store.read(f"lease/{token:06d}.json")))


def refuse_to_write(lease: Lease, record: object) -> None:
    raise StorageError("disk on fire")


def leave_lease(store: Store, token: int, expires_in: float, **owner: object) -> None:
    """As another host would have written it."""
    with acquire(Store(f"{store.uri}/elsewhere"), command="train") as sample:
        content = record(sample.store, 1)
    expires = datetime.now(UTC) + timedelta(seconds=expires_in)
    content |= {"expires": expires.isoformat(), "released": False}
    content["owner"] |= {"host": "far-away", **owner}
    assert store.create(f"lease/{token:06d}.json", json.dumps(content).encode())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a lease takes for the time: `now`, which stands still until a test sets it."""
    clock = SimpleNamespace(now=0.0, sleep=time.sleep)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(lease_module, "time", clock)
    return clock


def test_tokens_rise_and_old_leases_go(store: Store) -> None:
    tokens = []
    for _ in range(6):
        with acquire(store, command="generate") as lease:
            lease.check()
            tokens.append(lease.token)
    assert tokens == [1, 2, 3, 4, 5, 6]
    assert store.list("lease") == [f"lease/{n:06d}.json" for n in (5, 6)]
    assert record(store, 6)["released"] is True


def test_a_lease_says_who_holds_it_and_until_when(store: Store) -> None:
    with acquire(store, command="publish", seconds=30):
        content = record(store, 1)
    owner = content["owner"]
    assert (owner["pid"], owner["command"]) == (os.getpid(), "publish")
    assert {"host", "boot_id", "start_time", "user"} <= set(owner)
    acquired, expires = (datetime.fromisoformat(content[key]) for key in ("acquired", "expires"))
    assert expires - acquired == timedelta(seconds=30)
    assert acquired.utcoffset() == timedelta()


@pytest.mark.parametrize(("kind", "contenders"), [("disk", 3), ("s3", 2)])
def test_of_contending_processes_exactly_one_holds(
    kind: str, contenders: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = str(tmp_path) if kind == "disk" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    store = Store(uri)
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(holder(store)) for _ in range(contenders)]
        for process in processes:
            tell(process)
        answers = [hear(process) for process in processes]
        assert answers.count("1") == 1
        winner = processes[answers.index("1")]
        assert sum(f"(pid {winner.pid}, generate)" in answer for answer in answers) == contenders - 1
        tell(winner)
        assert winner.wait() == 0
    with acquire(store, command="train") as lease:
        assert lease.token == 2


def test_a_live_holder_is_named_and_a_dead_one_replaced_at_once(store: Store) -> None:
    with holder(store) as process:
        tell(process)
        assert hear(process) == "1"
        with pytest.raises(LeaseError, match=rf"pid {process.pid}, generate\) until 20.*--wait") as caught:
            acquire(store, command="train")
        assert caught.value.exit_code == 4
        assert "\n" not in str(caught.value)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead but not reaped
        with acquire(store, command="train") as lease:
            assert lease.token == 2


def test_the_same_process_does_not_take_it_twice(store: Store) -> None:
    with acquire(store, command="generate"), pytest.raises(LeaseError, match=f"pid {os.getpid()}"):
        acquire(store, command="train")


def test_a_pid_used_again_is_another_process(store: Store) -> None:
    with acquire(store, command="generate"):
        content = record(store, 1)
    content["owner"]["start_time"] -= 1
    store.replace("lease/000001.json", json.dumps(content | {"released": False}).encode())
    with acquire(store, command="train") as lease:
        assert lease.token == 2


@pytest.mark.parametrize("owner", [{}, {"host": "here", "pid_namespace": "pid:[1]"}])
def test_a_holder_out_of_sight_is_left_its_time(store: Store, owner: dict[str, object]) -> None:
    leave_lease(store, 3, expires_in=60, **{"pid": 2**22 - 1, **owner})
    with pytest.raises(LeaseError, match=r"pid 4194303, train"):
        acquire(store, command="generate")


def test_an_expired_lease_is_free_but_not_within_the_clock_skew(store: Store) -> None:
    leave_lease(store, 3, expires_in=-1)
    with pytest.raises(LeaseError, match="far-away"):
        acquire(store, command="generate")
    leave_lease(store, 4, expires_in=-CLOCK_SKEW - 1)
    with acquire(store, command="generate") as lease:
        assert lease.token == 5


def test_waiting_ends_when_the_holder_releases(store: Store) -> None:
    later = threading.Timer(0.3, acquire(store, command="generate").release)
    later.start()
    with acquire(store, command="train", wait=True, seconds=1) as lease:
        assert lease.token == 2
    later.join()


def test_the_old_holder_is_fenced_after_a_takeover(store: Store) -> None:
    with acquire(store, command="generate") as old:
        leave_lease(store, 2, expires_in=60)
        with pytest.raises(LeaseError, match=r"lease 1 of .* taken over by .*far-away"):
            old.check()
    with pytest.raises(LeaseError, match="far-away"):  # the old one's release freed nothing
        acquire(store, command="generate")


def test_renewal_keeps_a_lease_past_its_seconds(store: Store, clock: SimpleNamespace) -> None:
    with acquire(store, command="generate", seconds=0.3) as lease:
        clock.now = 1.0
        for _ in range(3):  # the first has perhaps begun before that, and the last has perhaps not ended
            before = record(store, 1)["expires"]
            while record(store, 1)["expires"] == before:
                time.sleep(0.01)
        clock.now = 1.25
        lease.check()
    with pytest.raises(LeaseError, match="released"):
        lease.check()


def test_a_lease_that_could_not_be_renewed_stops_its_holder(
    store: Store, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = threading.Semaphore(0)

    def try_in_vain(lease: Lease, record: object) -> None:
        tries.release()
        refuse_to_write(lease, record)

    lease = acquire(store, command="generate", seconds=0.3)
    with monkeypatch.context() as patch:
        patch.setattr(Lease, "_write", try_in_vain)
        for _ in range(2):  # the second comes after what the first has ended in
            tries.acquire()
        clock.now += 0.31
        with pytest.raises(StorageError, match=r"0\.3 s; last error: disk on fire"):
            lease.check()
    lease.release()


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_jump_of_the_wall_clock_stops_no_holder(
    store: Store, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    wall = SimpleNamespace(ahead=timedelta(), now=lambda zone: datetime.now(zone) + wall.ahead)
    monkeypatch.setattr(lease_module, "datetime", wall)
    with acquire(store, command="generate", seconds=0.3) as lease:
        before = datetime.fromisoformat(record(store, 1)["expires"])
        wall.ahead = jump
        while abs(datetime.fromisoformat(record(store, 1)["expires"]) - before) < abs(jump) / 2:
            time.sleep(0.01)
        lease.check()


def test_an_error_in_the_block_releases_and_is_not_masked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyError), acquire(store, command="generate"):
        raise KeyError("mine")
    assert record(store, 1)["released"] is True
    lease = acquire(store, command="generate")
    monkeypatch.setattr(Lease, "_write", refuse_to_write)
    with pytest.raises(KeyError) as caught, lease:
        raise KeyError("mine")
    assert "lease 2 was not released: disk on fire" in caught.value.__notes__


def test_a_lost_answer_to_the_taking_is_no_lost_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    create = Store.create

    def create_and_deny(self: Store, name: str, data: bytes) -> bool:
        create(self, name, data)
        return False

    monkeypatch.setattr(Store, "create", create_and_deny)
    with acquire(store, command="generate") as lease:
        assert lease.token == 1


def test_a_store_that_lets_two_create_one_object_is_refused_and_nothing_is_left(
    small_store: SmallStore,
) -> None:
    with acquire(Store("s3://any/out"), command="generate") as lease:
        lease.check()
    small_store.objects.clear()
    small_store.ignores = {"if-none-match"}
    for _ in range(2):
        with pytest.raises(RecipeError, match=r"output s3://any/out: its store ignores If-None-Match"):
            acquire(Store("s3://any/out"), command="generate")
        assert small_store.objects == {}


def test_a_damaged_lease_is_named(store: Store) -> None:
    store.create("lease/000001.json", b"{}")
    with pytest.raises(StorageError, match=r"lease/000001\.json is not a lease"):
        acquire(store, command="generate")
