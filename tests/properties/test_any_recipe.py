"""Whatever a recipe's text is: a recipe, or a fault that names its key."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batch_nst.errors import RecipeError
from batch_nst.recipe import Recipe
from batch_nst.recipe_file import load_recipe
from tests.support.mutations import JSON, changed, damaged
from tests.support.places import ROOT

DEMO = (ROOT / "jobs" / "recipes" / "demo.yaml").read_bytes()
FULL = Recipe.model_validate(
    {
        "output": "/out",
        "style": {"image": "/a.jpg"},
        "generate": {"input": ["/a", "/b"], "stores": ["s3://a"]},
    }
).model_dump()
SECTIONS = [*FULL, "loss.tv_weight", "generate.input", "train.init", "nothing", ""]
KEYS = st.sampled_from([*FULL, *(key for value in FULL.values() if isinstance(value, dict) for key in value)])
SECTION = st.dictionaries(KEYS, JSON, max_size=5)
NESTED = st.dictionaries(KEYS | st.text(max_size=5), SECTION | JSON, max_size=8)
OVERRIDES = st.tuples(st.sampled_from(SECTIONS), JSON).map(lambda pair: f"{pair[0]}={pair[1]}")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes") / "recipe.yaml"


def check(file: Path, data: bytes, overrides: list[str] | None = None) -> str:
    """The faults, each a line that names the recipe or an override; empty where there are none."""
    file.write_bytes(data)
    try:
        recipe = load_recipe(file, overrides or [])
    except RecipeError as error:
        lines = str(error).split("\n")
        assert all(line.startswith((f"recipe {file}: ", "override ")) for line in lines), lines
        return str(error)
    assert isinstance(recipe, Recipe)
    return ""


@given(text=st.text(max_size=200) | st.text("{}[]:&*!|>-#%@,'\"\n 0aé\t", max_size=60))
def test_any_text(file: Path, text: str) -> None:
    assert check(file, text.encode())


@given(data=damaged([DEMO, yaml.safe_dump(FULL).encode()]) | st.binary(max_size=50))
def test_any_bytes(file: Path, data: bytes) -> None:
    check(file, data)


@given(document=NESTED)
def test_any_mapping(file: Path, document: dict[str, object]) -> None:
    told = check(file, yaml.safe_dump(document).encode())
    for key in ("output", "style.image", "generate.input"):
        if key.partition(".")[0] not in document:
            assert f"{key}: missing" in told


@given(document=changed(FULL))
def test_a_recipe_in_which_one_value_is_another(file: Path, document: dict[str, object]) -> None:
    told = check(file, yaml.safe_dump(document).encode())
    wrong = [key for key in FULL if repr(document.get(key)) != repr(FULL[key])]  # True is not 1.0
    faults = [line.removeprefix(f"recipe {file}: ").lstrip("'\"") for line in told.splitlines()]
    assert all(fault.startswith(wrong[0]) for fault in faults)


@given(override=st.text(max_size=40) | OVERRIDES)
def test_any_override(file: Path, override: str) -> None:
    check(file, DEMO, [override])
