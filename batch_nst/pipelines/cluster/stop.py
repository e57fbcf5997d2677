"""When a run stops starting units: budget, deadline, SIGTERM or an outage."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import NamedTuple


class Budget(NamedTuple):
    """What ends the making of pairs in order; what is under way by then is finished."""

    device_hours: float = math.inf
    """Of all devices together."""
    deadline: datetime | None = None
    """With its zone."""

    def spent(self, device_seconds: float = 0.0) -> str:
        """Why no further unit may begin when devices have worked for so long; empty while one may."""
        if device_seconds >= self.device_hours * 3600:
            return self._used_up
        if self.deadline and datetime.now(UTC) >= self.deadline:
            return self._too_late
        return ""

    def ends(self, reason: str) -> bool:
        """Whether that is what `spent` says, and no fault."""
        return bool(reason) and reason in (self._used_up, self._too_late)

    @property
    def _used_up(self) -> str:
        return f"{self.device_hours:g} device-hours are used up"

    @property
    def _too_late(self) -> str:
        return f"the deadline {self.deadline.isoformat(' ', 'minutes')} has come" if self.deadline else ""


UNLIMITED = Budget()


SECONDS = 20.0
"""How long units under way have. The command ends a few seconds later, and schedulers wait for 30."""


@contextmanager
def defer_sigterm(close: Callable[[str], None]) -> Iterator[None]:
    """Put SIGTERM off: the handler that was there before is called when the body ends, or after `SECONDS`.

    A second SIGTERM is not put off. Outside the main thread, or without a handler, nothing changes.

    Args:
        close: called at the first one with the reason, in another thread: what it does, such as asking Ray,
            may be what the main thread was just doing.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked, over = threading.Event(), threading.Event()

    def put_off(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            before(number, frame)
        asked.set()

    def drain() -> None:
        asked.wait()
        if over.is_set():
            return
        close("stopped by SIGTERM")
        if not over.wait(SECONDS):
            os.kill(os.getpid(), signal.SIGTERM)

    drainer = threading.Thread(target=drain, name="drain", daemon=True)
    signal.signal(signal.SIGTERM, put_off)
    drainer.start()
    try:
        yield
        if asked.is_set():
            before(signal.SIGTERM, None)
    finally:
        over.set()
        asked.set()
        signal.signal(signal.SIGTERM, before)
