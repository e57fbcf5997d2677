"""SIGTERM while units are made: no further one begins, and those that end soon enough are committed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = 20.0
"""How long units under way have. The command ends a few seconds later, and schedulers wait for 30."""


@contextmanager
def draining(close: Callable[[str], None]) -> Iterator[None]:
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
