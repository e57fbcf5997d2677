"""Laws of `models`, `rollback` and `prune`: what is listed, what is published, and what is never deleted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batch_nst.cli import parse
from batch_nst.data.models import registry
from batch_nst.data.models.gate import publish
from batch_nst.data.storage import lease
from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from batch_nst.errors import GateError, LeaseError, RecipeError, WeightsError
from batch_nst.figures import as_json
from batch_nst.pipelines import commands
from batch_nst.pipelines.models import list_models, prune, retention, rollback
from batch_nst.recipe import Publish
from batch_nst.recipe_file import load_recipe
from tests.support.fake_night import begin, make_model, make_pairs, objects

FIRST, SECOND, WORSE, HALF, THIRD = (
    "000001-aaaaaaaaaaaa",
    "000002-bbbbbbbbbbbb",
    "000002-cccccccccccc",
    "000002-dddddddddddd",
    "000003-eeeeeeeeeeee",
)
FREE = Publish()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and its output: three snapshots; three models published, one refused, one unfinished."""
    home = tmp_path_factory.mktemp("made")
    file = begin(home)
    for number in range(3):
        Image.effect_noise((40, 40), 64).convert("RGB").save(home / "photos" / f"more{number}.png")
        make_pairs(load_recipe(file), init="content" if number else f"model:{FIRST}@0123456789ab")
    store = Store(str(home / "out"))
    make_model(store, FIRST, {"a": 300.0})
    publish(FIRST, FREE, store, 0)
    make_model(store, SECOND, {"a": 200.0})
    publish(SECOND, FREE, store, 0)
    make_model(store, WORSE, {"a": 250.0})
    with pytest.raises(GateError):
        publish(WORSE, FREE, store, 0)
    store.replace(f"models/{HALF}/training/index.html", b"a page")
    store.replace(f"checkpoints/{HALF}/checkpoint_1/weights", b"half")
    make_model(store, THIRD, {"a": 100.0})
    publish(THIRD, FREE, store, 0)
    for run, version in (("20261122T0200Z-000001", FIRST), ("20261123T0200Z-000002", SECOND)):
        for step, started in (("nightly", "02:00"), ("evaluate", "01:00")):
            summary = {"version": version, "started": f"2026-11-{run[6:8]}T{started}:00Z"}
            store.replace(f"runs/{run}-{step}/summary.json", json.dumps(summary).encode())
    store.replace("runs/20261124T0200Z-000003-nightly/summary.json", b'{"started": "-", "error": "stopped"}')
    return home


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    """A copy of that output; the recipe lies beside it."""
    return Store(str(shutil.copytree(made, tmp_path, dirs_exist_ok=True) / "out"))


def current(store: Store) -> Any:
    pointer = registry.current(store)
    assert pointer is not None
    return pointer


def states(store: Store) -> dict[str, str]:
    return {model["version"]: model["state"] for model in as_json(list_models(store.uri))["models"]}


def back(store: Store, to: str | None = None) -> dict[str, Any]:
    with acquire(store, "rollback") as held:
        return as_json(rollback(store, held, to))


def clear(store: Store, keep: int) -> dict[str, Any]:
    with acquire(store, "prune") as held:
        return as_json(prune(store, keep, held))


# --- models


