"""Ends a command whose Ray has died on this machine, before Ray itself ends it without a word."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

_LOOK_SECONDS = 1.0

_lost = threading.Event()


def watch(alive: Callable[[], bool], patience: float) -> None:
    """Send this process SIGTERM once `alive` has been false for `patience` seconds; `is_lost` is true then.

    Does nothing where SIGTERM has no handler in Python: Ray is used by functions there, and by no command.
    """
    if callable(signal.getsignal(signal.SIGTERM)):
        threading.Thread(target=_look, args=(alive, patience), name="watch", daemon=True).start()


def is_lost() -> bool:
    """Whether SIGTERM came because Ray has died."""
    return _lost.is_set()


def _look(alive: Callable[[], bool], patience: float) -> None:
    seen = time.monotonic()
    while time.monotonic() - seen < patience:
        time.sleep(_LOOK_SECONDS)
        if _lost.is_set():  # said by another watch
            return
        if alive():
            seen = time.monotonic()
    _lost.set()
    os.kill(os.getpid(), signal.SIGTERM)
