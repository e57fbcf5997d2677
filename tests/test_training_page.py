"""docs/training.md says what the ablation does, and the shipped recipes are recipes."""

import re
from pathlib import Path

import pytest

from batch_nst.pipelines.arms import ARMS
from batch_nst.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "training.md").read_text()


def test_every_arm_is_in_the_table_in_its_order() -> None:
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    assert re.findall(r"`([\w-]+)`", " ".join(rows)) == list(ARMS)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "jobs" / "recipes").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_shipped_recipe_is_one(path: Path) -> None:
    recipe = load_recipe(path)
    assert Path(recipe.style.image).is_file()
    assert Path(recipe.output).parent == ROOT / "out"
