"""Laws of `batch-nst forget`: gone for good, nothing else touched, and the same after a kill anywhere."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch_nst.data.dataset import plan_files, units
from batch_nst.data.dataset.card import CARD
from batch_nst.data.dataset.forgotten import FORGOTTEN, digest_without
from batch_nst.data.dataset.manifest import write_settings
from batch_nst.data.dataset.snapshot import SNAPSHOTS, require_snapshot, seal, unit_pairs
from batch_nst.data.dataset.summaries import SUMMARIES, changes_of
from batch_nst.data.images.codec import encode
from batch_nst.data.models import registry
from batch_nst.data.sources.photos import photo_id
from batch_nst.data.storage import lease
from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from batch_nst.errors import LeaseError, RecipeError
from batch_nst.figures import as_json
from batch_nst.pipelines import commands
from batch_nst.pipelines.forget import forget
from batch_nst.recipe import Quality
from batch_nst.recipe_file import load_recipe
from tests.support import fake_night
from tests.support.fake_night import objects

SETTINGS = {"style": {"sha256": "5f" * 32}, "holdout": {"fraction": 0.1, "photos": [], "at_least": ["held"]}}
KEYS = ("anna", "bob", "held", "bad", "late")
VERSION, CUT_OFF = "000001-abcdef012345", "000001-0123456789ab"
RULES = Quality(max_deviation=9.0, min_change=0.5)


def image(key: str, crop: int = 0) -> str:
    """The id of an image, in hex."""
    return photo_id(key, "1", crop).hex()


def row(planned: dict[str, Any]) -> dict[str, Any]:
    """What was made of a planned image: a pair of two flat pictures, but for the photo that is bad."""
    about = {"id": planned["id"], "uri": planned["source"], "status": "ok"}
    about["split"] = "held_out" if planned["key"] == "held" else "train"
    if planned["key"] == "bad":
        return about | {"status": "rejected", "reason": "truncated", "detail": "anna.jpg ends early"}
    shade = planned["id"][0] // 2
    flat = (np.full((8, 8, 3), value, np.uint8) for value in (shade, shade + 20))
    content, stylized = ({"bytes": encode(each, "png"), "path": None} for each in flat)
    return about | {
        "content": content,
        "stylized": stylized,
        "content_loss": 1.0,
        "style_loss": 2.0,
        "total_loss": 100.0 + shade,
        "change": 20.0,
    }


def make(store: Store, unit: str) -> None:
    rows = [row(each) for each in plan_of(store).to_pylist() if each["unit"] == unit]
    digest = units.row_digest((each["id"], each["status"], b"", ()) for each in rows)
    units.commit_unit(store, unit, rows, digest)


def seal_as_generate(store: Store, token: int) -> Any:
    planned = plan_files.read_written(store).rows
    planned = planned.append_column("present", pa.array([True] * planned.num_rows))
    return seal(store, token, planned, {}, RULES)


def write_down(store: Store, rows: pa.Table, unit_images: int) -> pa.Table:
    table = plan_files.cut(rows, unit_images, attempt=0)
    plan_files.append_segments(store, [table], plan_files.read_written(store))
    return table


def plan_of(store: Store) -> pa.Table:
    return pa.concat_tables(
        plan_files.read_group(store, group) for group in plan_files.read_written(store).groups
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five photos of two crops in units of three, of which the last is pending; a model has seen the rest."""
    store = Store(str(tmp_path_factory.mktemp("made")))
    write_settings(store, SETTINGS)
    rows = [
        {"id": bytes.fromhex(image(key, crop)), "key": key, "source": f"s3://photos/{key}", "crop": crop}
        for key in KEYS
        for crop in range(2)
    ]
    plan = write_down(store, pa.Table.from_pylist(rows, schema=plan_files.PLAN_SCHEMA), 3)
    for unit in dict.fromkeys(plan["unit"].to_pylist()[:9]):
        make(store, unit)
    assert seal_as_generate(store, 1).counts["ok"] == 5
    evaluation = {"objectives": {image("held"): 9.0, image("held", 1): 9.0}}
    registry.write_card(store, VERSION, {"version": VERSION, "evaluation": evaluation})
    store.replace(registry.model_object(VERSION, registry.PREVIEW), b"sheet")
    registry.point(store, VERSION, {}, 1)
    store.replace(f"checkpoints/{CUT_OFF}/checkpoint_1/weights", b"half")
    store.replace("runs/one-nightly/summary.json", json.dumps({"version": VERSION}).encode())
    store.replace("runs/one-nightly/report.html", b"report")
    store.replace("runs/two-evaluate/summary.json", json.dumps({"version": "another"}).encode())
    store.replace("runs/two-evaluate/report.html", b"report")
    return store


