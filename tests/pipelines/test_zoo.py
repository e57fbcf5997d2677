"""Laws of the zoo: every model that ships is whole, small, told, and painted with by its name."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batch_nst import load_model
from batch_nst.data.models.files import ZOO, read_model, zoo_names
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError
from batch_nst.pipelines.inference import read_start
from batch_nst.pipelines.zoo import list_zoo
from batch_nst.recipe_file import load_recipe
from tests.support.calls import Call
from tests.support.places import ROOT

FILES = {"README.md", "model.json", "model.safetensors", "preview.jpg"}
MOST_BYTES = 6 << 20

names = pytest.mark.parametrize("name", zoo_names())


def test_each_model_has_a_recipe_that_makes_it_again() -> None:
    recipes = {path.stem for path in (ROOT / "jobs" / "recipes" / "zoo").glob("*.yaml")}
    assert set(zoo_names()) <= recipes
    assert zoo_names() == sorted(path.name for path in ZOO.iterdir() if path.is_dir())


@names
def test_a_model_is_whole_and_small_and_names_no_place_of_a_machine(name: str) -> None:
    files = read_model(f"zoo:{name}")
    folder = ZOO / name
    assert {path.name for path in folder.iterdir()} == FILES
    assert files.card["digests"]["model.safetensors"] == hashlib.sha256(files.weights).hexdigest()
    assert len(files.weights) <= MOST_BYTES
    recipe = files.card["recipe"]
    assert not any(Path(path).is_absolute() for path in (recipe["output"], recipe["style"]["image"]))
    made_by = load_recipe(ROOT / "jobs" / "recipes" / "zoo" / f"{name}.yaml")
    assert recipe["loss"] == json.loads(made_by.loss.model_dump_json())
    assert recipe["train"]["network"] == files.card["architecture"]["name"] == made_by.train.network


@names
def test_it_is_listed_with_r_and_licence(name: str) -> None:
    (told,) = [model for model in list_zoo().models if model.name == name]
    assert told.ratio == pytest.approx(read_model(name).card["evaluation"]["ratios"]["total"])
    assert told.ratio > 1
    assert "unknown" not in (told.license, told.weights_license)


def test_a_name_paints_and_a_path_of_that_name_wins(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = zoo_names()[0]
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    ended = call("apply", name, "photo.png", "painted.png", "--precision", "fp32", folder=tmp_path)
    assert ended.code == 0, ended.stderr
    with Image.open(tmp_path / "painted.png") as picture:
        painted = np.asarray(picture, int)
    assert np.abs(painted - load_model(f"zoo:{name}", "cpu", "fp32")(photo)).max() <= 1
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    with pytest.raises(RecipeError, match="found neither models/CURRENT"):
        read_model(name)
    assert read_model(f"zoo:{name}").home == str(ZOO / name)


def test_a_name_that_the_zoo_lacks_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(RecipeError, match=f"the zoo has no 'starry'; allowed: .*{zoo_names()[0]}"):
        read_model("zoo:starry")


def test_a_recipe_starts_from_it(tmp_path: Path) -> None:
    start = f"zoo:{zoo_names()[0]}"
    recipe = load_recipe(
        ROOT / "jobs" / "recipes" / "demo.yaml",
        [f"train.init=model:{start}", f"generate.init=model:{start}", f"output={tmp_path}"],
    )
    assert recipe.train.init_model == recipe.generate.init_model == start
    found = read_start(start, Store(recipe.output), "train.init", "from random weights")
    assert found == read_model(start)
