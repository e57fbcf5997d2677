"""Laws of the wheel: what commands take without being given any is in it, and it stays small."""

import tomllib
from pathlib import Path

from batch_nst.cli import parse
from batch_nst.data.models.files import zoo_names
from batch_nst.recipe_file import load_recipe
from tests.support.calls import Call
from tests.support.places import ROOT

PACKAGE = ROOT / "batch_nst"
SAMPLES = {path for path in (PACKAGE / "samples").rglob("*") if path.is_file()}
ZOO = {path for path in (PACKAGE / "zoo").rglob("*") if path.is_file()}
MOST_BYTES = 2 << 20


def test_every_sample_and_model_is_in_the_wheel_and_samples_are_small() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    globs = project["tool"]["setuptools"]["package-data"]["batch_nst"]
    assert {path for each in globs for path in PACKAGE.glob(each)} >= SAMPLES | ZOO
    assert sum(path.stat().st_size for path in SAMPLES) < MOST_BYTES


def test_benchmark_takes_what_is_shipped() -> None:
    options = parse(["benchmark"])
    assert len(SAMPLES & {*Path(options.images).glob("*.jpg")}) == 19
    assert [path.stem for path in sorted(SAMPLES & {*Path(options.styles).glob("*.jpg")})] == zoo_names()


def test_try_takes_what_is_shipped_where_no_recipe_is_named(call: Call, tmp_path: Path) -> None:
    small = ("generate.iterations=1", "generate.image_size=32", "style.size=32", "--photos", "1")
    ended = call("try", "loss.style_weight=1,2", *small, folder=tmp_path)
    assert ended.code == 0, ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["try.html"]
    recipe = load_recipe(PACKAGE / "samples" / "try.yaml")
    assert Path(str(recipe.generate.input)) / ended.figures["photos"][0] in SAMPLES
