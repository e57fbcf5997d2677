"""What commit 580efb4 made means today what it meant then: photos, units, trainings, models keep their names.

Today's code gets a copy of that output, through the command line alone. `made_by_580efb4/README.md` tells how
it was made, and `expected.json` what that commit said of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image

from batch_nst.cli import main
from batch_nst.data.dataset.defaults import changed_defaults

MADE = Path(__file__).parent / "made_by_580efb4"
EXPECTED = json.loads((MADE / "expected.json").read_text())
PUBLISHED, PREVIOUS, CUT_OFF = (EXPECTED[name] for name in ("published", "previous", "cut_off"))
ON_CPU = ("generate.device=cpu", "generate.precision=fp32", "train.device=cpu", "train.precision=fp32")

Figures = dict[str, Any]
Row = dict[str, Any]


def copy_to(folder: Path) -> Path:
    """A copy of all of it. Git does not keep the times of files, and the ids of photos follow from them."""
    home = folder / "made"
    shutil.copytree(MADE, home)
    for photo in (home / "photos").iterdir():
        os.utime(photo, ns=(EXPECTED["modified"], EXPECTED["modified"]))
    return home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return copy_to(tmp_path)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the same photos, planned today; as no unit may begin, that is all that is done."""
    home = copy_to(tmp_path_factory.mktemp("begun"))
    shutil.rmtree(home / "output")
    call("generate", home / "recipe.yaml", "--max-device-hours", "0", code=1)
    return home / "output"


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for Ray fails at once."""
    monkeypatch.setitem(sys.modules, "ray", None)


def call(*words: str | Path, code: int = 0) -> Figures:
    """A command in this process: its figures, once it has ended with this code."""
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as told, pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
    assert end.value.code == code, told.getvalue()
    return dict(json.loads(told.getvalue().splitlines()[-1]))


def objects(output: Path) -> dict[str, bytes]:
    """All files but leases."""
    names = [path.relative_to(output) for path in output.rglob("*") if path.is_file()]
    return {str(name): (output / name).read_bytes() for name in names if name.parts[0] != "lease"}


def planned(output: Path) -> list[Row]:
    """The rows of the plan, but for the places of photos, which differ from copy to copy."""
    segments = sorted((output / "dataset" / "plan").iterdir())
    rows = [row for segment in segments for row in pq.read_table(segment).to_pylist()]
    return [{**row, "id": row["id"].hex()} for row in rows if row.pop("source")]


def pairs(output: Path) -> dict[str, Row]:
    """The rows of all units, by id, with their pictures as pixels."""
    units = sorted((output / "dataset" / "data").rglob("*.parquet"))
    rows = [row for unit in units for row in pq.read_table(unit).to_pylist()]
    return {
        row["id"].hex(): {**row, **{name: pixels(row[name]["bytes"]) for name in ("content", "stylized")}}
        for row in rows
    }


def pixels(picture: bytes | Path) -> npt.NDArray[np.int16]:
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        return np.asarray(image.convert("RGB")).astype(np.int16)


def card(output: Path, version: str) -> Figures:
    """A version's `model.json`."""
    return dict(json.loads((output / "models" / version / "model.json").read_text()))


def states(output: Path) -> dict[str, str]:
    return {model["version"]: model["state"] for model in call("models", output)["models"]}


# --- the dataset


def test_a_plan_finds_everything_done_and_nothing_new(home: Path, without_ray: None) -> None:
    before = objects(home / "output")
    figures = call("plan", home / "recipe.yaml")
    assert [figures[name] for name in ("photos", "found", "done")] == [10, 10, 10]
    assert [figures[name] for name in ("rejected", "to_do", "unpaired", "gone")] == [0, 0, 0, 0]
    assert objects(home / "output") == before


def test_the_same_photos_get_the_same_ids_units_and_rows(begun: Path) -> None:
    assert planned(begun) == planned(MADE / "output") == EXPECTED["plan"]


def test_a_key_that_the_recipe_omits_decides_the_pixels_that_it_decided(begun: Path) -> None:
    old, new = (
        json.loads((output / "dataset" / "dataset.json").read_text()) for output in (MADE / "output", begun)
    )
    # The first night did not have the photo that is held out by its hash, and another one had to be.
    assert (old["holdout"].pop("at_least"), new["holdout"].pop("at_least")) == (["chelsea.jpg"], [])
    assert new.pop("defaults") == changed_defaults()
    assert new["generate"].pop("draft")  # the key came later; what began without it goes on without it
    assert new == old


def test_settings_of_other_pixels_are_refused(home: Path, without_ray: None) -> None:
    other = ("loss.style_weight=50.0", "style.size=128", "generate.iterations=300", "evaluate.holdout=0.1")
    error = call("plan", home / "recipe.yaml", *other, code=2)["error"]
    began = f"the dataset in {home / 'output'} was started with"
    for told in (
        f"loss.style_weight: {began} 100.0, the recipe says 50.0",
        f"style.size: {began} 256, the recipe says 128",
        f"generate.iterations: {began} 5, the recipe says 300",
        f"holdout.fraction: {began} 0.05, the recipe says 0.1",
    ):
        assert told in error


def test_a_look_at_the_dataset_finds_what_is_in_it(home: Path, without_ray: None) -> None:
    figures = call("inspect", home / "output", "--out", home / "page.html")
    assert figures["units"] == {"done": 2, "looked_at": 2}
    assert (figures["snapshot"], figures["counts"]["ok"], figures["counts"]["held_out"]) == (2, 8, 2)
    assert (figures["runs"], figures["made"]) == (2, 10)
    assert "</html>" in (home / "page.html").read_text()


