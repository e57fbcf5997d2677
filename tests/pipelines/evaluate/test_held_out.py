"""Laws of the photos that a model is scored on: the gate compares like with like, and few units are read."""

from pathlib import Path

import pytest
from PIL import Image

from batch_nst.data.dataset import units
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.models import registry
from batch_nst.data.models.holdout import choose_held_out
from batch_nst.data.sources.photos import key_hash
from batch_nst.data.storage.store import Store
from batch_nst.recipe import Recipe
from batch_nst.recipe_file import load_recipe
from tests.support.fake_night import begin, make_model, make_pairs

LATER = 40
KEPT = "000001-aaaaaaaaaaaa"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return begin(tmp_path)


def recipe_of(file: Path, photos: int = 3) -> Recipe:
    """All photos are held out, three to a unit, and so many are scored."""
    words = ["generate.unit_images=3", f"evaluate.photos={photos}", "evaluate.baseline_photos=1"]
    return load_recipe(file, [*words, "evaluate.holdout=1.0"])


def grow(file: Path) -> Snapshot:
    for number in range(3, LATER):
        Image.effect_noise((40, 40), 64).convert("RGB").save(file.parent / "photos" / f"{number}.png")
    return make_pairs(recipe_of(file), picture=b"later")


def choose(file: Path, snapshot: Snapshot, photos: int = 3) -> tuple[list[str], list[str]]:
    """The ids, and the units they lie in."""
    recipe = recipe_of(file, photos)
    rows, where = choose_held_out(Store(recipe.output), snapshot, recipe.evaluate)
    return [row.id for row in rows], where


def publish_scored(file: Path, ids: list[str], **more: object) -> None:
    store = Store(recipe_of(file).output)
    make_model(store, KEPT, dict.fromkeys(ids, 1.0))
    card = registry.require_card(store, KEPT)
    registry.write_card(store, KEPT, {**card, "evaluation": {**card["evaluation"], **more}})
    registry.point(store, KEPT, {}, 1)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Units that are read from now on."""
    found: list[str] = []
    read = Store.read

    def counted(store: Store, name: str) -> bytes:
        if name.startswith(units.DATA):
            found.append(name)
        return read(store, name)

    monkeypatch.setattr(Store, "read", counted)
    return found


def test_a_row_is_what_is_to_be_scored(file: Path) -> None:
    snapshot = make_pairs(recipe_of(file), picture=b"first")
    recipe = recipe_of(file)
    rows, where = choose_held_out(Store(recipe.output), snapshot, recipe.evaluate)
    assert [row.id for row in rows] == sorted((row.id for row in rows), key=key_hash)
    assert [row.baseline for row in rows] == [True, False, False]
    assert {Path(row.uri).name for row in rows} == {"0.png", "1.png", "2.png"}
    assert rows[0].name == f"{Path(rows[0].uri).name} {rows[0].id[:6]}"
    assert (rows[0].content, rows[0].stylized) == (b"first", b"first")
    assert rows[0].iterations == recipe.evaluate.iterations
    assert where == sorted(unit["unit"] for unit in snapshot.units)


def test_those_that_the_published_model_was_scored_on_are_taken_however_many_come(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, where = choose(file, make_pairs(recipe_of(file), picture=b"first"))
    publish_scored(file, ids, units=where)
    snapshot = grow(file)
    assert snapshot.counts["held_out"] == LATER
    read = reads(monkeypatch)
    assert choose(file, snapshot) == (ids, where)
    assert read == [units.unit_object(unit) for unit in where]
    more, places = choose(file, snapshot, 10)
    assert set(ids) < set(more)
    assert len(more) == 10
    assert set(where) < set(places)
    assert choose(file, snapshot, 2)[0] == ids[:2]


def test_without_a_published_model_few_units_are_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pairs(recipe_of(file), picture=b"first")
    snapshot = grow(file)
    read = reads(monkeypatch)
    ids, where = choose(file, snapshot, 7)
    assert len(ids) == 7
    assert len(read) <= 4 < len(snapshot.units)
    assert {units.unit_object(unit) for unit in where} <= set(read)
    assert choose(file, snapshot, 7) == (ids, where)
    assert set(choose(file, snapshot, 6)[0]) < set(ids)


def test_a_card_that_does_not_say_where_its_photos_lie_is_believed_all_the_same(file: Path) -> None:
    ids, where = choose(file, make_pairs(recipe_of(file), picture=b"first"))
    publish_scored(file, ids)
    assert choose(file, grow(file)) == (ids, where)


def test_what_was_scored_and_is_there_no_longer_is_replaced(file: Path) -> None:
    ids, where = choose(file, make_pairs(recipe_of(file), picture=b"first"))
    publish_scored(file, [*ids[:2], "0" * 32], units=[*where, "gone"])
    found, _ = choose(file, grow(file))
    assert len(found) == 3
    assert set(ids[:2]) < set(found)