def copy_to(path: Path, made: Store) -> Store:
    return Store(str(shutil.copytree(made.uri, path)))


@pytest.fixture
def store(made: Store, tmp_path: Path) -> Store:
    """A copy of it."""
    return copy_to(tmp_path / "out", made)


def run(store: Store, *words: str) -> dict[str, Any]:
    with acquire(store, "forget") as held:
        return as_json(forget(store, held, words))


def rows_of(store: Store) -> dict[str, dict[str, Any]]:
    done = sorted(units.done_units(store))
    return {row["id"].hex(): row for unit in done for row in units.read_unit(store, unit)}


def check_readers(store: Store) -> None:
    """The latest snapshot hands out what it counts."""
    snapshot = require_snapshot(store)
    for side, count in (("train", "ok"), ("held_out", "held_out")):
        for unit in snapshot.units:
            assert len(list(unit_pairs(store, snapshot, unit["unit"], side))) == unit[count]
        assert sum(unit[count] for unit in snapshot.units) == snapshot.counts[count]


# --- what is left


def test_of_a_photo_nothing_is_left_but_its_ids(store: Store) -> None:
    before = rows_of(store)
    first = require_snapshot(store)
    figures = run(store, image("anna"))
    named = {image("anna"), image("anna", 1)}
    assert (figures["photos"], set(figures["ids"]), figures["pairs"]) == (1, named, 2)
    after = rows_of(store)
    for identity, left in after.items():
        if identity in named:
            kept = {"id": bytes.fromhex(identity), "split": "train", "status": "forgotten"}
            assert left == dict.fromkeys(left) | kept
        else:
            assert left == before[identity]
    assert after.keys() == before.keys()
    snapshot = require_snapshot(store)
    assert (snapshot.number, snapshot.counts) == (2, {**first.counts, "ok": 3, "forgotten": 2})
    assert snapshot.digest != first.digest
    handed_out = [
        row for unit in snapshot.units for row in unit_pairs(store, snapshot, unit["unit"], "train")
    ]
    assert {row["uri"] for row in handed_out} == {"s3://photos/bob", "s3://photos/late"}
    assert snapshot.audit == {"planned": 10, "done": 9, "pending": 1, "gone": 0}
    check_readers(store)
    assert "| forgotten | 2 |" in store.read(CARD).decode()
    assert b"anna" not in store.read(f"{FORGOTTEN}/000001.json")


def test_a_unit_says_of_itself_what_it_is_now(store: Store) -> None:
    unit = plan_of(store)["unit"][0].as_py()  # anna twice, and a crop of bob
    before = units.read_summary(store, unit)
    run(store, image("anna"))
    after, rows = units.read_summary(store, unit), units.read_unit(store, unit)
    assert (before["ok"], after["ok"], after["forgotten"]) == (3, 1, 2)
    forgotten = [bytes.fromhex(image("anna", crop)) for crop in range(2)]
    assert after["digest"] == digest_without(before["digest"], forgotten) != before["digest"]
    assert after["ids"] == before["ids"]
    changes = changes_of(after, rows)
    assert changes.pop(bytes.fromhex(image("bob"))) == 20.0
    assert np.isnan(list(changes.values())).all()


def test_the_snapshot_before_the_units_were_rewritten_stays_the_latest(store: Store) -> None:
    run(store, image("anna"))
    sealed = require_snapshot(store)
    store.delete(SUMMARIES)
    assert seal_as_generate(store, 9) == sealed


def test_bad_and_held_out_photos_are_forgotten_too(store: Store) -> None:
    before = require_snapshot(store).counts
    figures = run(store, image("bad"), image("held"))
    assert (figures["photos"], figures["pairs"]) == (2, 2)
    assert (before["ok"], before["held_out"], before["rejected"]) == (5, 2, 2)
    assert require_snapshot(store).counts == {**before, "held_out": 0, "rejected": 0, "forgotten": 4}
    assert {row["detail"] for row in rows_of(store).values()} == {None}


def test_the_rules_of_the_last_snapshot_stay_in_force(store: Store) -> None:
    run(store, image("anna"))
    snapshot = require_snapshot(store)
    assert {name: snapshot.quality[name] for name in RULES.model_dump()} == RULES.model_dump()


