"""What planning costs: millions of photos named by a Parquet table, at first and with 99 % of them done.

    make planning                                            10 million photos, some minutes and 3 GB of disk
    PYTHONPATH=. python tests/benchmarks/planning.py PHOTOS  another number

Every measured step is a process of its own, on one core. Prints a table, and one line of JSON at the end.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_nst.data.dataset import plan_files, units
from batch_nst.data.storage.store import Store
from tests.support.places import PAINTING

UNIT_IMAGES = 64
DONE = 0.99

RECIPE = {
    "output": "out",
    "style": {"image": str(PAINTING)},
    "generate": {"input": "photos.parquet", "stores": ["s3://photos"], "unit_images": UNIT_IMAGES},
}

WRITE_DOWN = """
import sys
from batch_nst.data.storage.store import Store
from batch_nst.data.dataset.plan import survey
from batch_nst.recipe_file import load_recipe
recipe = load_recipe(sys.argv[1])
store = Store(recipe.output)
survey(recipe, store).write_down(store)
"""

SURVEY = """
import sys
from batch_nst.data.storage.store import Store
from batch_nst.data.dataset.plan import survey
from batch_nst.recipe_file import load_recipe
recipe = load_recipe(sys.argv[1])
plan = survey(recipe, Store(recipe.output))
print(len(plan.chunks()), plan.counts())
"""


def main(photos: int) -> None:
    """Measure and tell."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = str(folder / "recipe.yaml")
        Path(recipe).write_text(json.dumps(RECIPE))
        write_table(folder / "photos.parquet", photos)
        command = ["-m", "batch_nst", "plan", recipe]
        figures: dict[str, object] = {"photos": photos, "unit_images": UNIT_IMAGES}
        figures |= measured("plan", command)
        figures |= measured("write_down", ["-c", WRITE_DOWN, recipe])
        commit(Store(str(folder / "out")))
        figures |= measured("resume", ["-c", SURVEY, recipe])
        figures |= measured("resume_plan", command)
        with (folder / "photos.parquet").open("ab") as table:  # so that nothing is known beforehand
            os.utime(table.fileno())
        figures |= measured("resume_of_a_changed_table", ["-c", SURVEY, recipe])
    figures |= {
        "processor": platform.processor() or platform.machine(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    print(json.dumps(figures))


def write_table(path: Path, photos: int) -> None:
    """URIs with versions, as an inventory of a bucket has them."""
    chance = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([("uri", pa.string()), ("version", pa.string())])) as writer:
        for first in range(0, photos, 1 << 19):
            numbers = range(first, min(photos, first + (1 << 19)))
            etags = chance.bytes(16 * len(numbers)).hex()
            uris = [f"s3://photos/2026/{number % 1000:03}/{number:09}.jpg" for number in numbers]
            versions = [etags[32 * place : 32 * place + 32] for place in range(len(numbers))]
            writer.write_table(pa.table([uris, versions], names=["uri", "version"]))


def commit(store: Store) -> None:
    """Put something where 99 % of the units will lie; planning looks at names alone."""
    names = plan_files.read_written(store).rows["unit"].chunk(0).dictionary.to_pylist()
    chosen = np.random.default_rng(1).random(len(names)) < DONE
    for folder in {name[:2] for name in names}:
        (Path(store.uri) / units.DATA / folder).mkdir(parents=True, exist_ok=True)
    for name, done in zip(names, chosen, strict=True):
        if done:
            (Path(store.uri) / units.unit_object(name)).touch()


def measured(step: str, arguments: list[str]) -> dict[str, float]:
    """Seconds and peak memory of Python with these arguments, on one core."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    ) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{step}: exit code {child.returncode}")
    seconds, peak = time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6
    print(f"{step:>28} {seconds:8.1f} s {peak:8.0f} MB", file=sys.stderr)
    return {f"{step}_seconds": round(seconds, 1), f"{step}_peak_mb": round(peak)}


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
