"""Progress on standard error: a live line for people at a terminal, a line now and then for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LOG_SECONDS = 10.0


class Meter:
    """How far one piece of long work is."""

    def __init__(self, what: str, total: int, unit: str, live: Progress | None) -> None:
        """`what` is being done to `total` of `unit`, on a live display where there is one."""
        self._what, self._total, self._unit, self._live = what, total, unit, live
        self._start = self._told = time.monotonic()
        self._done = 0
        self._task = live.add_task(what, total=total, note="") if live else None

    def advance(self, by: int = 1, note: str = "") -> None:
        """Count work as done; `note` says what people watch, such as a loss."""
        self._done += by
        now = time.monotonic()
        rate = self._done / max(now - self._start, 1e-9)
        text = f"{rate:.2f} {self._unit}/s  {note}"
        if self._live and self._task is not None:
            self._live.update(self._task, completed=self._done, note=text)
        elif now - self._told >= _LOG_SECONDS or self._done >= self._total:
            self._told = now
            left = (self._total - self._done) / rate
            say(f"{self._what}: {self._done} of {self._total} {self._unit}, {text}, {left:.0f} s left")


@contextmanager
def meter(what: str, total: int, unit: str) -> Iterator[Meter]:
    """A meter for `total` units of work."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Meter(what, total, unit, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as live:
        yield Meter(what, total, unit, live)


def say(line: str) -> None:
    """One line for people."""
    print(line, file=sys.stderr, flush=True)