def test_models_are_listed_with_their_figures_and_nothing_is_written(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    before = objects(store)
    figures = as_json(list_models(store.uri))
    assert objects(store) == before
    assert figures["published"] == THIRD
    why = "objective 250 on held-out photos; published {} has 200, publish.margin 0; not published"
    why = why.format(SECOND)
    assert [tuple(model.values()) for model in figures["models"]] == [  # by snapshot and date
        (FIRST, 1, "2026-11-22T02:00:00Z", 1, 300.0, 1.25, 120, "scored", None),
        (WORSE, 2, None, 1, 250.0, 1.25, 120, "refused", f"{WORSE}: {why}"),
        (HALF, 2, None, None, None, None, None, "unfinished", None),
        (SECOND, 2, "2026-11-23T02:00:00Z", 1, 200.0, 1.25, 120, "previous", None),
        (THIRD, 3, None, 1, 100.0, 1.25, 120, "published", None),
    ]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["version", FIRST, WORSE, HALF, SECOND, THIRD]
    assert lines[1].split()[1:] == ["1", "2026-11-22", "02:00", "300", "1.25", "120", "scored"]
    assert lines[2].endswith(f"  refused: {why}")


def test_a_model_that_was_not_scored_is_trained(store: Store) -> None:
    make_model(store, "000003-0123456789ab")
    assert states(store)["000003-0123456789ab"] == "trained"


def test_an_output_without_models_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(begin(tmp_path))
    make_pairs(recipe)
    assert as_json(list_models(recipe.output)) == {"output": recipe.output, "published": None, "models": []}
    assert capsys.readouterr().err == "no model yet\n"
    with pytest.raises(RecipeError, match="no model is published here"):
        commands.rollback(recipe.output)
    assert as_json(commands.prune(recipe.output, keep=1)) == {"kept": {}, "to_delete": [], "deleted": []}


# --- rollback


def test_the_one_before_is_published_again_in_one_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, writes = objects(store), []
    replace = Store.replace

    def note(self: Store, name: str, data: bytes) -> None:
        writes.append(name)
        replace(self, name, data)

    with acquire(store, "rollback") as held:
        monkeypatch.setattr(Store, "replace", note)
        figures = as_json(rollback(store, held))
        monkeypatch.undo()
    assert writes == [registry.CURRENT]
    assert figures == {"version": SECOND, "previous": THIRD, "withdrawn": [THIRD]}
    assert {name for name, data in objects(store).items() if data != before[name]} == {registry.CURRENT}
    pointer = current(store)
    assert pointer == {
        **figures,
        "digests": registry.require_card(store, SECOND)["digests"],
        "token": held.token,
    }
    assert (states(store)[SECOND], states(store)[THIRD]) == ("published", "withdrawn")


def test_done_again_it_does_not_publish_what_was_withdrawn_unless_that_is_named(store: Store) -> None:
    back(store)
    with pytest.raises(RecipeError, match=f"no model to go back to: {THIRD}, .* is withdrawn; --to"):
        back(store)
    assert current(store)["version"] == SECOND
    figures = back(store, FIRST)
    assert figures == {"version": FIRST, "previous": SECOND, "withdrawn": [SECOND, THIRD]}
    assert back(store, FIRST) == figures
    assert back(store, THIRD) == {"version": THIRD, "previous": FIRST, "withdrawn": [FIRST, SECOND]}


def test_a_later_model_is_published_and_the_withdrawn_one_stays_so(store: Store) -> None:
    back(store)
    make_model(store, "000004-0123456789ab", {"a": 150.0})
    publish("000004-0123456789ab", FREE, store, 9)
    assert current(store)["withdrawn"] == [THIRD]
    with pytest.raises(GateError, match=f"{THIRD}: was withdrawn"):
        publish(THIRD, FREE, store, 9)


@pytest.mark.parametrize("version", [WORSE, HALF, "000009-aaaaaaaaaaaa", "../../etc"])
def test_only_a_model_that_was_scored_and_not_refused_can_be_published(store: Store, version: str) -> None:
    before = objects(store)
    with pytest.raises(RecipeError) as error:
        back(store, version)
    told = "cannot be published; allowed: --to a model that was scored and not refused"
    assert str(error.value) == f"{version}: {told}: {FIRST}, {SECOND}"
    assert objects(store) == before


@pytest.mark.parametrize("part", [registry.WEIGHTS, registry.GRAPH])
@pytest.mark.parametrize("data", [None, b"others"])
def test_a_damaged_model_is_not_published(store: Store, part: str, data: bytes | None) -> None:
    name = registry.model_object(SECOND, part)
    if data is None:
        store.delete(name)
    else:
        store.replace(name, data)
    with pytest.raises(WeightsError, match=f"{name}: {'is gone' if data is None else 'sha256 is'}"):
        back(store)
    assert current(store)["version"] == THIRD


def test_the_first_model_has_none_before_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    make_model(store, FIRST, {"a": 300.0})
    publish(FIRST, FREE, store, 0)
    with pytest.raises(RecipeError, match="no model to go back to: none was published before"):
        back(store)


def test_who_lost_the_lease_rolls_nothing_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with acquire(store, "rollback") as held:
        monkeypatch.setattr(lease, "_numbers", lambda _: [held.token + 1])
        with pytest.raises(LeaseError):
            rollback(store, held)
        monkeypatch.undo()
        registry.point(store, FIRST, {}, held.token + 1)
        with pytest.raises(LeaseError, match="published under lease"):
            rollback(store, held, SECOND)
    assert current(store)["version"] == FIRST


def test_the_command_leaves_its_figures(store: Store) -> None:
    figures = commands.rollback(store.uri)
    summary = json.loads(store.read(f"runs/{figures['run']}/summary.json"))
    assert (summary["command"], summary["version"], summary["withdrawn"]) == ("rollback", SECOND, [THIRD])


# --- prune


def test_first_it_only_tells(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: store.read(name) for name in store.list()}
    figures = as_json(commands.prune(store.uri, keep=1))
    assert figures == {
        "kept": {SECOND: "published before", THIRD: "published", FIRST: "pairs started from it"},
        "to_delete": [WORSE, HALF],
        "deleted": [],
    }
    assert {name: store.read(name) for name in store.list()} == before  # and no lease was taken
    lines = capsys.readouterr().err.splitlines()
    assert f"{FIRST}: stays: pairs started from it" in lines
    assert f"{HALF}: would be deleted, 2 objects" in lines
    assert lines[-1] == "nothing was deleted; --yes does it"


def test_then_it_deletes_whole_versions_and_nothing_else(store: Store) -> None:
    before = objects(store)
    figures = commands.prune(store.uri, keep=1, yes=True)
    assert (figures["to_delete"], figures["deleted"]) == ([], [WORSE, HALF])
    gone = {name for name in before if WORSE in name or HALF in name}
    assert len(gone) == 5
    summary = f"runs/{figures['run']}/summary.json"
    assert objects(store).keys() == before.keys() - gone | {summary}
    assert json.loads(store.read(summary))["deleted"] == [WORSE, HALF]
    assert as_json(commands.prune(store.uri, keep=1))["to_delete"] == []


def test_the_newest_stay_and_refused_ones_are_not_counted(store: Store) -> None:
    make_model(store, "000001-0123456789ab", {"a": 400.0})
    kept = prune(store, 3).kept
    assert kept[FIRST] == "one of the newest 3"  # it has a date, and the other none
    assert prune(store, 3).to_delete == ["000001-0123456789ab", WORSE, HALF]
    assert prune(store, 4).to_delete == [WORSE, HALF]


def test_a_recipe_says_how_many_stay_unless_the_caller_does(tmp_path: Path) -> None:
    recipe = begin(tmp_path)
    output = str(tmp_path / "out")
    assert retention(str(recipe), None) == (output, 10)
    recipe.write_text(f"{recipe.read_text()}publish: {{keep: 7}}\n")
    assert retention(str(recipe), None) == (output, 7)
    assert retention(str(recipe), 2) == (output, 2)
    assert retention(output, None) == (output, 10)
    assert retention("s3://models/auvers", 2) == ("s3://models/auvers", 2)


def test_prune_of_a_recipe_keeps_what_it_says(store: Store, tmp_path: Path) -> None:
    make_model(store, "000001-0123456789ab", {"a": 400.0})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{recipe.read_text()}publish: {{keep: 3}}\n")

    def would_go(*words: str) -> object:
        options = parse(["prune", *words])
        return options.run(options)["to_delete"]

    assert would_go(str(recipe)) == ["000001-0123456789ab", WORSE, HALF]
    assert would_go(str(recipe), "--keep", "4") == would_go(store.uri) == [WORSE, HALF]


def test_what_the_next_night_may_ask_for_stays(store: Store) -> None:
    refused, begun = "000003-0123456789ab", "000003-ba9876543210"
    make_model(store, refused, {"a": 500.0})
    with pytest.raises(GateError):
        publish(refused, FREE, store, 0)
    store.replace(f"checkpoints/{begun}/checkpoint_1/weights", b"half")
    kept = clear(store, 1)["kept"]
    assert kept[refused] == kept[begun] == "of the latest snapshot"
    assert store.exists(f"checkpoints/{begun}/checkpoint_1/weights")


def test_without_a_snapshot_nobody_knows_what_a_night_will_ask_for(store: Store) -> None:
    for name in store.list("dataset/snapshots"):
        store.delete(name)
    assert prune(store, 1).to_delete == []


def test_killed_on_the_way_there_is_no_half_model_and_the_next_start_ends_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = Store.delete

    def die(self: Store, name: str) -> None:
        if not name.startswith("lease/"):
            assert name == registry.model_object(WORSE, registry.CARD)
            delete(self, name)
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "delete", die)
    with pytest.raises(KeyboardInterrupt):
        clear(store, 1)
    monkeypatch.undo()
    assert states(store)[WORSE] == "unfinished"
    assert clear(store, 1)["deleted"] == [WORSE, HALF]
    assert states(store).keys() == {FIRST, SECOND, THIRD}


def test_who_lost_the_lease_deletes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = objects(store)
    with acquire(store, "prune") as held:
        monkeypatch.setattr(lease, "_numbers", lambda _: [held.token + 1])
        with pytest.raises(LeaseError):
            prune(store, 1, held)
        monkeypatch.undo()
    assert objects(store) == before
