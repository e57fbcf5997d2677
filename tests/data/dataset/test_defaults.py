"""Laws of changing defaults: outputs that exist keep their meaning, new things get new names."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batch_nst.data.dataset import defaults
from batch_nst.data.dataset.defaults import changed_defaults, deciding, frozen_defaults, section_types
from batch_nst.data.dataset.manifest import SETTINGS, as_started, check_settings, settings_of
from batch_nst.data.dataset.plan import survey
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.images.style import read_style
from batch_nst.data.models.registry import training_version
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError, StorageError
from batch_nst.recipe import Recipe, Train
from batch_nst.recipe_file import load_recipe
from tests.support.later_defaults import later_defaults

CAME_LATER = {"unpaired", "crop_until", "content_factor"}
NEW = [("loss", "tv_weight"), ("train", "seed")]
SNAPSHOT = Snapshot(1, 1, "0" * 32, {}, [], [])

TODAY: dict[str, dict[str, object]] = {
    "generate": {"draft": True},
    "train": {"network": "skip", "optimizer": "muon"},
}
"""What differs from the first defaults."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds a recipe's photos and style image."""
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).write_text(name)  # nobody opens them
    Image.new("RGB", (20, 16), "navy").save(tmp_path / "style.png")
    return tmp_path


def recipe_of(folder: Path, **sections: dict[str, Any]) -> Recipe:
    document = {
        "output": str(folder / "out"),
        "style": {"image": str(folder / "style.png")},
        "generate": {"input": str(folder / "photos"), **sections.pop("generate", {})},
        **sections,
    }
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(document))
    return load_recipe(file)


def start(recipe: Recipe) -> Store:
    """An output whose dataset has been planned by this recipe."""
    store = Store(recipe.output)
    survey(recipe, store).write_down(store)
    return store


def test_every_key_with_a_default_has_a_frozen_one() -> None:
    for name, kind in section_types().items():
        having = {key for key, field in kind.model_fields.items() if not field.is_required()}
        assert having == frozen_defaults(name).keys(), name


def test_without_a_dataset_a_recipe_means_what_it_says(folder: Path) -> None:
    recipe = recipe_of(folder)
    assert as_started(recipe, Store(recipe.output)) is recipe


def test_a_dataset_records_the_defaults_that_are_no_longer_the_first_ones(folder: Path) -> None:
    store = start(recipe_of(folder))
    assert json.loads(store.read(SETTINGS))["defaults"] == changed_defaults() == TODAY


@pytest.mark.parametrize(
    ("name", "later"),
    [
        ("style.size", 128),  # recorded since the first version
        ("generate.iterations", 100),
        ("evaluate.holdout", 0.2),
        ("loss.style_weight", 50.0),
        ("loss.style_layers", {"relu3_3": 2.0}),
        ("train.width", 16),  # never recorded by it
        ("train.network", "small"),
        ("quality.min_change", None),
    ],
)
def test_a_changed_default_changes_no_output_that_exists(folder: Path, name: str, later: object) -> None:
    before = recipe_of(folder)
    store = start(before)
    version = training_version(before, SNAPSHOT)
    with later_defaults({name: later}):
        omitted = recipe_of(folder)
        now = as_started(omitted, store)
        assert now == before
        assert training_version(now, SNAPSHOT) == version
        assert survey(now, store).counts().to_do == 2
        assert not name.startswith("train") or training_version(omitted, SNAPSHOT) != version


def test_a_dataset_started_with_a_changed_default_keeps_it(folder: Path) -> None:
    with later_defaults({"train.network": "small", "generate.iterations": 100}):
        store = start(recipe_of(folder))
        assert json.loads(store.read(SETTINGS))["defaults"] == {
            "generate": TODAY["generate"] | {"iterations": 100},
            "train": TODAY["train"] | {"network": "small"},
        }
        named = training_version(recipe_of(folder), SNAPSHOT)
    now = as_started(recipe_of(folder), store)
    assert (now.train.network, now.generate.iterations) == ("small", 100)
    assert training_version(now, SNAPSHOT) == named
    assert survey(now, store).settings["defaults"]["train"] == TODAY["train"] | {"network": "small"}
    survey(now, store).write_down(store)  # the same settings, so nothing is refused


def test_a_new_default_never_gives_an_old_name_to_a_new_thing(folder: Path) -> None:
    old = training_version(recipe_of(folder), SNAPSHOT)
    small = training_version(recipe_of(folder, train={"network": "small"}), SNAPSHOT)
    with later_defaults({"train.network": "small"}):
        assert training_version(recipe_of(folder), SNAPSHOT) == small
        assert training_version(recipe_of(folder, train={"network": "skip"}), SNAPSHOT) == old


def test_a_key_that_is_written_and_differs_is_refused(folder: Path) -> None:
    store = start(recipe_of(folder))
    written = recipe_of(folder, generate={"iterations": 7})
    now = as_started(written, store)
    assert now.generate.iterations == 7
    with pytest.raises(RecipeError, match=r"generate\.iterations: .* started with 300, the recipe says 7"):
        check_settings(store, settings_of(now, read_style(now.style)))


def test_what_a_dataset_took_from_its_recipe_is_kept_when_the_key_goes(folder: Path) -> None:
    store = start(recipe_of(folder, generate={"iterations": 7}, evaluate={"holdout_photos": ["a.png"]}))
    now = as_started(recipe_of(folder), store)
    assert (now.generate.iterations, now.evaluate.holdout_photos) == (7, ["a.png"])


