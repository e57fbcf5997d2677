"""When a run stops starting units: budget, deadline, SIGTERM, an outage, or a training that comes first."""

from __future__ import annotations

import enum
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import NamedTuple


class StopReason(enum.Enum):
    """Why a run starts no further unit. The value is the message, with room for one detail."""

    BUDGET = "{} device-hours are used up"
    DEADLINE = "the deadline {} has come"
    SIGTERM = "stopped by SIGTERM"
    OUTAGE = "{}"
    TRAINING = "the training on snapshot {} was cut off and is ended first"


@dataclass(frozen=True)
class Stop:
    """A reason with its detail: hours, a moment, a fault or the number of a snapshot.

    str(Stop(StopReason.BUDGET, "8"))  # "8 device-hours are used up"
    """

    reason: StopReason
    detail: str = ""

    def __str__(self) -> str:
        """In words."""
        return self.reason.value.format(self.detail)


WAIT_MINUTES = 30.0
"""How long a command waits for nodes that do not run yet, by default."""
DOCTOR_MINUTES = 2.0
"""The same for `doctor`, which only looks."""


class Budget(NamedTuple):
    """Limits after which no new unit starts; units under way are finished. And how long nodes may take."""

    device_hours: float = math.inf
    """Maximum number of device-hours, summed over all devices."""
    deadline: datetime | None = None
    """Latest time at which a unit may start, with its time zone."""
    wait_minutes: float = WAIT_MINUTES
    """How long to wait for nodes that do not run yet."""

    def stop_reason(self, device_seconds: float = 0.0) -> Stop | None:
        """Why no further unit may start once devices have worked for `device_seconds`; None while one may."""
        if device_seconds >= self.device_hours * 3600:
            return Stop(StopReason.BUDGET, f"{self.device_hours:g}")
        if self.deadline and datetime.now(UTC) >= self.deadline:
            return Stop(StopReason.DEADLINE, self.deadline.isoformat(" ", "minutes"))
        return None


UNLIMITED = Budget()


SECONDS = 20.0
"""Time that units under way have after SIGTERM. The command ends a few seconds later; schedulers wait 30."""


_LOOK_SECONDS = 0.5
"""Time between two looks whether what is under way can still end."""


@contextmanager
def defer_sigterm(
    stop: Callable[[Stop], None],
    losses: tuple[type[Exception], ...] = (),
    alive: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Defer SIGTERM: the previous handler is called when the body ends, or after `SECONDS`.

    A second SIGTERM is not deferred. Outside the main thread, or without a handler, nothing changes.

    Args:
        stop: called at the first SIGTERM, in another thread, because the main thread may be in the middle of
            the same call (to Ray, for example).
        losses: errors of a body whose other processes were ended by the same hand; they are not reported.
        alive: whether these processes live; once they do not, nothing is waited for.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    received, over, first = threading.Event(), threading.Event(), threading.Lock()

    def defer(number: int, frame: FrameType | None) -> None:
        if received.is_set():
            before(number, frame)
        received.set()

    def drain() -> None:
        received.wait()
        if over.is_set():
            return
        # Beside this thread: a Ray that dies at the same moment may never answer.
        threading.Thread(target=expire, name="expire", daemon=True).start()
        try:
            stop(Stop(StopReason.SIGTERM))
        except Exception:  # nobody hears of it any more, so there is nothing to wait for
            hurry()

    def expire() -> None:
        until = time.monotonic() + SECONDS
        while alive() and (left := until - time.monotonic()) > 0:
            if over.wait(min(left, _LOOK_SECONDS)):
                return
        hurry()

    def hurry() -> None:
        if first.acquire(blocking=False) and not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    drainer = threading.Thread(target=drain, name="drain", daemon=True)
    signal.signal(signal.SIGTERM, defer)
    drainer.start()
    try:
        try:
            yield
        except losses:
            if received.is_set():  # others of its processes were ended too, and what came of it is no bug
                before(signal.SIGTERM, None)
            raise
        if received.is_set():
            before(signal.SIGTERM, None)
    finally:
        over.set()
        received.set()
        signal.signal(signal.SIGTERM, before)
