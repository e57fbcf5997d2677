"""Laws of the gate and of nights that find nothing new: what is decided stands, and costs nothing again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from batch_nst.data.dataset.forgotten import write_request
from batch_nst.data.dataset.summaries import SUMMARIES
from batch_nst.data.models import registry
from batch_nst.data.models.gate import UNREPORTED, Refused, decided, publish
from batch_nst.data.storage.store import Store
from batch_nst.errors import GateError, LeaseError, RecipeError
from batch_nst.figures import as_json
from batch_nst.pipelines import nightly
from batch_nst.pipelines.nightly import find_finished
from batch_nst.recipe import Publish, Recipe
from batch_nst.recipe_file import load_recipe
from tests.support.fake_night import begin, finish, make_model, make_pairs, objects

OLD, NEW = "000001-aaaaaaaaaaaa", "000002-bbbbbbbbbbbb"
FREE = Publish()

Night = tuple[Recipe, Store, str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return begin(tmp_path)


@pytest.fixture
def night(file: Path) -> Night:
    """All done but the gate."""
    return finish(file, {"a": 50.0, "b": 70.0})


@pytest.fixture
def published(night: Night) -> Night:
    """And the gate has let it through."""
    recipe, store, version = night
    publish(version, recipe.publish, store, 0)
    return night


def add_photo(file: Path) -> Path:
    path = file.parent / "photos" / "3.png"
    Image.effect_noise((40, 40), 64).convert("RGB").save(path)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The old model is published."""
    store = Store(str(tmp_path))
    make_model(store, OLD, {"a": 100.0, "b": 400.0})
    publish(OLD, FREE, store, 1)
    return store


def mark_of(store: Store, version: str) -> object:
    return registry.require_card(store, version).get("refused")


# --- the gate


def test_the_first_model_needs_no_comparison_but_a_limit_may_forbid_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    make_model(store, OLD, {"a": 100.0})
    with pytest.raises(GateError, match=r"objective 100 .*publish\.max_objective allows 99; not published"):
        publish(OLD, Publish(max_objective=99.0), store, 1)
    assert registry.current(store) is None
    assert as_json(publish(OLD, Publish(max_objective=100.0), store, 1)) == {
        "version": OLD,
        "published": True,
        "previous": None,
    }
    assert mark_of(store, OLD) is None


def test_only_photos_that_both_were_scored_on_count(store: Store) -> None:
    make_model(store, NEW, {"a": 90.0, "b": 400.0, "c": 1e9})
    assert as_json(publish(NEW, FREE, store, 1)) == {
        "version": NEW,
        "published": True,
        "previous": OLD,
        "compared": {
            "objective": pytest.approx(36_000**0.5),
            "published": {"version": OLD, "objective": pytest.approx(200.0)},
            "margin": 0.0,
            "photos": 2,
        },
    }


def test_a_refusal_tells_what_was_compared_whatever_the_reason(store: Store) -> None:
    make_model(store, NEW, {"a": 90.0, "b": 400.0})
    with pytest.raises(GateError) as error:
        publish(NEW, Publish(max_objective=10.0), store, 1)
    figures = error.value.figures
    assert (figures["refused"]["max_objective"], figures["compared"]["photos"]) == (10.0, 2)
    assert figures["compared"]["published"] == {"version": OLD, "objective": pytest.approx(200.0)}
    assert mark_of(store, NEW) == figures["refused"]


def test_a_refused_candidate_is_kept_and_marked_with_the_figures(store: Store) -> None:
    make_model(store, NEW, {"a": 100.0, "b": 400.0})
    before = objects(store)
    with pytest.raises(GateError) as error:
        publish(NEW, Publish(margin=0.25), store, 1)
    refusal = error.value.figures["refused"]
    assert error.value.exit_code == 3
    assert refusal == {
        "why": f"{NEW}: objective 200 on held-out photos; published {OLD} has 200, publish.margin 0.25; not "
        "published",
        "objective": pytest.approx(200.0),
        "published": {"version": OLD, "objective": pytest.approx(200.0)},
        "margin": 0.25,
        "photos": 2,
    }
    card = registry.model_object(NEW, registry.CARD)
    after = objects(store)
    assert {name for name in after if after[name] != before.get(name)} == {card}
    assert json.loads(after[card]) == {**json.loads(before[card]), "refused": refusal}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_photo_without_a_positive_number_breaks_a_candidate_even_the_first(
    tmp_path: Path, value: float
) -> None:
    store = Store(str(tmp_path))
    make_model(store, NEW, {"a": 1.0, "b": value, "c": 1.0})
    with pytest.raises(GateError, match=rf"objective is {value} on 1 of 3 held-out photos; not published"):
        publish(NEW, FREE, store, 1)
    assert registry.current(store) is None
    assert decided(NEW, FREE, store) is not None


