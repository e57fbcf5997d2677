"""Ends a command whose Ray has died on this machine, before Ray itself ends it without a word."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

_LOOK_SECONDS = 1.0

_lost, _armed = threading.Event(), threading.Event()


def arm() -> None:
    """From here on SIGTERM ends a command; without that a function was called, and nothing is watched."""
    _armed.set()


def disarm() -> None:
    """The command has ended."""
    _armed.clear()


def watch(alive: Callable[[], bool], patience: float) -> None:
    """Send this process SIGTERM once `alive` is false for `patience` seconds; `is_lost` is true then."""
    if _armed.is_set():
        threading.Thread(target=_look, args=(alive, patience), name="watch", daemon=True).start()


def is_lost() -> bool:
    """Whether SIGTERM came because Ray has died."""
    return _lost.is_set()


def _look(alive: Callable[[], bool], patience: float) -> None:
    seen = time.monotonic()
    while time.monotonic() - seen < patience:
        time.sleep(_LOOK_SECONDS)
        if _lost.is_set() or not _armed.is_set():  # another watch has said it, or there is nobody to hear it
            return
        if alive():
            seen = time.monotonic()
    _lost.set()
    os.kill(os.getpid(), signal.SIGTERM)
