"""Laws of changing defaults: outputs that exist keep their meaning, new things get new names."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batch_nst.data.dataset.defaults import changed_defaults, deciding, frozen_defaults, section_types
from batch_nst.data.dataset.manifest import SETTINGS, as_started, check_settings, settings_of
from batch_nst.data.dataset.plan import survey
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.models.registry import training_version
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError, StorageError
from batch_nst.recipe import Evaluate, Generate, Loss, Quality, Recipe, Section, Style, Train
from batch_nst.recipe_file import load_recipe

SNAPSHOT = Snapshot(1, 1, "0" * 32, {}, [], [])


@contextmanager
def default(section: type[Section], key: str, value: object) -> Iterator[None]:
    """Another default of a key, as a later version may have it."""
    field = section.model_fields[key]
    before, field.default = field.default, value
    rebuild()
    try:
        yield
    finally:
        field.default = before
        rebuild()


def rebuild() -> None:
    for kind in (*section_types().values(), Recipe):
        kind.model_rebuild(force=True)


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
        **{name: sections.get(name, {}) for name in ("loss", "quality", "train", "evaluate")},
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


def test_a_dataset_of_the_first_defaults_records_none(folder: Path) -> None:
    assert changed_defaults() == {}
    store = start(recipe_of(folder))
    assert "defaults" not in json.loads(store.read(SETTINGS))


@pytest.mark.parametrize(
    ("section", "key", "later"),
    [
        (Style, "size", 128),  # recorded since the first version
        (Generate, "iterations", 100),
        (Evaluate, "holdout", 0.2),
        (Loss, "style_weight", 50.0),
        (Loss, "style_layers", {"relu3_3": 2.0}),
        (Train, "width", 16),  # never recorded by it
        (Train, "network", "small"),
        (Quality, "min_change", None),
    ],
)
def test_a_changed_default_changes_no_output_that_exists(
    folder: Path, section: type[Section], key: str, later: object
) -> None:
    before = recipe_of(folder)
    store = start(before)
    name = training_version(before, SNAPSHOT)
    with default(section, key, later):
        omitted = recipe_of(folder)
        now = as_started(omitted, store)
        assert now == before
        assert training_version(now, SNAPSHOT) == name
        assert survey(now, store).counts().to_do == 2
        assert training_version(now, SNAPSHOT) != training_version(omitted, SNAPSHOT) or section is not Train


def test_a_dataset_started_with_a_changed_default_keeps_it(folder: Path) -> None:
    with default(Train, "network", "small"), default(Generate, "iterations", 100):
        store = start(recipe_of(folder))
        assert json.loads(store.read(SETTINGS))["defaults"] == {
            "generate": {"iterations": 100},
            "train": {"network": "small"},
        }
        named = training_version(recipe_of(folder), SNAPSHOT)
    now = as_started(recipe_of(folder), store)
    assert (now.train.network, now.generate.iterations) == ("small", 100)
    assert training_version(now, SNAPSHOT) == named
    assert survey(now, store).settings["defaults"]["train"] == {"network": "small"}
    survey(now, store).write_down(store)  # the same settings, so nothing is refused


def test_a_new_default_never_gives_an_old_name_to_a_new_thing(folder: Path) -> None:
    old = training_version(recipe_of(folder), SNAPSHOT)
    small = training_version(recipe_of(folder, train={"network": "small"}), SNAPSHOT)
    with default(Train, "network", "small"):
        assert training_version(recipe_of(folder), SNAPSHOT) == small
        assert training_version(recipe_of(folder, train={"network": "johnson"}), SNAPSHOT) == old


def test_a_key_that_is_written_and_differs_is_refused(folder: Path) -> None:
    store = start(recipe_of(folder))
    written = recipe_of(folder, generate={"iterations": 7})
    now = as_started(written, store)
    assert now.generate.iterations == 7
    with pytest.raises(RecipeError, match=r"generate\.iterations: .* started with 300, the recipe says 7"):
        check_settings(store, settings_of(now))


def test_what_a_dataset_took_from_its_recipe_is_kept_when_the_key_goes(folder: Path) -> None:
    store = start(recipe_of(folder, generate={"iterations": 7}, evaluate={"holdout_photos": ["a.png"]}))
    now = as_started(recipe_of(folder), store)
    assert (now.generate.iterations, now.evaluate.holdout_photos) == (7, ["a.png"])


def test_what_was_taken_from_the_dataset_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = start(recipe_of(folder))
    as_started(recipe_of(folder), store)
    assert capsys.readouterr().err == ""
    with default(Generate, "iterations", 100):
        as_started(recipe_of(folder), store)
    assert "generate.iterations: 300, as the dataset was started with" in capsys.readouterr().err


def test_a_key_that_came_later_is_in_a_name_only_when_it_means_something(folder: Path) -> None:
    recipe = recipe_of(folder)
    assert "network" not in deciding(recipe, "train", later=("network",))
    small = recipe.model_copy(update={"train": recipe.train.model_copy(update={"network": "small"})})
    assert deciding(small, "train", later=("network",))["network"] == "small"
    assert deciding(recipe, "train", exclude=("steps",)).keys() == Train.model_fields.keys() - {"steps"}


def test_settings_that_no_recipe_could_have_are_damage(folder: Path) -> None:
    store = start(recipe_of(folder))
    settings = json.loads(store.read(SETTINGS))
    settings["generate"]["iterations"] = -1
    store.replace(SETTINGS, json.dumps(settings).encode())
    with pytest.raises(StorageError, match=r"dataset\.json: is damaged: .*iterations"):
        as_started(recipe_of(folder), store)