def test_a_dataset_without_a_snapshot_gets_one(store: Store) -> None:
    for name in (f"{SNAPSHOTS}/000001.json", SUMMARIES, *store.list("models"), *store.list("checkpoints")):
        store.delete(name)
    assert run(store, image("anna"))["snapshot"] == 1
    counts = require_snapshot(store).counts
    assert (counts["ok"], counts["forgotten"]) == (3, 2)


# --- who has seen it


def test_models_and_files_that_have_seen_it_are_told(store: Store) -> None:
    kept = objects(store)
    figures = run(store, image("anna"))
    assert figures["models"] == [
        {"version": CUT_OFF, "splits": ["train"], "published": False},
        {"version": VERSION, "splits": ["train"], "published": True},
    ]
    assert figures["files"] == ["runs/one-nightly/report.html"]
    figures = run(store, image("held", 1))
    assert [model["splits"] for model in figures["models"]] == [["held_out"]] * 2
    assert figures["files"] == [f"models/{VERSION}/preview.jpg", "runs/one-nightly/report.html"]
    for name in (*store.list("models"), *store.list("runs"), *store.list("checkpoints")):
        assert store.read(name) == kept[name]


def test_the_panel_of_a_training_may_show_a_held_out_photo(store: Store) -> None:
    store.replace(f"models/{VERSION}/training/000010.jpg", b"a picture")
    log = f"models/{VERSION}/training"
    assert log not in run(store, image("anna"))["files"]
    assert log in run(store, image("held", 1))["files"]


def test_a_report_of_a_run_that_did_not_end_may_show_it(store: Store) -> None:
    store.replace("runs/three-nightly/report.html", b"killed before it said more")
    store.replace("runs/four-nightly/report.html", b"stopped")
    store.replace("runs/four-nightly/summary.json", b'{"error": "stopped by SIGTERM"}')
    reports = [f"runs/{run}-nightly/report.html" for run in ("four", "one", "three")]
    assert run(store, image("anna"))["files"] == reports
    assert run(store, image("bad"))["files"] == []


def test_a_model_of_a_later_snapshot_has_not_seen_it(store: Store) -> None:
    run(store, image("anna"))
    registry.write_card(store, "000002-abcdef012345", {})
    versions = {model["version"] for model in run(store, image("anna"))["models"]}
    assert versions == {CUT_OFF, VERSION}
    assert "000002-abcdef012345" in {model["version"] for model in run(store, image("bob"))["models"]}


def test_a_model_whose_snapshot_is_deleted_may_have_seen_it(store: Store) -> None:
    registry.write_card(store, "000003-abcdef012345", {})
    figures = run(store, image("anna"))
    splits = {model["version"]: model["splits"] for model in figures["models"]}
    assert splits == {CUT_OFF: ["train"], VERSION: ["train"], "000003-abcdef012345": ["unknown"]}


def test_a_photo_that_was_bad_was_seen_by_no_model(store: Store) -> None:
    figures = run(store, image("bad"))
    assert (figures["pairs"], figures["models"], figures["files"]) == (0, [], [])


# --- ids


def test_eight_digits_are_enough_and_case_does_not_matter(store: Store) -> None:
    assert set(run(store, image("bob")[:8].upper())["ids"]) == {image("bob"), image("bob", 1)}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("0123456789", "no image of .*out has this id"),
        ("f" * 32, "no image of .*out has this id"),
        (image("bob")[:7], "8 or more of its first digits"),
        (image("bob") + "0", "8 or more of its first digits"),
        ("anna.jpg", "8 or more of its first digits"),
    ],
)
def test_an_id_that_is_none_is_named_and_nothing_is_forgotten(store: Store, word: str, told: str) -> None:
    before = objects(store)
    with pytest.raises(RecipeError, match=f"ID '{word}': .*{told}"):
        run(store, image("anna"), word)
    assert objects(store) == before


def test_digits_of_several_images_are_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    write_settings(store, SETTINGS)
    twins = [bytes.fromhex("0123456789abcdef" + end * 16) for end in "0f"]
    rows = [{"id": twin, "key": twin.hex()} for twin in twins]
    write_down(store, pa.Table.from_pylist(rows, schema=plan_files.PLAN_SCHEMA), 2)
    with pytest.raises(RecipeError, match=f"2 images have such an id, among them {twins[0].hex()} and"):
        run(store, "0123456789abcdef")
    assert run(store, "0123456789abcdeff")["ids"] == [twins[1].hex()]