def test_models_without_a_photo_in_common_are_not_compared(store: Store) -> None:
    make_model(store, NEW, {"z": 1.0})
    with pytest.raises(GateError, match=f"scored on no photo that the published {OLD} was scored on"):
        publish(NEW, FREE, store, 1)


def test_with_a_margin_below_0_a_model_may_be_worse_by_so_much(store: Store) -> None:
    make_model(store, NEW, {"a": 110.0, "b": 440.0})  # 10 % more than 200
    with pytest.raises(GateError, match=r"publish\.margin -0\.09; not published"):
        publish(NEW, Publish(margin=-0.09), store, 1)
    publish(NEW, Publish(margin=-0.11), store, 1)
    assert mark_of(store, NEW) is None


def test_what_is_published_is_marked_no_longer(store: Store) -> None:
    make_model(store, NEW, {"a": 90.0, "b": 400.0})
    with pytest.raises(GateError):
        publish(NEW, Publish(margin=0.06), store, 1)
    publish(NEW, Publish(margin=0.05), store, 1)  # 189.7 is 5.1 % less than 200
    assert mark_of(store, NEW) is None
    assert registry.current(store) == {
        "version": NEW,
        "previous": OLD,
        "withdrawn": [],
        "digests": registry.require_card(store, NEW)["digests"],
        "token": 1,
    }


def test_who_lost_the_lease_does_not_publish(store: Store) -> None:
    make_model(store, NEW, {"a": 1.0, "b": 1.0})
    with pytest.raises(LeaseError, match="published under lease 1, later than ours 0"):
        publish(NEW, FREE, store, 0)
    current = registry.current(store)
    assert current is not None
    assert current["version"] == OLD


def test_the_gate_that_is_asked_again_tells_what_it_compared(store: Store) -> None:
    """As by a night that was killed before its report."""
    make_model(store, NEW, {"a": 90.0, "b": 400.0})
    first = publish(NEW, FREE, store, 1)
    assert first.compared is not None
    pointer = store.read(registry.CURRENT)
    assert publish(NEW, FREE, store, 2) == first
    assert store.read(registry.CURRENT) == pointer
    registry.point(store, OLD, {}, 3, withdraw=True)
    assert publish(OLD, FREE, store, 3).compared is None


# --- what is decided


def test_a_model_that_has_not_met_the_gate_is_not_decided(store: Store) -> None:
    assert decided(NEW, FREE, store) is None  # there is none
    make_model(store, NEW)
    assert decided(NEW, FREE, store) is None  # not scored
    make_model(store, NEW, {"a": 1.0}, graph=False)
    assert decided(NEW, FREE, store) is None
    for worse in (1.0, 1e9):
        make_model(store, NEW, {"a": worse})
        assert decided(NEW, FREE, store) is None
    assert as_json(decided(OLD, FREE, store)) == {"version": OLD, "published": True, "previous": None}


def test_a_refusal_stands_while_the_gate_says_the_same(store: Store) -> None:
    make_model(store, NEW, {"a": 90.0, "b": 400.0})
    strict = Publish(margin=0.1)
    with pytest.raises(GateError) as error:
        publish(NEW, strict, store, 1)
    assert as_json(decided(NEW, strict, store)) == error.value.figures
    assert decided(NEW, FREE, store) is None  # it would be published
    assert decided(NEW, Publish(margin=0.2), store) is None  # it would be refused with other figures
    make_model(store, OLD, {"a": 100.0, "b": 300.0})
    assert decided(NEW, strict, store) is None


def test_a_withdrawn_version_is_decided_by_the_pointer_alone(store: Store) -> None:
    make_model(store, NEW, {"a": 1.0, "b": 1.0})
    publish(NEW, FREE, store, 1)
    card = registry.require_card(store, OLD)
    registry.point(store, OLD, card["digests"], 2, withdraw=True)
    figures = decided(NEW, FREE, store)
    assert isinstance(figures, Refused)
    assert figures.refused == {"why": f"{NEW}: was withdrawn by `batch-nst rollback`; not published"}
    with pytest.raises(GateError, match="was withdrawn"):
        publish(NEW, FREE, store, 3)
    assert mark_of(store, NEW) is None
    registry.point(store, NEW, {}, 3)
    assert as_json(decided(NEW, FREE, store)) == {"version": NEW, "published": True, "previous": OLD}


def test_a_pointer_of_version_0_1_0_has_withdrawn_nothing(store: Store) -> None:
    pointer = json.loads(store.read(registry.CURRENT))
    del pointer["withdrawn"]
    store.replace(registry.CURRENT, json.dumps(pointer).encode())
    make_model(store, NEW, {"a": 1.0, "b": 1.0})
    assert publish(NEW, FREE, store, 1).previous == OLD


# --- nights with nothing new


