"""Make the output beside this file again, with the code of commit 580efb4 and no other; see README.md.

    python make.py CHECKOUT FOLDER

CHECKOUT is a clone of this repository with that commit checked out; FOLDER does not exist yet. Photos,
painting and recipe are copied from here; where there are none, photos and painting are cut from the samples
of CHECKOUT.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from PIL import Image

HERE = Path(__file__).parent
COMMIT = "580efb4"
MODIFIED = 1_767_225_600 * 10**9
"""2026-01-01T00:00:00Z in nanoseconds: of all photos, as their ids follow from it."""
PHOTOS = {
    "astronaut": ("astronaut", 0.0, 0.5),
    "chelsea": ("chelsea", 0.0, 1.0),
    "goldfish": ("goldfish", 0.0, 0.5),
    "hammer": ("hammer", 0.0, 1.0),
    "hubble_deep_field": ("hubble_deep_field", 0.0, 1.0),
    "moose": ("moose", 0.0, 1.0),
    "moose_left": ("moose", 0.0, 0.5),
    "perch": ("perch", 0.0, 1.0),
    "rocket": ("rocket", 0.0, 1.0),
    "solar_farm": ("solar_farm", 0.0, 0.5),
}
"""Of each photo the sample (all of them in the public domain, or CC0), and from where to where it is cut out.

