"""What the pipeline costs beside a device, measured with devices that only sleep: `make overhead`.

Prints a table and one JSON line. Each measurement is a Ray and a driver of its own. `--gpus ACTORS SECONDS`
measures only a cluster of so many GPUs with units of so many seconds (64 and 15 with all the rest): how busy
they are once all have begun, the driver's memory and its CPU.
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
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
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
IMAGES, SIDE = 8, 128
"""Of a unit of `--gpus`: its photos and pictures are 2 * 8 * 128 * 128 * 3 bytes, 0.75 MiB."""
EACH = 8
"""Units for each of these devices."""


def measure(
    seconds: float, actors: int, count: int, folder: Path, images: int = 1, side: int = 32
) -> dict[str, Any]:
    """Run so many units on so many actors: how busy they were, and what the driver took.

    A unit has so many crops of one photo, each of so many pixels a side.
    """
    import ray

    from batch_nst.data.dataset.manifest import split_of
    from batch_nst.data.dataset.plan import survey
    from batch_nst.data.dataset.records import StageSeconds
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
        bucket.recipe(
            "out", crops=count * images, unit_images=images, image_size=side, actors=[actors, actors]
        )
    )
    store = Store(given.output)
    plan = survey(given, store).write_down(store)
    workers = connect.Workers("cpu", num_cpus=1, num_gpus=0, threads=1, most=actors)
    # As many CPUs as there were on nodes of such devices; with pictures to decode, as many as are here.
    beside = max(2, actors // 2) if images == 1 else 2
    ray.init("local", num_cpus=actors + beside, include_dashboard=False, log_to_driver=False)
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
    few = min(FEW, 2 * actors)
    stages = StageSeconds()
    cpu, start = time.process_time(), time.perf_counter()
    with peak_memory() as peak:
        for number, result in enumerate(made, 1):
            assert not result.pending, result
            stages = stages.plus(result.stages)
            if number in (few, FEW, count):
                memory[number] = peak()
    driver_cpu = (time.process_time() - cpu) / (time.perf_counter() - start)
    ray.shutdown()
    journal = entries(folder / "journal")
    assert not any(entry["torch"] for entry in journal)
    found = busyness(journal)
    return {
        **found,
        "memory": memory,
        "units": number,
        "driver_cpu": driver_cpu,
        "stage_seconds": {name: round(value / number, 3) for name, value in asdict(stages).items()},
    }


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
        return int(found)

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
    inside_seconds = sum(
        max(0.0, min(end, last) - max(start, first)) for units in actors.values() for start, end in units
    )
    return {
        "actors": len(actors),
        "busy": worked / sum(end - start for start, end in spans),
        "busy_once_all_began": inside_seconds / len(actors) / (last - first),
        "rate": inside / (last - first),
        "ramp": first - min(start for start, _ in spans),
        "seconds": max(end for _, end in spans) - min(start for start, _ in spans),
    }


def in_a_process(seconds: float, actors: int, count: int, images: int = 1, side: int = 32) -> dict[str, Any]:
    """`measure`, with nothing left of what was measured before."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = [str(number) for number in (seconds, actors, count, images, side)]
        words = [sys.executable, __file__, "--one", folder, *numbers]
        ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def gpus(actors: int, seconds: float) -> dict[str, Any]:
    """A cluster of so many devices, with units of so many seconds and 0.75 MiB; prints its figures."""
    found = in_a_process(seconds, actors, actors * EACH, IMAGES, SIDE)
    assert found["actors"] == actors, found
    first, *_, last = found["memory"].values()
    found["driver_grown_mb"] = (last - first) / 2**20
    print(
        f"{actors} actors, units of {seconds:g} s and {2 * IMAGES * SIDE**2 * 3 / 2**20:g} MiB: busy "
        f"{found['busy_once_all_began']:.2%} once all began, which took {found['ramp']:.0f} s; "
        f"{found['rate']:.2f} units/s; driver {found['driver_grown_mb']:+.1f} MB from "
        f"{min(found['memory'], key=int)} to {found['units']} units, {found['driver_cpu']:.0%} of a core; "
        f"a unit's seconds {found['stage_seconds']}",
        flush=True,
    )
    return found


def main() -> None:
    """All measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    parser.add_argument("--gpus", nargs=2, type=float, metavar=("ACTORS", "SECONDS"))
    options = parser.parse_args()
    if one := options.one:
        actors, count, images, side = map(int, one[2:])
        print(json.dumps(measure(float(one[1]), actors, count, Path(one[0]), images, side)))
        return
    if options.gpus:
        print(json.dumps(gpus(int(options.gpus[0]), options.gpus[1])))
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
    figures["64 GPUs"] = gpus(64, 15.0)
    memory = in_a_process(0.0, 4, MANY)
    grown = (memory["memory"][str(MANY)] - memory["memory"][str(FEW)]) / 2**20
    figures["driver_memory"] = memory | {"grown_mb": grown}
    rate = memory["units"] / memory["seconds"]
    print(f"{f'driver, {FEW} to {MANY:,} units':28}{grown:+8.1f} MB, {rate:.1f} units/s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
