"""A simulated device: an actor that sleeps so long a unit, and notes down when.

As a script it is `batch-nst generate` on that device: SECONDS a unit, a folder for the JOURNAL, and the
words of the command.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray

from batch_nst.cli import main
from batch_nst.data.dataset.records import UnitRecord
from batch_nst.pipelines.generate import actors
from tests.support.fake_stylizer import negative

QUICK = "quick"


def sleeper(seconds: float, journal: str) -> type:
    """A class to take `Stylizer`'s place; `journal` is a folder that all nodes see, see `entries`.

    Where a file `QUICK` lies in it, a unit takes no time.
    """

    class Sleeper:
        def __init__(self, *arguments: Any) -> None:
            self._threads, self._stop_reason = arguments[2].threads_here(), arguments[4]
            self._node = ray.get_runtime_context().get_node_id()
            self._file = Path(journal) / f"{os.getpid()}-{time.time_ns()}.jsonl"

        def __call__(self, unit: UnitRecord) -> UnitRecord:
            if unit.pending or self._stop_reason():
                return replace(unit, stopped=not unit.outage)
            self._note(unit, "began")
            made = negative(unit, 0.0 if (self._file.parent / QUICK).exists() else seconds)
            self._note(unit, "ended")
            return made

        def _note(self, unit: UnitRecord, event: str) -> None:
            entry = {"unit": unit.unit, "event": event, "time": time.time(), "torch": "torch" in sys.modules}
            with self._file.open("a") as file:
                here = {"node": self._node, "pid": os.getpid(), "threads": self._threads}
                file.write(json.dumps(entry | here) + "\n")

    return Sleeper


def entries(journal: Path) -> list[dict[str, Any]]:
    """What actors have noted, oldest first: unit, event (began, ended), time, node, pid and its threads."""
    lines = [line for path in journal.glob("*.jsonl") for line in path.read_text().splitlines(keepends=True)]
    whole = (json.loads(line) for line in lines if line.endswith("\n"))  # some are killed as they write
    return sorted(whole, key=lambda entry: entry["time"])


if __name__ == "__main__":
    _seconds, _journal, *_words = sys.argv[1:]
    actors.stylize_units = partial(actors.stylize_units, stylizer=sleeper(float(_seconds), _journal))
    main(["generate", *_words])