Chosen so that they come out alike, within a grey level, where oneDNN and torch do without AVX2: of others
some pixels differ by twenty levels, since iterations multiply what is rounded otherwise.
"""
LATE = "solar_farm.jpg"
"""Comes for the second night: held out by its hash, as none of the others is."""
QUICK = (
    "generate.precision=fp32",
    "train.precision=fp32",
    "evaluate.iterations=5",
    "evaluate.sizes=[]",
)
"""Where and how, but not what: none of these is in an id or in the name of a training."""
FIRST = ("train.network=small", "train.steps=3")
CUT_OFF = ("train.network=small", "train.steps=12")
NAMES = (
    (),
    FIRST,
    CUT_OFF,
    ("train.workers=[1, 2]",),
    ("train.device=cpu", "train.precision=bf16", "train.checkpoint_steps=1", "train.min_done=0.5"),
    ("publish.margin=0.5", "evaluate.photos=3", "generate.actors=[2, 3]", "quality.min_change=0.5"),
    ("train.init=model:s3://models/auvers",),
    ("train.network=johnson", "train.init=random"),
    ("train.width=8",),
    ("train.batch_size=4",),
    ("train.seed=1",),
    ("train.crop_size=32",),
    ("train.average=0.9",),
    ("train.pixel_weight=1", "train.learning_rate=1e-4"),
    ("train.pixel_weight=1.0", "train.learning_rate=0.0001"),
    ("train.feature_weight=[[0, 5], [0.5, 0]]", "train.checkerboard_weight=0", "train.perceptual_weight=2"),
)
"""Recipes of which the names of their trainings are written down."""

NAME = """
import json, sys
from batch_nst.data.snapshot import latest_snapshot
from batch_nst.data.storage import Store
from batch_nst.pipelines.train import training_version
from batch_nst.recipe import load_recipe
recipes = [load_recipe(sys.argv[1], overrides) for overrides in json.loads(sys.argv[2])]
print(json.dumps([training_version(recipe, latest_snapshot(Store(recipe.output))) for recipe in recipes]))
"""


def main(checkout: Path, folder: Path) -> None:
    """Make all of it."""
    head = subprocess.check_output(["git", "-C", checkout, "rev-parse", "HEAD"], text=True)
    changed = subprocess.check_output(
        ["git", "-C", checkout, "status", "--porcelain", "batch_nst"], text=True
    )
    if not head.startswith(COMMIT) or changed:
        raise SystemExit(f"{checkout} is not {COMMIT}, or was changed")
    folder.mkdir()
    begin(checkout, folder)
    late = folder / "photos" / LATE
    late.rename(folder / LATE)
    run(checkout, folder, "nightly", *QUICK, *FIRST)
    (folder / LATE).rename(late)  # its time stays
    run(checkout, folder, "nightly", *QUICK)
    painted = ("apply", "output", "photos/astronaut.jpg", "painted.png", "--precision", "fp32")
    subprocess.run(command(checkout, *painted), cwd=folder, env=environment(checkout), check=True)
    shutil.rmtree(folder / "output" / "checkpoints")  # of models that exist
    cut_off(checkout, folder, "train", *QUICK, *CUT_OFF, "train.checkpoint_steps=4")
    expected = expectation(checkout, folder)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    tidy(folder / "output")


def begin(checkout: Path, folder: Path) -> None:
    """Recipe, photos and painting."""
    shutil.copyfile(HERE / "recipe.yaml", folder / "recipe.yaml")
    if (HERE / "photos").exists():
        shutil.copytree(HERE / "photos", folder / "photos")
        shutil.copyfile(HERE / "painting.jpg", folder / "painting.jpg")
    else:
        (folder / "photos").mkdir()
        samples = checkout / "jobs" / "samples"
        for name, (sample, left, right) in PHOTOS.items():
            shrink(samples / "content" / f"{sample}.jpg", folder / "photos" / f"{name}.jpg", 66, left, right)
        shrink(samples / "styles" / "van_gogh_auvers.jpg", folder / "painting.jpg", 72)
    for photo in (folder / "photos").iterdir():
        os.utime(photo, ns=(MODIFIED, MODIFIED))


def shrink(source: Path, target: Path, short_side: int, left: float = 0.0, right: float = 1.0) -> None:
    """Save a part of a picture, smaller."""
    with Image.open(source) as picture:
        width, height = picture.size
        part = picture.convert("RGB").crop((round(left * width), 0, round(right * width), height))
    scale = short_side / min(part.size)
    size = (round(part.width * scale), round(part.height * scale))
    part.resize(size, Image.Resampling.LANCZOS).save(target, quality=80)


def command(checkout: Path, *words: str) -> list[str]:
    """The words of a process that runs the code of the checkout."""
    return [sys.executable, "-m", "batch_nst", *words]


def environment(checkout: Path) -> dict[str, str]:
    """Of such a process."""
    own = {"PYTHONPATH": str(checkout), "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **own}


def run(checkout: Path, folder: Path, name: str, *overrides: str) -> dict[str, Any]:
    """A command with the recipe; its figures."""
    words = command(checkout, name, "recipe.yaml", *overrides)
    print(" ".join(words[1:]), file=sys.stderr)
    out = subprocess.check_output(words, cwd=folder, env=environment(checkout), text=True)
    return dict(json.loads(out.splitlines()[-1]))


def cut_off(checkout: Path, folder: Path, name: str, *overrides: str) -> None:
    """Kill a training as soon as Ray has noted its first checkpoint."""
    words = command(checkout, name, "recipe.yaml", *overrides)
    print(" ".join(words[1:]), file=sys.stderr)
    process = subprocess.Popen(words, cwd=folder, env=environment(checkout), start_new_session=True)
    while not list((folder / "output" / "checkpoints").glob("*/checkpoint_manager_snapshot.json")):
        assert process.poll() is None, "it has ended by itself"
        time.sleep(0.002)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        member.kill()
    process.wait()


def expectation(checkout: Path, folder: Path) -> dict[str, Any]:
    """What the tests compare with."""
    output = folder / "output"
    pointer = json.loads((output / "models" / "CURRENT").read_text())
    snapshot = json.loads((output / "dataset" / "snapshots" / "000002.json").read_text())
    rows = [
        {**row, "id": row["id"].hex()}
        for segment in sorted((output / "dataset" / "plan").iterdir())
        for row in pq.read_table(segment).drop_columns("source").to_pylist()
    ]
    names: Sequence[str] = json.loads(
        subprocess.check_output(
            [sys.executable, "-c", NAME, str(folder / "recipe.yaml"), json.dumps(NAMES)],
            env=environment(checkout),
            text=True,
        )
    )
    (begun,) = [path.name for path in (output / "checkpoints").iterdir()]
    return {
        "modified": MODIFIED,
        "plan": rows,
        "snapshot": snapshot["digest"],
        "published": pointer["version"],
        "previous": pointer["previous"],
        "cut_off": begun,
        "overrides_of_cut_off": CUT_OFF,
        "names": [{"overrides": each, "version": name} for each, name in zip(NAMES, names, strict=True)],
    }


def tidy(output: Path) -> None:
    """Remove what no command needs, and what tells of the machine."""
    for report in output.glob("runs/*/report.html"):
        report.unlink()
    for preview in output.glob("models/*/preview.jpg"):
        preview.unlink()
    for training in output.glob("models/*/training"):
        shutil.rmtree(training)
    for lease in output.glob("lease/*.json"):
        record = json.loads(lease.read_text())
        record["owner"] |= {"host": "a-host", "boot_id": "", "pid_namespace": "", "user": "somebody"}
        lease.write_text(json.dumps(record, indent=1))
    shutil.rmtree(output / ".tmp", ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