def test_where_no_dataset_is_nothing_can_be_forgotten(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no dataset here"):
        run(Store(str(tmp_path)), image("anna"))


# --- again, later, and after a kill


def test_forgetting_again_changes_nothing_and_tells_the_same(store: Store) -> None:
    figures = run(store, image("anna"))
    before = objects(store)
    assert run(store, image("anna", 1)) == figures
    assert objects(store) == before


def test_a_photo_that_is_still_pending_is_taken_out_once_it_is_made(store: Store) -> None:
    figures = run(store, image("late"))  # one crop is made, one is not
    assert figures["pairs"] == 1
    make(store, plan_of(store)["unit"][9].as_py())
    snapshot = seal_as_generate(store, 9)
    assert (snapshot.counts["forgotten"], snapshot.counts["pending"]) == (2, 0)
    assert rows_of(store)[image("late", 1)]["stylized"] is None
    assert plan_of(store).num_rows == 10


def test_the_command_leaves_its_figures_and_gives_the_lease_back(store: Store) -> None:
    figures = commands.forget(store.uri, [image("anna")[:8]])
    summary = json.loads(store.read(f"runs/{figures['run']}/summary.json"))
    assert (summary["command"], summary["ids"], summary["pairs"]) == ("forget", figures["ids"], 2)
    with pytest.raises(RecipeError, match="no image of"):
        commands.forget(store.uri, ["0123456789"])
    assert commands.forget(store.uri, [image("anna")])["models"] == figures["models"]


class Killed(BaseException):
    """As by a signal that cannot be caught."""


def kill_at(monkeypatch: pytest.MonkeyPatch, request: int, after: bool) -> None:
    """Die at a request that writes, before or after it took effect; requests of the lease do not count."""
    left = request
    for name in ("create", "replace"):
        whole = getattr(Store, name)

        def die(store: Store, key: str, data: bytes, whole: Any = whole) -> Any:
            nonlocal left
            if key.startswith("lease/"):
                return whole(store, key, data)
            left -= 1
            if left == 0 and not after:
                raise Killed
            result = whole(store, key, data)
            if left == 0:
                raise Killed
            return result

        monkeypatch.setattr(Store, name, die)


REQUESTS = 6
"""What is to be forgotten, the snapshot, two units, the summaries, the card."""


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_request_it_ends_as_if_it_had_not_been(
    made: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    words = (image("anna"), image("bob", 1))
    whole = copy_to(tmp_path / "whole", made)
    expected, sealed = run(whole, *words), require_snapshot(whole)
    for request in range(1, REQUESTS + 2):
        store = copy_to(tmp_path / f"killed{request}", made)
        with monkeypatch.context() as patch:
            kill_at(patch, request, after)
            with pytest.raises(Killed) if request <= REQUESTS else contextlib.nullcontext():
                run(store, *words)
        check_readers(store)
        assert run(store, *words) == expected
        left, wanted = (
            {name: data for name, data in objects(each).items() if SNAPSHOTS not in name}
            for each in (store, whole)
        )
        assert left == wanted
        found = require_snapshot(store)
        assert (found.number, found.digest, found.units) == (sealed.number, sealed.digest, sealed.units)


def test_generate_ends_what_was_cut_off(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 1, after=True)
        with pytest.raises(Killed):
            run(store, image("anna"))
    assert rows_of(store)[image("anna")]["status"] == "ok"
    assert seal_as_generate(store, 9).counts["forgotten"] == 2
    assert rows_of(store)[image("anna")]["status"] == "forgotten"


def test_a_zombie_rewrites_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with acquire(store, "forget") as held:
        monkeypatch.setattr(lease, "_numbers", lambda _: [held.token + 1])
        monkeypatch.setattr(held, "check", lambda: None)
        with pytest.raises(LeaseError, match="another run took over"):
            forget(store, held, [image("anna")])
        monkeypatch.undo()
    assert rows_of(store)[image("anna")]["status"] == "ok"


def test_a_photo_without_a_pair_is_forgotten_and_the_model_that_learned_from_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(fake_night.begin(tmp_path), ["generate.pairs=0.01"])
    store, snapshot = Store(recipe.output), fake_night.make_pairs(recipe)
    fake_night.make_model(store, VERSION)
    alone = [
        row["id"].hex()
        for unit in units.done_units(store)
        for row in units.read_unit(store, unit)
        if row["split"] == "unpaired"
    ]
    assert len(alone) == snapshot.counts["unpaired"] > 0
    figures = as_json(commands.forget(store.uri, alone[:1]))
    assert figures["models"] == [{"version": VERSION, "splits": ["unpaired"], "published": False}]
    assert f"model {VERSION} was trained on them" in capsys.readouterr().err
    now = require_snapshot(store).counts
    assert (now["unpaired"], now["forgotten"]) == (len(alone) - 1, 1)
