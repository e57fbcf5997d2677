"""Lines on standard error: warnings, news, and progress, live on a terminal, each ten seconds in a log."""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from batch_nst.credentials import redacted

_LOG_SECONDS = 10.0


class Shown(enum.IntEnum):
    """What is shown on standard error: lines of this level and of those below it."""

    ERRORS = 0
    """Why a command ended."""
    WARNINGS = 1
    """What is wrong and ends nothing, bad photos among them."""
    NEWS = 2
    """Progress, tables and summaries."""
    LIBRARIES = 3
    """What Ray writes itself, as it comes."""


_shown = Shown.NEWS


def show(level: Shown) -> None:
    """Choose what is shown from now on."""
    global _shown
    _shown = level


def shows(level: Shown) -> bool:
    """Whether lines of a level are shown."""
    return level <= _shown


class ProgressBar:
    """The progress of one long task."""

    def __init__(
        self, what: str, total: int, unit: str, live: Progress | None, more: tuple[int, str] | None = None
    ) -> None:
        """Start at 0 of `total`.

        Args:
            what: name of the task.
            total: how many units of work it has.
            unit: their name, such as `images`.
            live: display of a terminal; None logs lines.
            more: number and name of smaller things in each unit, whose rate is shown too.
        """
        self._what, self._total, self._unit, self._live, self._more = what, total, unit, live, more
        self._start = self._shown = time.monotonic()
        self._done = self._before = 0
        self._task = live.add_task(what, total=total, note="") if live else None

    def resume(self, done: int) -> None:
        """Count `done` units as finished earlier: rates and the time left ignore them."""
        self._start = self._shown = time.monotonic()
        self._done = self._before = done
        if self._live and self._task is not None:
            self._live.reset(self._task, completed=done, note="")

    def advance(self, by: int = 1, note: str = "") -> None:
        """Count `by` units as done; `note` is shown beside them, such as a loss."""
        self._done += by
        now = time.monotonic()
        rate = (self._done - self._before) / max(now - self._start, 1e-9)
        text = f"{rate:.2f} {self._unit}/s"
        if self._more:
            each, name = self._more
            text = f"{text}, {rate * each:.1f} {name}/s"
        text = f"{text}  {note}".rstrip()
        if self._live and self._task is not None:
            self._live.update(self._task, completed=self._done, note=text)
        elif now - self._shown >= _LOG_SECONDS or self._done >= self._total:
            self._shown = now
            left = f", {(self._total - self._done) / rate:.0f} s left" if rate else ""
            log(f"{self._what}: {self._done} of {self._total} {self._unit}, {text}{left}")


@contextmanager
def progress_bar(
    what: str, total: int, unit: str, more: tuple[int, str] | None = None
) -> Iterator[ProgressBar]:
    """A `ProgressBar`, live where standard error is a terminal and shows news.

    with progress_bar("generate", 100, "images") as progress:
        progress.advance(16, "loss 12,345")
    """
    console = Console(stderr=True)
    if not (console.is_terminal and shows(Shown.NEWS)):
        yield ProgressBar(what, total, unit, None, more)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    # What is printed to a file stays there.
    with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as live:
        yield ProgressBar(what, total, unit, live, more)


class StepTimer:
    """How much time each part of repeated steps takes."""

    def __init__(self, *things: str) -> None:
        """`things` are the names of the parts."""
        self._seconds = dict.fromkeys(things, 0.0)

    @contextmanager
    def spends(self, on: str) -> Iterator[None]:
        """Count the seconds of the block for this part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[on] += time.perf_counter() - start

    def pace(self, steps: int, images: int) -> dict[str, float]:
        """Steps and images per second (`images` in a step), and the fraction of the time for each part."""
        seconds = max(1e-9, sum(self._seconds.values()))
        return {
            "steps_per_second": steps / seconds,
            "images_per_second": steps * images / seconds,
            **{on: spent / seconds for on, spent in self._seconds.items()},
        }


def log(line: str) -> None:
    """One line of news for people, without credentials."""
    _print(line, Shown.NEWS)


def warn(line: str) -> None:
    """One line about what is wrong and ends nothing, without credentials."""
    _print(line, Shown.WARNINGS)


def _print(line: str, level: Shown) -> None:
    if shows(level):
        print(redacted(line), file=sys.stderr, flush=True)