def test_what_was_taken_from_the_dataset_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = start(recipe_of(folder))
    as_started(recipe_of(folder), store)
    assert capsys.readouterr().err == ""
    with later_defaults({"generate.iterations": 100}):
        as_started(recipe_of(folder), store)
    assert "generate.iterations: 300, as the dataset was started with" in capsys.readouterr().err


def test_a_key_that_came_later_is_in_a_name_only_when_it_means_something(folder: Path) -> None:
    recipe = recipe_of(folder)
    assert "width" not in deciding(recipe, "train", later=("width",))
    narrow = recipe.model_copy(update={"train": recipe.train.model_copy(update={"width": 16})})
    assert deciding(narrow, "train", later=("width",))["width"] == 16
    decide = deciding(recipe, "train", exclude=("steps",))
    assert decide.keys() == Train.model_fields.keys() - {"steps", *CAME_LATER}


def test_a_key_that_a_later_version_added_changes_no_name_and_no_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if `loss.tv_weight` and `train.seed` were new today, and meant 0 before they were keys."""
    frozen = json.loads(json.dumps(defaults._frozen()))
    first = frozen["580efb4"]
    for section, key in NEW:
        frozen["later"].setdefault(section, {})[key] = first[section].pop(key)
    monkeypatch.setattr(defaults, "_frozen", lambda: frozen)
    recipe = recipe_of(folder)
    for section, key in NEW:
        keys = type(getattr(recipe, section)).model_fields.keys()
        assert deciding(recipe, section).keys() == keys - {key, *CAME_LATER}
    store = start(recipe)
    assert as_started(recipe_of(folder), store) == recipe
    assert changed_defaults() == TODAY
    used = recipe_of(folder, loss={"tv_weight": 1.0}, train={"seed": 3})
    assert deciding(used, "loss")["tv_weight"] == 1.0
    assert training_version(used, SNAPSHOT) != training_version(recipe, SNAPSHOT)
    with later_defaults({"loss.tv_weight": 1.0}):
        assert as_started(recipe_of(folder), store) == recipe
        assert deciding(recipe_of(folder), "loss")["tv_weight"] == 1.0


def test_settings_that_no_recipe_could_have_are_damage(folder: Path) -> None:
    store = start(recipe_of(folder))
    settings = json.loads(store.read(SETTINGS))
    settings["generate"]["iterations"] = -1
    store.replace(SETTINGS, json.dumps(settings).encode())
    with pytest.raises(StorageError, match=r"dataset\.json: is damaged: .*iterations"):
        as_started(recipe_of(folder), store)


# --- units fit the device on which a dataset begins


def test_a_dataset_that_begins_on_cuda_has_large_units_and_keeps_them(folder: Path) -> None:
    store = start(recipe_of(folder, generate={"device": "cuda"}))
    recorded = json.loads(store.read(SETTINGS))["defaults"]
    assert recorded == TODAY | {"generate": {"draft": True, "unit_images": 256}}
    for device in ("cpu", "cuda", "auto"):
        now = as_started(recipe_of(folder, generate={"device": device}), store)
        assert now.generate.unit_images == survey(now, store).unit_images == 256
        survey(now, store).write_down(store)  # nothing is refused
    assert json.loads(store.read(SETTINGS))["defaults"] == recorded


def test_a_dataset_that_began_on_cpus_keeps_its_small_units_on_cuda(folder: Path) -> None:
    store = start(recipe_of(folder, generate={"device": "cpu"}))
    assert json.loads(store.read(SETTINGS))["defaults"] == TODAY  # 16 is what version 0.1.0 had as well
    now = as_started(recipe_of(folder, generate={"device": "cuda"}), store)
    plan = survey(now, store)
    assert now.generate.unit_images == plan.unit_images == plan.beginning_on("cuda").unit_images == 16


def test_auto_is_settled_by_what_the_cluster_has(folder: Path) -> None:
    recipe = recipe_of(folder)
    plan = survey(recipe, Store(recipe.output))
    assert (plan.unit_images, plan.beginning_on("cpu")) == (16, plan)
    on_cuda = plan.beginning_on("cuda")
    assert on_cuda.unit_images == 256
    assert on_cuda.settings["defaults"] == TODAY | {"generate": {"draft": True, "unit_images": 256}}
    assert on_cuda.beginning_on("cpu") is on_cuda


def test_a_number_in_the_recipe_wins_over_the_device(folder: Path) -> None:
    given = recipe_of(folder, generate={"device": "cuda", "unit_images": 3})
    store = start(given)
    assert json.loads(store.read(SETTINGS))["defaults"] == TODAY
    assert survey(as_started(given, store), store).unit_images == 3
    now = as_started(recipe_of(folder, generate={"unit_images": 5}), store)
    assert survey(now, store).unit_images == 5


def test_what_later_defaults_record_stays_beside_the_units(folder: Path) -> None:
    with later_defaults({"generate.iterations": 100, "train.network": "small"}):
        store = start(recipe_of(folder, generate={"device": "cuda"}))
    assert json.loads(store.read(SETTINGS))["defaults"] == {
        "generate": TODAY["generate"] | {"iterations": 100, "unit_images": 256},
        "train": TODAY["train"] | {"network": "small"},
    }
