"""Laws of nights that end before the gate: the reason is written down, and the next one wastes nothing."""

import json
import re
import shutil
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batch_nst.data.dataset import units
from batch_nst.data.dataset.manifest import SETTINGS
from batch_nst.data.dataset.plan import survey
from batch_nst.data.dataset.snapshot import require_snapshot
from batch_nst.data.dataset.summaries import SUMMARIES
from batch_nst.data.models import registry
from batch_nst.data.models.registry import training_version
from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from batch_nst.errors import BatchNSTError, IncompleteError, RecipeError, StorageError
from batch_nst.figures import as_json
from batch_nst.pipelines import commands, nightly
from batch_nst.pipelines.generate.run import generate
from batch_nst.pipelines.train.run import find_cut_off
from batch_nst.recipe import Recipe
from batch_nst.recipe_file import load_recipe
from tests.support.browser import Browser
from tests.support.fake_night import begin, finish, make_pairs, objects

PASSED = datetime(2026, 11, 25, 6, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return begin(tmp_path)


def add_photo(file: Path) -> None:
    Image.effect_noise((40, 40), 64).convert("RGB").save(file.parent / "photos" / "3.png")


def unmake(store: Store, split: str) -> None:
    """Take away the first unit of one image that is on this side of the split: it is pending."""
    done = {name: units.read_unit(store, name, ["split"]) for name in sorted(units.done_units(store))}
    name = next(name for name, rows in done.items() if rows == [{"split": split}])
    store.delete(units.unit_object(name))
    store.delete(SUMMARIES)


def summary_of(store: Store, command: str = "nightly") -> dict[str, Any]:
    """What the one run of a command has written down."""
    (name,) = (name for name in store.list("runs") if name.endswith(f"-{command}/summary.json"))
    return dict(json.loads(store.read(name)))


def fail(recipe: Recipe, kind: type[BatchNSTError], deadline: datetime | None = None) -> dict[str, Any]:
    """What a night that fails tells: its summary, which is the figures that it ends with, to be posted."""
    with pytest.raises(kind) as error:
        nightly.nightly(recipe, deadline=deadline)
    store = Store(recipe.output)
    summary = summary_of(store)
    assert summary == {"command": "nightly", "started": summary["started"], **error.value.figures}
    assert summary["error"] == str(error.value)
    assert summary["report"] == store.join(f"runs/{summary['run']}/report.html")
    assert f"The reason: {error.value}." in text_of(summary)
    return summary


def text_of(summary: dict[str, Any]) -> str:
    """Of the page that tells of it."""
    markup = re.sub(r"<(style|details).*?</\1>|<[^>]*>", " ", Path(summary["report"]).read_text(), flags=re.S)
    return " ".join(unescape(markup).split())


# --- the reason


def test_settings_that_are_damaged(file: Path) -> None:
    recipe, store, _ = finish(file, {"0": 1.0})
    store.replace(SETTINGS, b"{")
    error = fail(recipe, StorageError)["error"]
    assert "dataset.json: is damaged" in error
    with pytest.raises(StorageError) as told:
        commands.generate(recipe)
    assert summary_of(store, "generate")["error"] == str(told.value) == error


def test_more_rejected_photos_than_are_allowed(file: Path) -> None:
    make_pairs(load_recipe(file))
    add_photo(file)
    make_pairs(load_recipe(file), status="rejected")
    summary = fail(load_recipe(file), IncompleteError)
    assert summary["error"] == "1 of 4 images were rejected (25.0%); generate.max_rejected allows 5.0%"
    assert (summary["ok"], summary["held_out"], summary["rejected"]) == (2, 1, 1)
    assert "No model is published yet. New found 4 tried tonight 0 new pairs 0" in text_of(summary)


def test_a_training_that_is_refused_and_the_pairs_before_it(file: Path) -> None:
    snapshot = make_pairs(load_recipe(file))
    summary = fail(load_recipe(file, ["train.batch_size=3"]), RecipeError)
    assert summary["error"].startswith("train.batch_size: given 3; ")
    assert (summary["dataset"]["ok"], summary["dataset"]["digest"]) == (2, snapshot.digest)
    assert re.search(r"found 3 .* Time pairs [\d.]+ s training [\d.]+ s The last of these", text_of(summary))


def test_a_model_that_is_damaged_and_the_steps_before_it(file: Path) -> None:
    recipe, store, version = finish(file, {"0": 1.0}, "train.batch_size=2")
    card = registry.require_card(store, version)
    card["training"] = {"steps": 7, "history": [{"step": 7, "loss": 3.5}]}
    registry.write_card(store, version, card)
    store.delete(registry.model_object(version, registry.GRAPH))  # so it is to be made
    summary = fail(recipe, RecipeError)
    assert summary["error"].startswith(f"{registry.CARD}: architecture is None; ")
    assert (summary["version"], summary["steps"], summary["training"]) == (version, 7, {"loss": 3.5})
    assert registry.current(store) is None


def test_a_bug_is_told_by_its_kind_and_the_published_model_stays(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, store, version = finish(file, {"0": 1.0})
    registry.point(store, version, registry.require_card(store, version)["digests"], 1)
    add_photo(file)
    monkeypatch.setattr("batch_nst.pipelines.generate.run.generate", lambda *_: {}["secret"])
    with pytest.raises(KeyError):
        nightly.nightly(recipe)
    summary = summary_of(store)
    assert summary["error"] == "a bug: KeyError"
    text = text_of(summary)
    assert f"The reason: a bug: KeyError. Model {version} stays published. Time pairs" in text
    assert "secret" not in text


def test_where_no_page_can_be_written_the_reason_is_still_the_nights_own(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pairs(load_recipe(file))
    shutil.rmtree(file.parent / "photos")
    replace = Store.replace

    def full(store: Store, name: str, data: bytes) -> None:
        if name.endswith("report.html"):
            raise StorageError("output is full")
        replace(store, name, data)

    monkeypatch.setattr(Store, "replace", full)
    with pytest.raises(RecipeError, match=r"generate\.input: ") as error:
        nightly.nightly(load_recipe(file))
    assert "report" not in error.value.figures
    assert "warning: no report was written of this failure: output is full\n" in capsys.readouterr().err


def test_a_browser_shows_the_page_of_a_failed_night(file: Path, browser: Browser) -> None:
    recipe = load_recipe(file)
    make_pairs(recipe)
    shutil.rmtree(file.parent / "photos")
    fail(recipe, RecipeError)
    with pytest.raises(RecipeError) as error:
        nightly.nightly(recipe)
    page = Path(error.value.figures["report"])
    links = re.findall(r'<a href="([^"]*)">[^<]*</a> failed', page.read_text())
    assert [(page.parent / link).is_file() for link in links] == [True]
    look = browser.look(page, 390)
    assert (look.width, look.troubles, look.requests) == (390, [], [])


def test_a_partial_dataset_without_a_held_out_photo_is_not_trained_on(file: Path) -> None:
    more = ["generate.unit_images=1", "train.min_done=0.5", "train.batch_size=2"]
    recipe = load_recipe(file, more)
    store = Store(recipe.output)
    make_pairs(recipe)
    unmake(store, "held_out")
    summary = fail(recipe, IncompleteError, PASSED)
    snapshot = require_snapshot(store)
    assert (snapshot.counts["ok"], snapshot.counts["pending"]) == (2, 1)
    assert summary["error"] == (
        f"{store.uri}: snapshot {snapshot.number} has 2 pairs to train on and no held-out one to score a "
        "model on, 1 images are pending; needed: 1; run `batch-nst generate` again"
    )
    assert store.list("models") == []


def test_a_night_goes_on_at_its_deadline_with_what_is_done_if_that_is_enough(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the images are made; the rest is pending when the deadline comes."""
    make_pairs(load_recipe(file))
    # So large a batch ends the next step, the training, at once.
    overrides = ["generate.crops=2", "train.batch_size=9"]
    told = "3 images are pending: the deadline 2026-11-25 06:00+00:00 has come"
    error = fail(load_recipe(file, overrides), IncompleteError, PASSED)["error"]
    assert error == f"{told}; 50.0% are done, train.min_done asks for 100.0%; run the same command again"
    enough = load_recipe(file, [*overrides, "train.min_done=0.5"])
    with pytest.raises(RecipeError, match=r"^train\.batch_size: given 9; .* snapshot 2 has 2") as ended:
        nightly.nightly(enough, deadline=PASSED)
    dataset = ended.value.figures["dataset"]
    assert (dataset["pending"], dataset["stopped"]) == (3, "the deadline 2026-11-25 06:00+00:00 has come")
    assert f"{told}; continuing with what is done; the next start makes the rest" in capsys.readouterr().err


def test_a_dataset_without_a_pair_is_not_trained_on(file: Path) -> None:
    make_pairs(load_recipe(file), status="failed")
    with pytest.raises(IncompleteError, match="no pair to train on"):
        commands.train(load_recipe(file))


def test_a_dataset_whose_held_out_photos_are_bad_is_not_trained_on_either(file: Path) -> None:
    more = ["generate.unit_images=1", "generate.max_rejected=0.5", "train.batch_size=2"]
    recipe = load_recipe(file, more)
    make_pairs(recipe)
    unmake(Store(recipe.output), "held_out")
    make_pairs(recipe, status="rejected")
    told = fail(recipe, IncompleteError)["error"]
    assert re.search(r"no held-out one .*, 0 images are pending; needed: 1; add photos$", told)


# --- photos of which none is made yet


def test_pairs_that_have_been_learned_from_are_not_learned_from_again(file: Path) -> None:
    more = ["generate.unit_images=1", "train.min_done=0.5", "train.batch_size=2"]
    recipe, store, version = finish(file, {"0": 1.0}, *more)
    add_photo(file)
    with acquire(store, "test") as lease:
        generate(recipe, store, lease, budget=commands.Budget(0.0), min_done=0.5)
    snapshot = require_snapshot(store)
    assert (snapshot.number, snapshot.counts["pending"]) == (2, 1)
    assert training_version(recipe, snapshot) == version


# --- a training that was cut off


def begin_training(recipe: Recipe, store: Store) -> str:
    """What a night that was killed in its training leaves: a checkpoint, and no model."""
    version = training_version(recipe, require_snapshot(store))
    store.replace(f"checkpoints/{version}/checkpoint_000000/state.pt", b"half of it")
    return version


def test_a_training_is_cut_off_while_it_has_a_checkpoint_and_no_model(file: Path) -> None:
    recipe = load_recipe(file)
    store = Store(recipe.output)
    assert find_cut_off(recipe, store) is None
    snapshot = make_pairs(recipe)
    assert find_cut_off(recipe, store) is None
    version = begin_training(recipe, store)
    assert find_cut_off(recipe, store) == snapshot
    assert find_cut_off(load_recipe(file, ["train.steps=7"]), store) is None
    failed = registry.model_object(version, registry.FAILED)
    store.replace(failed, b"it would fail again")
    assert find_cut_off(recipe, store) is None
    store.delete(failed)
    assert find_cut_off(recipe, store) == snapshot
    registry.write_card(store, version, {"version": version})
    assert find_cut_off(recipe, store) is None


def test_a_training_that_would_be_refused_now_is_not_waited_for(file: Path) -> None:
    add_photo(file)
    recipe = load_recipe(file, ["generate.unit_images=1"])
    store = Store(recipe.output)
    make_pairs(recipe)
    unmake(store, "train")
    with acquire(store, "test") as lease, pytest.raises(IncompleteError):
        generate(recipe, store, lease, budget=commands.Budget(0.0))
    begin_training(recipe, store)
    partial = load_recipe(file, ["generate.unit_images=1", "train.min_done=0.75"])
    assert find_cut_off(partial, store) == require_snapshot(store)
    assert find_cut_off(recipe, store) is None


def test_while_a_training_is_cut_off_nothing_is_made_nor_sealed(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(file)
    store = Store(recipe.output)
    snapshot = make_pairs(recipe)
    begin_training(recipe, store)
    add_photo(file)
    before = objects(store)
    with acquire(store, "test") as lease:
        made = as_json(generate(recipe, store, lease, min_done=1.0, cut_off=find_cut_off(recipe, store)))
    assert objects(store) == before
    assert (made["found"], made["made"], made["snapshot"], made["digest"]) == (4, 0, 1, snapshot.digest)
    why = "the training on snapshot 1 was cut off and is ended first"
    assert made["stopped"] == why
    assert f"1 images wait for the next start: {why}\n" in capsys.readouterr().err
    assert survey(recipe, store).to_do == 1
