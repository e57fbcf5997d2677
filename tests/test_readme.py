"""Every command and snippet that the README shows, run as it stands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from batch_nst.cli import parse
from batch_nst.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TINY = [
    "generate.image_size=32",
    "generate.iterations=2",
    "generate.crops=1",
    "style.size=32",
    "train.steps=3",
    "train.crop_size=32",
    "train.width=4",
    "evaluate.iterations=2",
    "evaluate.sizes=[32]",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("batch-nst")]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_is_understood(command):
    assert parse(command[1:]).command == command[1]


def test_the_recipe_is_one(tmp_path):
    (recipe,) = blocks("yaml")
    (tmp_path / "auvers.yaml").write_text(recipe)
    assert load_recipe(tmp_path / "auvers.yaml").output == "s3://models/auvers"


def test_make_knows_the_targets():
    targets = [
        line.split()[1] for block in blocks("sh") for line in block.splitlines() if line[:5] == "make "
    ]
    assert targets == ["demo", "test"]
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_every_key_and_default_is_in_the_table():
    table = README[README.index("| key | default") : README.index("What decides pixels")]
    for name, field in Recipe.model_fields.items():
        if name == "output":
            assert "`output`" in table
            continue
        for key in field.annotation.model_fields:
            assert re.search(rf"`({name}\.)?{key}`", table), f"{name}.{key}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_recipe_and_the_python_snippet_run(tmp_path):
    """All steps one by one on the shipped photographs, small; then the snippet, on what they have made."""
    shipped = [
        command for command in commands() if "jobs/recipes/demo.yaml" in command or "out/demo" in command
    ]
    assert [command[1] for command in shipped] == [
        *("plan", "generate", "train", "evaluate", "export", "nightly", "apply", "inspect", "try"),
    ]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": "local",
    }
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    for command in shipped:
        more = [*TINY, "output=out/demo"] if "jobs/recipes/demo.yaml" in command else []
        done = subprocess.run(
            [sys.executable, "-m", "batch_nst", *command[1:], *more],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (command, done.stderr)
    snippet, _ = blocks("python")
    subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, env=environment, check=True)
