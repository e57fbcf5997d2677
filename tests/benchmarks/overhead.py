"""What the pipeline costs beside a device, measured with devices that only sleep: `make overhead`.

Prints a table and one JSON line. Each measurement is a Ray and a driver of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

RATES = {
    "units of 10 s, 4 actors": (10.0, 4, 9),
    "units of 2 s, 4 actors": (2.0, 4, 40),
    "units of 100 ms, 4 actors": (0.1, 4, 300),
    "units of 10 s, 1 actor": (10.0, 1, 9),
    "units of 10 s, 16 actors": (10.0, 16, 9),
}
"""Seconds a unit, actors, units an actor."""
FEW, MANY = 500, 10_000
"""Units between which the driver's memory may not grow."""


def measure(seconds: float, actors: int, count: int, folder: Path) -> dict[str, Any]:
    """Run so many units on so many actors: how busy they were, and what the driver took."""
    import ray

    from batch_nst.data.dataset.manifest import split_of
    from batch_nst.data.dataset.plan import survey
    from batch_nst.data.images.style import read_style
    from batch_nst.data.storage.store import Store
    from batch_nst.pipelines.cluster import connect
    from batch_nst.pipelines.generate.actors import stylize_units
    from batch_nst.pipelines.generate.decode import never
    from batch_nst.recipe import Recipe
    from tests.support.fake_device import entries, sleeper
    from tests.support.photo_bucket import Bucket, fill

    fill(Store(str(folder)), 1)
    (folder / "journal").mkdir()
    bucket = Bucket(str(folder), 1)
    given = Recipe.model_validate(
        bucket.recipe("out", crops=count, unit_images=1, image_size=32, actors=[actors, actors])
    )
    store = Store(given.output)
    plan = survey(given, store).write_down(store)
    workers = connect.Workers("cpu", num_cpus=1, num_gpus=0, threads=1, most=actors)
    # As many CPUs as there were on nodes of such devices.
    ray.init("local", num_cpus=actors + max(2, actors // 2), include_dashboard=False, log_to_driver=False)
    connect.connect()
    made = stylize_units(
        plan.chunks(),
        partial(split_of, holdout=plan.settings["holdout"]),
        store,
        read_style(given.style),
        given,
        workers,
        None,
        never,
        stylizer=sleeper(seconds, str(folder / "journal")),
    )
    memory: dict[int, int] = {}
    with peak_memory() as peak:
        for number, result in enumerate(made, 1):
            assert not result.pending, result
            if number in (FEW, count):
                memory[number] = peak()
    ray.shutdown()
    return {**busyness(entries(folder / "journal")), "memory": memory, "units": number}


@contextmanager
def peak_memory() -> Iterator[Any]:
    """A function that tells the resident bytes of this process, at most since it was asked last."""
    process, ended, highest = psutil.Process(), threading.Event(), 0

    def watch() -> None:
        nonlocal highest
        while not ended.wait(0.2):
            highest = max(highest, process.memory_info().rss)

    def peak() -> int:
        nonlocal highest
        found, highest = max(highest, process.memory_info().rss), 0
        return found

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield peak
    ended.set()
    watcher.join()


def busyness(journal: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all actors: the fraction of the time between its first unit's start and its last one's end.

    `rate` is units a second while all of them work.
    """
    actors: dict[int, list[tuple[float, float]]] = defaultdict(list)
    begun: dict[int, float] = {}
    for entry in journal:
        if entry["event"] == "began":
            begun[entry["pid"]] = entry["time"]
        else:
            actors[entry["pid"]].append((begun[entry["pid"]], entry["time"]))
    spans = [(units[0][0], units[-1][1]) for units in actors.values()]
    worked = sum(end - start for units in actors.values() for start, end in units)
    first, last = max(start for start, _ in spans), min(end for _, end in spans)
    inside = sum(
        max(0.0, min(end, last) - max(start, first)) / (end - start)
        for units in actors.values()
        for start, end in units
    )
    return {
        "actors": len(actors),
        "busy": worked / sum(end - start for start, end in spans),
        "rate": inside / (last - first),
        "ramp": first - min(start for start, _ in spans),
        "seconds": max(end for _, end in spans) - min(start for start, _ in spans),
    }


def in_a_process(seconds: float, actors: int, count: int) -> dict[str, Any]:
    """`measure`, with nothing left of what was measured before."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--one", str(seconds), str(actors), str(count), folder]
        ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def main() -> None:
    """All measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    if one := parser.parse_args().one:
        print(json.dumps(measure(float(one[0]), int(one[1]), int(one[2]), Path(one[3]))))
        return
    figures: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    print(f"{'':28}{'busy':>8}{'units/s':>10}{'ramp s':>8}{'whole s':>9}")
    for name, (seconds, actors, each) in RATES.items():
        found = in_a_process(seconds, actors, actors * each)
        assert found["actors"] == actors, found
        figures[name] = found
        print(
            f"{name:28}{found['busy']:8.2%}{found['rate']:10.3f}{found['ramp']:8.1f}{found['seconds']:9.1f}",
            flush=True,
        )
    one, sixteen = (figures[f"units of 10 s, {actors}"]["rate"] for actors in ("1 actor", "16 actors"))
    figures["scaling_1_to_16"] = sixteen / one / 16
    print(f"{'16 actors for 1':28}{figures['scaling_1_to_16']:8.3f}")
    memory = in_a_process(0.0, 4, MANY)
    grown = (memory["memory"][str(MANY)] - memory["memory"][str(FEW)]) / 2**20
    figures["driver_memory"] = memory | {"grown_mb": grown}
    rate = memory["units"] / memory["seconds"]
    print(f"{f'driver, {FEW} to {MANY:,} units':28}{grown:+8.1f} MB, {rate:.1f} units/s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
