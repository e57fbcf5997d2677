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
    """Send this process SIGTERM once `alive` is false for `patience` seconds; `is_lost` is true then.

    It looks once a second, and counts looks: a process that was stopped for a while, or had no processor,
    must not end for a single one.
    """
    if _armed.is_set():
        threading.Thread(target=_look, args=(alive, patience), name="watch", daemon=True).start()


def is_lost() -> bool:
    """Whether SIGTERM came because Ray has died."""
    return _lost.is_set()


def _look(alive: Callable[[], bool], patience: float) -> None:
    missed = 0
    while missed * _LOOK_SECONDS < patience:
        time.sleep(_LOOK_SECONDS)
        if _lost.is_set() or not _armed.is_set():  # another watch has said it, or there is nobody to hear it
            return
        missed = 0 if alive() else missed + 1
    _lost.set()
    os.kill(os.getpid(), signal.SIGTERM)