def test_a_published_night_is_finished_and_nothing_is_written(published: Night) -> None:
    recipe, store, version = published
    before = objects(store)
    figures = nightly.nightly(recipe)
    assert objects(store) == before
    assert (figures["nothing_new"], figures["version"], figures["published"]) == (True, version, True)
    assert "run" not in figures
    counts = {
        name: figures["dataset"][name] for name in ("photos", "found", "ok", "held_out", "made", "snapshot")
    }
    assert counts == {"photos": 3, "found": 3, "ok": 2, "held_out": 1, "made": 0, "snapshot": 1}


def test_a_refused_night_is_finished_and_says_why(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, store, version = night
    recipe = recipe.model_copy(update={"publish": Publish(max_objective=55.0)})
    with pytest.raises(GateError) as error:
        publish(version, recipe.publish, store, 0)
    before = objects(store)
    figures = nightly.nightly(recipe)
    assert objects(store) == before
    assert (figures["published"], figures["refused"]) == (False, error.value.figures["refused"])
    told = f"nothing new: 3 images, all in snapshot 1; {error.value}\n"
    assert capsys.readouterr().err == told


QUIET = """
import sys
from batch_nst.cli import main
try:
    main(["nightly", *sys.argv[1:]])
except SystemExit as end:
    print(end.code, sorted({"torch", "ray"} & sys.modules.keys()), file=sys.__stdout__)
"""


def test_a_night_with_nothing_new_imports_neither_torch_nor_ray(published: Night, file: Path) -> None:
    _, store, version = published
    before = objects(store)
    words = [sys.executable, "-W", "error", "-c", QUIET, str(file)]
    ran = subprocess.run(words, capture_output=True, text=True)
    figures, end = ran.stdout.splitlines()
    assert end == "0 []", ran.stderr
    assert ran.stderr == f"nothing new: 3 images, all in snapshot 1; published {version}\n"
    assert json.loads(figures)["exit_code"] == 0
    assert objects(store) == before


def is_finished(recipe: Recipe, retry: bool = False) -> bool:
    store = Store(recipe.output)
    before = objects(store)
    found, _ = find_finished(recipe, store, retry)
    assert objects(store) == before
    return found is not None


def test_what_is_left_to_do_makes_a_night(night: Night, file: Path) -> None:
    recipe, store, version = night
    assert not is_finished(recipe)  # not published yet
    publish(version, recipe.publish, store, 0)
    assert is_finished(recipe)
    assert not is_finished(load_recipe(file, ["train.steps=7"]))  # another model
    assert not is_finished(load_recipe(file, ["loss.style_weight=51.0"]))  # of another objective
    assert not is_finished(load_recipe(file, ["generate.crops=2"]))  # more images
    assert not is_finished(load_recipe(file, ["quality.min_change=30.0"]))  # other pairs
    with pytest.raises(RecipeError, match="choose another output"):
        is_finished(load_recipe(file, ["generate.image_size=64"]))


def test_a_night_that_owes_a_report_is_not_finished(published: Night) -> None:
    recipe, store, version = published
    owed = registry.model_object(version, UNREPORTED)
    store.replace(owed, b"")
    assert not is_finished(recipe)
    store.delete(owed)
    assert is_finished(recipe)


def test_a_new_photo_a_gone_one_and_one_to_forget_make_a_night(published: Night, file: Path) -> None:
    recipe, store, _ = published
    photo = add_photo(file)
    found, plan = find_finished(recipe, store)
    assert found is None
    assert plan is not None
    assert (plan.to_do, plan.found) == (1, 4)
    photo.unlink()
    assert is_finished(recipe)
    held = (file.parent / "photos" / "1.png").rename(file.parent / "1.png")
    assert not is_finished(recipe)
    held.rename(file.parent / "photos" / "1.png")
    assert is_finished(recipe)
    identity = plan.written.rows["id"][0].as_py().hex()
    write_request(store, {"ids": [identity], "pairs": []})
    assert not is_finished(recipe)


def test_what_was_deleted_by_hand_makes_a_night(published: Night) -> None:
    recipe, store, _ = published
    first = [store.list(folder)[0] for folder in ("dataset/data", "dataset/snapshots")]
    for name in (SUMMARIES, *first, registry.CURRENT):
        data = store.read(name)
        store.delete(name)
        assert not is_finished(recipe), name
        store.replace(name, data)
        assert is_finished(recipe), name


@pytest.mark.parametrize("status", ["failed", "rejected"])
def test_more_bad_photos_than_are_allowed_are_told_by_every_night_and_failed_ones_tried_with_retry(
    file: Path, status: str
) -> None:
    make_pairs(load_recipe(file))
    add_photo(file)
    make_pairs(load_recipe(file), status=status)
    recipe, store, version = finish(file, {"a": 1.0})
    publish(version, recipe.publish, store, 0)
    assert not is_finished(recipe)  # one of four is more than generate.max_rejected
    allowed = load_recipe(file, ["generate.max_rejected=0.25"])
    assert is_finished(allowed)
    assert is_finished(allowed, retry=True) is (status == "rejected")
