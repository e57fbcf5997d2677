"""docs/recipe.md is what the code prints, and tells of every key."""

import importlib.util

from batch_nst.recipe import Recipe
from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "recipe.md").read_text()


def test_the_page_is_the_generated_one() -> None:
    spec = importlib.util.spec_from_file_location("recipe_reference", ROOT / "docs" / "recipe_reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == PAGE, "python docs/recipe_reference.py > docs/recipe.md"


def test_every_key_is_in_it() -> None:
    for name, field in Recipe.model_fields.items():
        keys = getattr(field.annotation, "model_fields", None)
        for key in [f"{name}.{key}" for key in keys] if keys else [name]:
            assert f"| `{key}` |" in PAGE
