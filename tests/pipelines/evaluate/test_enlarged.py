"""Held-out photos at twice the size: cut from what lies in the input now, and never enlarged."""

import numpy as np
import pytest
from PIL import Image

from batch_nst.data.dataset.plan import survey
from batch_nst.data.images.codec import crop, decode_stored
from batch_nst.data.storage.store import Store
from batch_nst.pipelines.evaluate.enlarged import cut_enlarged
from batch_nst.recipe_file import load_recipe

RECIPE = """
output: out
style: {image: style.png, size: 32}
generate: {input: photos, image_size: 32, crops: 2, unit_images: 2, min_side: 16}
"""
SIZES = {"large": (80, 70), "exact": (64, 64), "short": (200, 63), "gone": (80, 80), "broken": (80, 80)}


@pytest.fixture
def home(tmp_path):
    (tmp_path / "photos").mkdir()
    chance = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        pixels = chance.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "style.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def recipe(home):
    return load_recipe(home / "recipe.yaml")


def planned(recipe) -> dict[tuple[str, int], str]:
    """Ids (hex) by name and crop, once they are written down."""
    store = Store(recipe.output)
    plan = survey(recipe, store).write_down(store)
    (table,) = plan.pending(store, ["key", "crop", "id", "unit"])
    return {(row["key"].removesuffix(".png"), row["crop"]): row["id"].hex() for row in table.to_pylist()}


def test_the_centres_of_photos_that_are_large_enough(home, recipe):
    (home / "photos" / "broken.png").write_bytes(b"no picture")
    ids = planned(recipe)
    (home / "photos" / "gone.png").unlink()
    larger = cut_enlarged(Store(recipe.output), list(ids.values()), 99, recipe.generate)
    assert larger.size == 64
    assert larger.left_out == {"not_an_image": 1, "too_small": 1, "vanished": 1}
    assert larger.pictures.keys() == {ids["large", 0], ids["exact", 0]}
    for name in ("large", "exact"):
        pixels = np.asarray(Image.open(home / "photos" / f"{name}.png"))
        assert (decode_stored(larger.pictures[ids[name, 0]]) == crop(pixels, 64)).all()


def test_no_more_are_read_than_are_wanted(home, recipe):
    ids = planned(recipe)
    (home / "photos" / "broken.png").write_bytes(b"no picture")
    order = [ids[name, number] for name in ("short", "large", "exact", "broken") for number in (0, 1)]
    larger = cut_enlarged(Store(recipe.output), order, 1, recipe.generate)
    assert list(larger.pictures) == [ids["large", 0]]
    assert larger.left_out == {"too_small": 1}


def test_an_image_that_nobody_planned_is_counted(recipe):
    planned(recipe)
    assert cut_enlarged(Store(recipe.output), ["00" * 16], 1, recipe.generate).left_out == {"unplanned": 1}
