"""The units layer as a process of its own, without Ray and torch, for tests to kill, to stop and to starve.

`Job` forks it from a warm process; as a script it takes an `Order` as JSON and prints the outcome.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, tzinfo
from multiprocessing.connection import Connection
from typing import Any

import botocore.auth
from botocore.retries.standard import ExponentialBackoff

from batch_nst.data.dataset.plan import survey
from batch_nst.data.dataset.snapshot import seal
from batch_nst.data.storage import fetch
from batch_nst.data.storage import lease as lease_module
from batch_nst.data.storage.lease import SECONDS, acquire
from batch_nst.data.storage.store import Store
from batch_nst.errors import BatchNSTError, IncompleteError, StorageError
from batch_nst.pipelines.generate.decode import decode_unit, planned_units
from batch_nst.pipelines.generate.write import write_unit
from batch_nst.recipe import Recipe
from tests.support.fake_stylizer import negative
from tests.support.places import ROOT

_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(
    [
        "batch_nst.data.dataset.snapshot",
        "batch_nst.data.dataset.plan",
        "batch_nst.pipelines.generate.decode",
        "s3fs",
    ]
)


@dataclass(frozen=True)
class Order:
    """What a job is to do."""

    recipe: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    wait: bool = False
    seconds: float = SECONDS
    """Life of its lease."""
    clock: float = 0.0
    """Seconds by which its leases are written and judged by a clock that is ahead of this machine's."""
    dates: float = 0.0
    """Seconds by which the clock is ahead that its requests to the store are dated by."""
    patient: bool = False
    """Whether it waits between attempts as long as the product does."""


def work(order: Order) -> dict[str, Any]:
    """Survey, write down, make, seal: the figures of the snapshot."""
    given = Recipe.model_validate(order.recipe)
    store, limits = Store(given.output), given.generate
    with acquire(store, "generate", order.wait, order.seconds) as lease:
        plan = survey(given, store)
        lease.check()
        plan = plan.write_down(store)
        results = [
            write_unit(negative(decode_unit(unit, limits)), store, limits)
            for chunk in plan.chunks()
            for unit in planned_units(chunk, store, plan.split_of)
        ]
        refused = next((result.refused for result in results if result.refused), "")
        if refused:
            raise StorageError(refused)
        lease.check()
        known = {result.unit: result.summary for result in results if not result.pending}
        snapshot = seal(store, lease.token, plan.in_input, known)
    if snapshot.counts["pending"]:
        outages = [result.outage for result in results if result.outage]
        raise IncompleteError(f"{snapshot.counts['pending']} images are pending: {outages[0]}")
    return {"made": len(known), "number": snapshot.number, "digest": snapshot.digest, **snapshot.counts}


def outcome(order: Order) -> dict[str, Any]:
    """`exit_code`, and `error` or the figures, as the command's."""
    if not order.patient:
        fetch.MAX_DELAY = 0.01
        ExponentialBackoff.delay_amount = lambda *_: 0.01
    if order.clock:
        lease_module.datetime = _clock(order.clock)  # type: ignore[misc]
    if order.dates:
        dated = botocore.auth.get_current_datetime
        botocore.auth.get_current_datetime = lambda: dated() + timedelta(seconds=order.dates)
    try:
        return {"exit_code": 0, **work(order)}
    except BatchNSTError as error:
        return {"exit_code": error.exit_code, "error": str(error)}


def _clock(ahead: float) -> type[datetime]:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=ahead)

    return Clock


class Job:
    """A job under way."""

    def __init__(self, order: Order) -> None:
        """Start it."""
        self._answer, answer = _WARM.Pipe(duplex=False)
        self._process = _WARM.Process(target=_serve, args=(order, dict(os.environ), answer))
        self._process.start()
        answer.close()

    @property
    def pid(self) -> int:
        """Of the process that takes the lease."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return not self._process.is_alive()

    def finish(self) -> dict[str, Any]:
        """Its outcome; only `exit_code` where it was killed."""
        try:
            found = dict(self._answer.recv())
        except EOFError:
            found = {}
        self._process.join()
        code = self._process.exitcode
        assert found or code == -signal.SIGKILL, f"a job ended with {code}; its traceback is on stderr"
        return found or {"exit_code": code}

    def kill(self) -> None:
        """With signal 9; it is gone when this returns."""
        handle = os.pidfd_open(self.pid)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [])
        os.close(handle)


def run(recipe: Mapping[str, Any], **order: Any) -> dict[str, Any]:
    """The outcome of a job from start to end."""
    return Job(Order(dict(recipe), **order)).finish()


def _serve(order: Order, environment: dict[str, str], answer: Connection) -> None:
    # The warm process has that of the moment when it was started.
    os.environ |= environment | order.environment
    answer.send(outcome(order))


def as_words(order: Order) -> list[str]:
    """The command line of a job that is not forked."""
    paths = f"PYTHONPATH={ROOT}"
    return ["env", paths, sys.executable, __file__, json.dumps(asdict(order))]


if __name__ == "__main__":
    _given = Order(**json.loads(sys.argv[1]))
    os.environ |= _given.environment
    print(json.dumps(outcome(_given)))
