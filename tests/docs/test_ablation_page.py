"""docs/ablation.md says what the ablation does, and the shipped recipes are recipes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from batch_nst.pipelines.benchmark.ablation_arms import ARMS
from batch_nst.recipe_file import load_recipe
from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "ablation.md").read_text()
ANSWER = (ROOT / "docs" / "training.md").read_text()
MEASURED = [json.loads(line) for line in (ROOT / "docs" / "ablation.jsonl").read_text().splitlines()]


def test_every_arm_is_in_the_table_in_its_order() -> None:
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    assert re.findall(r"`([\w-]+)`", " ".join(rows)) == list(ARMS)


Study = tuple[str, int, int]
"""Painting, side of the pictures in px, minutes of an arm."""


def sections() -> dict[Study, str]:
    """What the page says of a study."""
    heading = r"^### [^\n]*`(\w+)`, (\d+) px, (\d+) minutes\n(.*?)(?=^##)"
    found = re.findall(heading, PAGE, re.MULTILINE | re.DOTALL)
    return {(style, int(size), int(minutes)): text for style, size, minutes, text in found}


def measured() -> dict[Study, dict[str, Any]]:
    """Arms by study, and X of the same machine and size."""
    best: dict[str, Any] = {}
    found: dict[Study, dict[str, Any]] = {}
    for line in MEASURED:
        style, name, *_ = line["name"].split()
        of_all_arms = f"{style} {line['machine']}"
        if curve := line["value"].get("curve"):
            study = style, line["machine"]["size"], round(curve[-1]["seconds"] / 60)
            found.setdefault(study, {"X": best[of_all_arms]})[name] = line["value"]
        else:
            best[of_all_arms] = line["value"]["X"]
    return found


def test_the_page_has_a_section_for_all_that_was_measured() -> None:
    assert sections().keys() == measured().keys()


@pytest.mark.parametrize("key", measured(), ids=str)
def test_the_page_has_the_figures_that_were_measured(key: Study) -> None:
    arms, text = measured()[key], sections()[key]
    best = arms.pop("X")
    for name, value in arms.items():
        (row,) = re.findall(rf"^\| {re.escape(ARMS[name].title)} \|(.*)", text, re.MULTILINE)
        _, _, steps, *cells = (cell.strip() for cell in row.split("|")[:-1])
        assert steps == str(value["steps"])
        last = value["curve"][-1]
        marks = [last[mark] / best[mark] for mark in ("objective", "content", "style")]
        # The checkerboard was not looked at from the beginning.
        marks += [last.get(mark) for mark in ("distance", "ssim", "checkerboard")]
        assert cells == ["–" if mark is None else f"{mark:.3g}" for mark in marks]


def test_the_answer_has_the_figures_that_were_measured() -> None:
    arms = measured()["kandinsky_composition_viii", 128, 10]
    rows = re.findall(r"^\| [^|]* \| `([\w-]+)` \|([^|]*)\|([^|]*)\|([^|]*)\|", ANSWER, re.MULTILINE)
    assert len(rows) == 5
    for name, *cells in rows:
        last, best = arms[name]["curve"][-1], arms["X"]
        ratios = [last[mark] / best[mark] for mark in ("objective", "content", "style")]
        assert [cell.strip() for cell in cells] == [f"{ratio:.3g}" for ratio in ratios]


def test_how_long_to_train_has_the_figures_that_were_measured() -> None:
    trained: list[str] = []
    for minutes in (20, 32, 68):
        arms = measured()["kandinsky_composition_viii", 128, minutes]
        training, best = arms["skip-mixed"], arms["X"]
        seen = training["steps"] * ARMS["skip-mixed"].train.batch_size
        last = training["curve"][-1]
        ratios = [f"{last[mark] / best[mark]:.3g}" for mark in ("objective", "content", "style")]
        trained.append(" | ".join([f"{training['seconds'] / 60:.0f}", f"{seen:,}", *ratios]))
    assert re.findall(r"^\| (\d+ \| [\d,]+ \| .*) \|$", ANSWER, re.MULTILINE) == trained


@pytest.mark.parametrize(
    "path", sorted((ROOT / "jobs" / "recipes").rglob("*.yaml")), ids=lambda path: path.stem
)
def test_a_shipped_recipe_is_one(path: Path) -> None:
    recipe = load_recipe(path)
    assert Path(recipe.style.image).is_file()
    assert ROOT / "out" in Path(recipe.output).parents
