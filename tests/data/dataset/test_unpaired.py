"""Laws of photos without pairs: which they are, and where they stand in a training."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batch_nst.data.dataset import sampler, units
from batch_nst.data.dataset.manifest import SETTINGS, Holdout, split_of
from batch_nst.data.dataset.plan import Plan, survey
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.images.codec import encode
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError
from batch_nst.recipe_file import load_recipe
from tests.support.read_batches import drawn

KEYS = [f"{number}.jpg" for number in range(2000)]
PAIRS, ALONE = range(1, 8), range(101, 114)


def sides(**holdout: float) -> Counter[str]:
    settings: Holdout = {"fraction": 0.1, "photos": ["0.jpg"], "at_least": [], **holdout}
    return Counter(split_of(key, settings) for key in KEYS)


def test_a_part_of_the_photos_has_pairs_and_a_part_of_those_is_held_out() -> None:
    found = sides(below=0.25)
    assert found.total() == len(KEYS)
    assert found["unpaired"] == pytest.approx(0.75 * len(KEYS), rel=0.05)
    assert found["held_out"] == pytest.approx(0.025 * len(KEYS), rel=0.3)
    everything: Holdout = {"fraction": 0.1, "photos": [], "at_least": []}
    few: Holdout = {**everything, "below": 0.25}
    for key in KEYS:  # who has more pairs holds out those and further ones
        assert split_of(key, few) != "held_out" or split_of(key, everything) == "held_out"


def test_a_photo_that_is_named_is_held_out_whatever_its_hash_is() -> None:
    named = {"fraction": 0.0, "photos": [KEYS[0]], "at_least": [KEYS[1]], "below": 1e-9}
    assert [split_of(key, named) for key in KEYS[:3]] == ["held_out", "held_out", "unpaired"]


def planned(folder: Path, *overrides: str) -> tuple[Plan, Store]:
    if not (folder / "photos").exists():
        (folder / "photos").mkdir()
        for number in range(60):
            (folder / "photos" / f"{number}.png").write_text("nobody opens it")
        Image.new("RGB", (20, 16), "navy").save(folder / "style.png")
    (folder / "recipe.yaml").write_text(
        "output: out\nstyle: {image: style.png}\ngenerate: {input: photos, unit_images: 8}\n"
    )
    recipe = load_recipe(folder / "recipe.yaml", overrides)
    store = Store(recipe.output)
    return survey(recipe, store), store


def test_a_number_of_pairs_becomes_a_fraction_where_a_dataset_begins_and_stays_it(tmp_path: Path) -> None:
    plan, store = planned(tmp_path, "generate.pairs=15")
    plan = plan.write_down(store)
    assert json.loads(store.read(SETTINGS))["holdout"] | {"at_least": 0} == {
        "fraction": 0.05,
        "photos": [],
        "at_least": 0,
        "pairs": 15,
        "below": 0.25,
    }
    rows = plan.in_input.to_pylist()
    alone = [row for row in rows if row["unit"].endswith(units.UNPAIRED)]
    assert (len(rows), plan.unpaired) == (60, len(alone))
    assert 30 < len(alone) < 60
    assert max(Counter(row["unit"] for row in rows).values()) == 8
    for number in range(60, 100):
        (tmp_path / "photos" / f"{number}.png").write_text("new")
    more, _ = planned(tmp_path, "generate.pairs=15")
    assert more.settings == plan.settings
    assert more.unpaired - plan.unpaired == sum(
        more.split_of(f"{n}.png") == "unpaired" for n in range(60, 100)
    )
    omitted, _ = planned(tmp_path, "generate.pairs=15")
    assert omitted.settings["holdout"]["below"] == 0.25
    with pytest.raises(
        RecipeError, match=r"holdout\.pairs: the dataset in .* was started with 15, .* says 0\.5"
    ):
        planned(tmp_path, "generate.pairs=0.5")


def test_a_photo_is_held_out_even_where_few_have_pairs(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, "generate.pairs=1")
    found = Counter(plan.split_of(f"{number}.png") for number in range(60))
    assert found["held_out"] == 1
    assert len(plan.settings["holdout"]["at_least"]) == 1


def test_without_the_key_every_photo_has_a_pair_and_units_are_named_as_before(tmp_path: Path) -> None:
    plan, store = planned(tmp_path)
    assert plan.unpaired == 0
    rows = plan.write_down(store).in_input
    assert {len(name) for name in rows["unit"].to_pylist()} == {32}
    assert "pairs" not in plan.settings["holdout"]


@pytest.mark.parametrize("given", ["0", "-3", "1.5", "1.0", "many", "true"])
def test_what_is_neither_a_number_nor_a_fraction_is_refused_in_one_line(tmp_path: Path, given: str) -> None:
    planned(tmp_path)
    with pytest.raises(RecipeError) as refused:
        load_recipe(tmp_path / "recipe.yaml", [f"generate.pairs={given}"])
    (line,) = str(refused.value).splitlines()
    assert "generate.pairs: given" in line
    assert line.endswith("allowed: a whole number, 1 or more; or a fraction above 0 and below 1; or none")


# --- in a training


def picture(number: int) -> bytes:
    return encode(np.full((8, 8, 3), number, np.uint8), "png")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Snapshot]:
    """Seven pairs in three units, 13 photos without pairs in four."""
    monkeypatch.setattr(sampler, "WINDOW_UNITS", 2)
    monkeypatch.setattr(sampler, "PORTION", 6)
    store, entries = Store(str(tmp_path)), []
    kinds = [(numbers, ending) for numbers, ending in ((PAIRS, ""), (ALONE, units.UNPAIRED))]
    for kind, (numbers, ending) in enumerate(kinds):
        for first in range(0, len(numbers), 3 + kind):
            rows = [
                {
                    "id": bytes([number]) * 16,
                    "uri": f"{number}.png",
                    "split": "unpaired" if ending else "train",
                    "status": "ok",
                    "content": {"bytes": picture(number), "path": None},
                    "stylized": None if ending else {"bytes": picture(number + 50), "path": None},
                }
                for number in numbers[first : first + 3 + kind]
            ]
            summary = units.commit_unit(store, f"{first:032x}{ending}", rows, digest=f"{ending}{first}")
            entries.append({**summary, "left_out": 0})
    counts = {"ok": len(PAIRS), "unpaired": len(ALONE), "held_out": 0, "pending": 0}
    return store, Snapshot(1, 1, "digest", counts, entries, [])


def seen(dataset: tuple[Store, Snapshot], steps: int, start: int = 0, **share: float) -> list[list[int]]:
    """The numbers of each batch; what has a pair is checked."""
    found = []
    for batch in drawn(
        *dataset, sampler.Share(**{"seed": 3, "batch_size": 4, "unpaired": 0.5} | share), steps, start
    ):
        numbers = batch.content[:, 0, 0, 0].tolist()
        assert batch.paired == tuple(number in PAIRS for number in numbers)
        assert batch.optimised[:, 0, 0, 0].tolist() == [n + 50 if n in PAIRS else n for n in numbers]
        found.append(numbers)
    return found


@pytest.mark.parametrize(("part", "alone"), [(0.0, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_a_batch_has_its_part_and_a_pass_every_image_once(
    dataset: tuple[Store, Snapshot], part: float, alone: int
) -> None:
    batches = seen(dataset, 91, unpaired=part)
    assert {sum(number in ALONE for number in batch) for batch in batches} == {alone}
    for numbers in (PAIRS, ALONE):
        mine = [number for batch in batches for number in batch if number in numbers]
        passes = [mine[first : first + len(numbers)] for first in range(0, len(mine), len(numbers))]
        assert all(sorted(each) == [*numbers] for each in passes if len(each) == len(numbers))
        assert len(passes) < 3 or passes[0] != passes[1]


@pytest.mark.parametrize("start", [0, 1, 2, 5, 9, 23])
@pytest.mark.parametrize("part", [0.25, 0.5])
def test_a_resumed_training_sees_the_rest(dataset: tuple[Store, Snapshot], start: int, part: float) -> None:
    assert seen(dataset, start + 6, start, unpaired=part) == seen(dataset, start + 6, unpaired=part)[start:]


def test_batches_do_not_depend_on_the_number_of_workers(dataset: tuple[Store, Snapshot]) -> None:
    alone = seen(dataset, 12)
    halves = [seen(dataset, 12, rank=rank, world=2) for rank in range(2)]
    assert alone == [left + right for left, right in zip(*halves, strict=True)]
    assert all(sum(number in ALONE for number in batch) == 1 for half in halves for batch in half)  # even


def test_pairs_alone_come_in_the_order_that_they_had_before_there_were_photos_without(
    dataset: tuple[Store, Snapshot],
) -> None:
    store, snapshot = dataset
    only = Snapshot(1, 1, "digest", snapshot.counts, [unit for unit in snapshot.units if unit["ok"]], [])
    assert seen(dataset, 9, unpaired=0.0) == seen((store, only), 9, unpaired=0.5)


def test_photos_alone_are_enough(dataset: tuple[Store, Snapshot]) -> None:
    store, snapshot = dataset
    only = Snapshot(1, 1, "digest", snapshot.counts, [unit for unit in snapshot.units if not unit["ok"]], [])
    assert {number for batch in seen((store, only), 4, unpaired=0.5) for number in batch} <= {*ALONE}
