"""Progress on standard error: a live line for people at a terminal, a line now and then for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from batch_nst.credentials import redacted

_LOG_SECONDS = 10.0


class ProgressBar:
    """How far one piece of long work is."""

    def __init__(
        self, what: str, total: int, unit: str, live: Progress | None, more: tuple[int, str] | None = None
    ) -> None:
        """`what` is being done to `total` of `unit`, on a live display where there is one.

        `more` tells how many of what else each of them holds, whose rate is shown too.
        """
        self._what, self._total, self._unit, self._live, self._more = what, total, unit, live, more
        self._start = self._told = time.monotonic()
        self._done = self._before = 0
        self._task = live.add_task(what, total=total, note="") if live else None

    def resume(self, done: int) -> None:
        """So much is done from before: rates and the time left are those of what follows."""
        self._start = self._told = time.monotonic()
        self._done = self._before = done
        if self._live and self._task is not None:
            self._live.reset(self._task, completed=done, note="")

    def advance(self, by: int = 1, note: str = "") -> None:
        """Count work as done; `note` says what people watch, such as a loss."""
        self._done += by
        now = time.monotonic()
        rate = (self._done - self._before) / max(now - self._start, 1e-9)
        text = f"{rate:.2f} {self._unit}/s"
        if self._more:
            each, name = self._more
            text = f"{text}, {rate * each:.1f} {name}/s"
        text = f"{text}  {note}"
        if self._live and self._task is not None:
            self._live.update(self._task, completed=self._done, note=text)
        elif now - self._told >= _LOG_SECONDS or self._done >= self._total:
            self._told = now
            left = (self._total - self._done) / rate
            log(f"{self._what}: {self._done} of {self._total} {self._unit}, {text}, {left:.0f} s left")


@contextmanager
def progress_bar(
    what: str, total: int, unit: str, more: tuple[int, str] | None = None
) -> Iterator[ProgressBar]:
    """A meter for `total` units of work; `more`: see `Meter`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressBar(what, total, unit, None, more)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as live:
        yield ProgressBar(what, total, unit, live, more)


class StepTimer:
    """Where the time of work in steps goes."""

    def __init__(self, *things: str) -> None:
        """No time has been spent on any of these."""
        self._seconds = dict.fromkeys(things, 0.0)

    @contextmanager
    def spends(self, on: str) -> Iterator[None]:
        """Count the seconds of the block as spent on this."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[on] += time.perf_counter() - start

    def pace(self, steps: int, images: int) -> dict[str, float]:
        """Steps and images a second, of `images` a step; and of that time the share spent on each thing."""
        seconds = max(1e-9, sum(self._seconds.values()))
        return {
            "steps_per_second": steps / seconds,
            "images_per_second": steps * images / seconds,
            **{on: spent / seconds for on, spent in self._seconds.items()},
        }


def log(line: str) -> None:
    """One line for people, without credentials."""
    print(redacted(line), file=sys.stderr, flush=True)
