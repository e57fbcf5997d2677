"""What the README and the way in show is run as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from batch_nst import __version__
from batch_nst.recipe_file import load_recipe
from tests.support.calls import Call
from tests.support.places import ROOT

README, START, WEIGHTS = (
    (ROOT / name).read_text() for name in ("README.md", "docs/getting_started.md", "docs/choosing_weights.md")
)
TINY = [
    "generate.image_size=32",
    "generate.iterations=2",
    "generate.crops=1",
    "style.size=32",
    "train.steps=3",
    "train.crop_size=32",
    "evaluate.iterations=2",
    "evaluate.sizes=[32]",
]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def shipped() -> list[list[str]]:
    """Commands on what is shipped, in the order of the way in; then the other ones."""
    lines = [line for text in (START, WEIGHTS) for block in blocks(text, "sh") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("batch-nst")]
    return [command for command in words if {"jobs/recipes/demo.yaml", "out/demo"} & {*command}]


def lines(text: str) -> list[list[str]]:
    """The words of each line of the shell blocks."""
    found = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in found if (words := shlex.split(line, comments=True))]


def test_what_the_installation_calls_is_on_the_path_by_then() -> None:
    (block,) = blocks(README[README.index("In a checkout") : README.index("Every photo is first")], "sh")
    programs = [words[0] for words in lines(f"```sh\n{block}```")]
    assert programs == ["make", ".", "batch-nst"]


@pytest.mark.parametrize(
    ("text", "output"), [(README, "s3://models/auvers"), (START, "{}/out/auvers")], ids=["README", "start"]
)
def test_the_recipe_is_one(text: str, output: str, tmp_path: Path) -> None:
    (recipe,) = blocks(text, "yaml")
    assert len(recipe.splitlines()) <= 5
    (tmp_path / "auvers.yaml").write_text(recipe)
    assert load_recipe(tmp_path / "auvers.yaml").output == output.format(tmp_path)


def test_it_is_read_at_one_go() -> None:
    assert len(README.split()) <= 900


def test_the_first_screen_has_gallery_recipe_and_commands() -> None:
    first = README[: README.index("## Start")]
    assert len(first.splitlines()) <= 40
    assert (ROOT / re.findall(r"!\[.*?\]\((.*?)\)", first)[0]).is_file()
    _, block = blocks(first, "sh")
    assert [shlex.split(line)[:2] for line in block.splitlines()] == [
        ["batch-nst", "nightly"],
        ["batch-nst", "apply"],
    ]


def test_every_page_is_in_its_index() -> None:
    linked = set(re.findall(r"\(docs/(\w+\.md)\)", README[README.index("## The pages") :]))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], citation["version"]) == ("batch_nst", __version__)


def test_it_ends_in_a_check_that_it_works() -> None:
    last = README.rstrip().removesuffix("```").rstrip().splitlines()[-1]
    assert last.startswith("assert ")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_recipe_and_the_python_snippet_run(ray_cluster: None, call: Call, tmp_path: Path) -> None:
    """All steps one by one on the shipped photographs, small; then the check, on what they have made."""
    commands = shipped()
    assert [command[1] for command in commands] == [
        *("plan", "generate", "train", "evaluate", "export", "nightly", "apply", "inspect", "try"),
    ]
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    for command in commands:
        more = [*TINY, "output=out/demo"] if "jobs/recipes/demo.yaml" in command else []
        ended = call(*command[1:], *more, folder=tmp_path)
        assert ended.code == 0, (command, ended.stderr)
    (tried,) = [words for words in lines(README) if words[:2] == ["batch-nst", "try"]]
    assert call(*tried[1:], *TINY[:4], folder=tmp_path).code == 0
    (check,) = blocks(README, "python")
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True)
