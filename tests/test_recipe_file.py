"""Laws of the recipes that `batch-nst try` compares: which they are, and which calls are refused at once."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batch_nst.errors import RecipeError
from batch_nst.recipe_file import load_recipe, read_variants
from tests.support.places import ROOT

DEMO = ROOT / "jobs" / "recipes" / "demo.yaml"


def values(*overrides: str) -> list[dict[str, Any]]:
    return [variant.values for variant in read_variants(DEMO, overrides)]


def test_each_value_makes_the_recipe_that_it_makes_alone() -> None:
    variants = read_variants(DEMO, ["train.steps=7", "loss.style_weight=10,1e2,1000", "output=/tmp/x"])
    assert [variant.recipe for variant in variants] == [
        load_recipe(DEMO, ["train.steps=7", f"loss.style_weight={value}", "output=/tmp/x"])
        for value in ("10", "1e2", "1000")
    ]
    assert [str(variant) for variant in variants] == [
        f"loss.style_weight={value}" for value in ("10", "1e2", "1000")
    ]


def test_two_keys_make_all_pairs_the_last_one_fastest() -> None:
    assert values("style.size=64,96", "generate.iterations=5", "loss.tv_weight=0, 1") == [
        {"style.size": size, "loss.tv_weight": weight} for size in (64, 96) for weight in (0.0, 1.0)
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("loss.style_layers={relu1_2: 1},{relu2_2: 2}", [{"relu1_2": 1}, {"relu2_2": 2}]),
        ("loss.style_layers.relu1_2=0,1", [0, 1]),
        ("style.image='/a,b.jpg',/c.jpg", ["/a,b.jpg", "/c.jpg"]),
        ("style.image=s3://a/b.jpg,s3://a/c d.jpg", ["s3://a/b.jpg", "s3://a/c d.jpg"]),
        ("generate.optimizer=lbfgs,adam", ["lbfgs", "adam"]),
        ("generate.image_size=64,96,", [64, 96]),
        (
            "vgg={input: oxford},{weights: s3://w, input: torchvision}",
            [{"weights": "bundled", "input": "oxford"}, {"weights": "s3://w", "input": "torchvision"}],
        ),
    ],
)
def test_values_are_what_a_yaml_list_may_hold(override: str, expected: list[Any]) -> None:
    key = override.partition("=")[0]
    assert values(override) == [{key: value} for value in expected]


@pytest.mark.parametrize(
    "single",
    [
        "generate.input=[/a.jpg, /b.jpg]",
        "generate.input=/photos/[ab]*.jpg",
        "generate.input='/a,b.jpg'",
        "generate.actors=[1,2]",
    ],
)
def test_of_other_keys_one_value_is_given_as_ever(single: str) -> None:
    variants = read_variants(DEMO, [single, "loss.style_weight=1,2"])
    assert {len(variant.given) for variant in variants} == {1}
    assert variants[0].recipe.generate == load_recipe(DEMO, [single]).generate


@pytest.mark.parametrize(
    "key", ["output", "train.steps", "quality.min_change", "generate.input", "generate.init", "generate", ""]
)
def test_a_key_that_decides_no_pixels_is_refused(key: str) -> None:
    told = f"{key}: given 2 values; allowed: several of loss.*, style.*, vgg.*, generate.image_size, "
    with pytest.raises(RecipeError, match=f"^{re.escape(told)}"):
        values(f"{key}=1,2")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([], "no key with several values; allowed: of one key or two, such as loss.style_weight=10,100,1000"),
        (["loss.style_weight=10"], "no key with several values"),
        (["loss.style_weight=[10,20]"], "no key with several values"),
        (
            ["loss.style_weight=1,2", "loss.tv_weight=1,2", "style.size=32,64"],
            "several values of loss.style_weight, loss.tv_weight, style.size; allowed: of one key or two",
        ),
        (
            ["loss.style_weight=10,10.0"],
            "loss.style_weight=10 and loss.style_weight=10.0: are one and the same recipe",
        ),
        (["loss.style_weight=10,20", "loss.style_weight=5"], "are one and the same recipe"),
        (["loss.style_weight=10,many"], "loss.style_weight: given 'many'; allowed: a number"),
        (
            ["loss.style_weight=10,,20", "style.size=32,64"],
            "loss.style_weight: given '10,,20'; allowed: a number",
        ),
        (["loss.stile_weight=10,20"], "loss.stile_weight: unknown key; allowed here: "),
        (["loss.style_layers.relu9_9=0,1"], "no layer 'relu9_9'"),
        (["loss.style_weight=1,2", "train.step=1"], "train.step: unknown key"),
        (["loss.style_weight=1,2", "loss.tv_weight"], "override 'loss.tv_weight': allowed: key=value"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(overrides: list[str], told: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        values(*overrides)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


REFUSED = """
import sys
from batch_nst.cli import main
try:
    main(["try", *sys.argv[1:]])
except SystemExit as end:
    print(end.code, sorted({"torch", "ray", "pyarrow", "PIL"} & sys.modules.keys()), file=sys.__stdout__)
"""


def test_a_wrong_value_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", REFUSED, str(DEMO), "loss.style_weight=10,-1", f"output={tmp_path}/out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.splitlines()[-1] == "2 []"
    told = f"recipe {DEMO}: loss.style_weight: given -1; allowed: 0 or more"
    assert ran.stderr == f"batch-nst try: {told}\n"
    assert list(tmp_path.iterdir()) == []