def test_a_photo_is_forgotten_and_who_has_seen_it_is_told(home: Path, without_ray: None) -> None:
    identity = next(row["id"] for row in EXPECTED["plan"] if row["key"] == "moose.jpg")
    figures = call("forget", home / "output", identity[:8])
    assert (figures["ids"], figures["pairs"], figures["snapshot"]) == ([identity], 1, 3)
    assert {model["version"] for model in figures["models"]} >= {PREVIOUS, PUBLISHED}
    planned = call("plan", home / "recipe.yaml", code=1)  # a pair fewer than a batch
    assert (planned["to_do"], len(planned["refused"])) == (0, 1)


@pytest.mark.slow
def test_pairs_that_are_made_today_are_those_that_were_made_then(home: Path, ray_cluster: None) -> None:
    figures = call("generate", home / "recipe.yaml", f"output={home / 'anew'}", *ON_CPU)
    assert (figures["made"], figures["ok"] + figures["held_out"]) == (10, 10)
    old, new = pairs(home / "output"), pairs(home / "anew")
    assert new.keys() == old.keys()
    for identity, pair in old.items():
        assert np.abs(new[identity]["content"] - pair["content"]).max() <= 1, pair["uri"]
        # On processors of another kind sums are rounded otherwise, and each iteration multiplies that.
        apart = np.abs(new[identity]["stylized"] - pair["stylized"])
        assert (apart > 1).mean() <= 0.01, (pair["uri"], apart.max())
        for name in ("status", "iterations", "init", "engine", "height", "width"):
            assert new[identity][name] == pair[name], (pair["uri"], name)
        for name in ("content_loss", "style_loss", "total_loss"):
            assert new[identity][name] == pytest.approx(pair[name], rel=0.01), (pair["uri"], name)


# --- trainings


@pytest.mark.parametrize(
    "named", EXPECTED["names"], ids=lambda named: ",".join(named["overrides"]) or "recipe"
)
def test_a_training_keeps_its_name(home: Path, without_ray: None, named: Figures) -> None:
    # A model of this name is there, so that a training of the name is found, and one of another begins.
    models = home / "output" / "models"
    made = card(home / "output", PUBLISHED) | {"version": named["version"]}
    (models / named["version"]).mkdir(exist_ok=True)
    (models / named["version"] / "model.json").write_text(json.dumps(made))
    figures = call("train", home / "recipe.yaml", *named["overrides"])
    assert (figures["version"], figures["steps"]) == (named["version"], made["training"]["steps"])


def test_another_night_finds_nothing_new_and_writes_nothing(home: Path, without_ray: None) -> None:
    before = objects(home / "output")
    figures = call("nightly", home / "recipe.yaml")
    assert (figures["nothing_new"], figures["published"]) == (True, True)
    assert (figures["version"], figures["previous"]) == (PUBLISHED, PREVIOUS)
    assert (figures["dataset"]["snapshot"], figures["dataset"]["digest"]) == (2, EXPECTED["snapshot"])
    assert objects(home / "output") == before


# --- models


def test_the_models_are_listed(home: Path, without_ray: None) -> None:
    assert states(home / "output") == {PREVIOUS: "previous", CUT_OFF: "unfinished", PUBLISHED: "published"}
    models = {model["version"]: model for model in call("models", home / "output")["models"]}
    for version in (PREVIOUS, PUBLISHED):
        model, scored = models[version], card(home / "output", version)["evaluation"]
        assert (model["photos"], model["objective"]) == (scored["photos"], scored["model"]["total"])
        assert model["trained"] is not None


def test_the_model_before_is_published_again(home: Path, without_ray: None) -> None:
    figures = call("rollback", home / "output")
    assert (figures["version"], figures["previous"]) == (PREVIOUS, PUBLISHED)
    assert figures["withdrawn"] == [PUBLISHED]
    assert states(home / "output") == {PREVIOUS: "published", CUT_OFF: "unfinished", PUBLISHED: "withdrawn"}
    assert "rollback" in call("nightly", home / "recipe.yaml")["refused"]["why"]


@pytest.mark.parametrize("model", ["output", f"output/models/{PUBLISHED}"])
def test_the_published_model_paints_what_it_painted(home: Path, without_ray: None, model: str) -> None:
    painted = home / "today.png"
    words = ("--precision", "fp32", "--device", "cpu")
    assert call("apply", home / model, home / "photos" / "astronaut.jpg", painted, *words)["ok"] == 1
    assert np.abs(pixels(painted) - pixels(home / "painted.png")).max() <= 1


@pytest.mark.slow
def test_the_next_night_takes_up_where_the_last_one_ended(home: Path, ray_cluster: None) -> None:
    """A photo more: one unit is made, and what is fitted to it all meets the gate beside the old model."""
    with Image.open(home / "photos" / "perch.jpg") as photo:
        photo.transpose(Image.Transpose.ROTATE_180).save(home / "photos" / "turned.png")
    quick = ("evaluate.iterations=2", "evaluate.sizes=[]", "evaluate.baseline_photos=0")
    fast = (*quick, "evaluate.larger_photos=0", "train.steps=1")
    # A training of one step is worse.
    figures = call("nightly", home / "recipe.yaml", *ON_CPU, *fast, code=3)
    assert (figures["dataset"]["made"], figures["dataset"]["snapshot"]) == (1, 3)
    assert (figures["dataset"]["ok"], figures["dataset"]["held_out"]) == (9, 2)
    objectives = card(home / "output", PUBLISHED)["evaluation"]["objectives"]
    assert figures["compared"]["photos"] == len(objectives) == 2
    assert figures["compared"]["published"] == {
        "version": PUBLISHED,
        "objective": pytest.approx(float(np.exp(np.mean(np.log(list(objectives.values())))))),
    }
    assert states(home / "output")[PUBLISHED] == "published"
