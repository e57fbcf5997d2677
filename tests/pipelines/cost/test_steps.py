"""Laws of what the steps of a night take: the work of a recipe by hand, and rates of runs and of a trial."""

import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batch_nst.data.images.style import read_style
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError
from batch_nst.pipelines import commands
from batch_nst.pipelines.cost.estimate import UNKNOWN
from batch_nst.pipelines.cost.step_trial import pair_rate, step_rates
from batch_nst.pipelines.cost.steps import (
    StepCost,
    StepCosts,
    StepRates,
    Work,
    last_step_rates,
    step_costs,
    step_lines,
    work_of,
)
from batch_nst.pipelines.objective import Objectives
from batch_nst.recipe import Recipe
from batch_nst.recipe_file import load_recipe
from tests.support.places import PAINTING, ROOT

OLD = ROOT / "tests" / "compatibility" / "made_by_580efb4"
NIGHT = "20261128T181800Z-000002-nightly"


def recipe_of(output: Path, photos: Path, **sections: Any) -> Recipe:
    generate = {"input": str(photos), "image_size": 32, "iterations": 9, **sections.pop("generate", {})}
    document = {"output": str(output), "style": {"image": str(PAINTING), "size": 32}, "generate": generate}
    return Recipe.model_validate({**document, **sections})


# --- the work


def test_the_work_of_a_recipe_by_hand(tmp_path: Path) -> None:
    recipe = recipe_of(
        tmp_path / "out",
        tmp_path / "photos",
        generate={"image_size": 64},
        train={"steps": 5, "batch_size": 2, "crop_size": 32, "crop_until": 0.6},
        evaluate={"iterations": 29, "baseline_photos": 2, "larger_photos": 8, "sizes": [32, 128]},
    )
    assert work_of(recipe, images=7, scored=3) == Work(
        pairs=7 * 10 * 64**2,
        training=3 * 2 * 32**2 + 2 * 2 * 64**2,
        scoring=3 * 30 * 64**2 + 3 * (9 + 1) * 128**2 + 8 * (32**2 + 128**2),
        baseline=3 * 30 * 64**2,  # two photos, and one of them from noise
    )


def test_whole_pictures_count_where_crops_would_be_larger(tmp_path: Path) -> None:
    whole = recipe_of(tmp_path / "out", tmp_path / "photos")
    assert work_of(whole, 0, 0).training == 4000 * 8 * 32**2


# --- costs

WORK = Work(pairs=0, training=3600.0, scoring=7200.0, baseline=1800.0)
RATES = StepRates("run x", training=2.0, scoring=1.0, baseline=4.0)
PAIRS = StepCost(5.0, 2.5, 50.0)


def test_costs_are_work_times_rates_and_their_sum() -> None:
    assert step_costs(WORK, RATES, PAIRS, scorers=2, trainers=4, price=10.0) == StepCosts(
        pairs=PAIRS,
        training=StepCost(2.0, 0.5, 20.0),
        scoring=StepCost(4.0, 2.0, 40.0),
        in_all=StepCost(11.0, 5.0, 110.0),
        rates_from="run x",
    )


def test_what_nobody_measured_is_unknown_and_so_is_the_sum() -> None:
    costs = step_costs(WORK, replace(RATES, training=None), PAIRS, scorers=2, trainers=4)
    unknown = StepCost(None, None, None)
    assert (costs.training, costs.in_all) == (unknown, unknown)
    assert costs.scoring.hours == 2.0
    shown = step_lines(costs, UNKNOWN)
    assert shown[1] == f"      training {UNKNOWN}"
    assert shown[2] == "       scoring 2.00 hours"


def test_what_is_done_costs_nothing_though_nobody_measured_it() -> None:
    free = StepCost(0.0, 0.0, 0.0)
    costs = step_costs(Work(0, 0, 0, 0), None, free, scorers=1, trainers=1, price=3.0)
    assert asdict(costs.in_all) == {"device_hours": 0.0, "hours": 0.0, "price": 0.0}


# --- rates of the last runs


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An output of an earlier version, with two nights in it."""
    copy = Path(shutil.copytree(OLD, tmp_path / "made"))
    modified = json.loads((OLD / "expected.json").read_text())["modified"]
    for photo in (copy / "photos").iterdir():
        os.utime(photo, ns=(modified, modified))
    return copy / "output"


def test_the_rates_of_a_night_give_its_own_time_again(home: Path) -> None:
    rates = last_step_rates(Store(str(home)))
    summary = json.loads((home / "runs" / NIGHT / "summary.json").read_text())
    card = json.loads((home / "models" / summary["version"] / "model.json").read_text())
    work = work_of(Recipe.model_validate(card["recipe"]), 0, summary["photos"])
    costs = step_costs(work, rates, StepCost(0.0, 0.0, None), scorers=1, trainers=1)
    took = summary["cost"]["step_seconds"]
    assert rates is not None
    assert rates.source == f"run {NIGHT}"
    assert costs.training.hours == pytest.approx(
        summary["steps"] / summary["pace"]["steps_per_second"] / 3600
    )
    assert costs.scoring.hours == pytest.approx(took["scoring"] / 3600)


def test_the_latest_run_of_a_step_counts_and_the_others_are_filled_from_earlier_ones(home: Path) -> None:
    store = Store(str(home))
    night = last_step_rates(store)
    summary = json.loads((home / "runs" / NIGHT / "summary.json").read_text())
    later = {"run": "99999999T-train", "version": summary["version"], "seconds": 7.0}
    later["pace"] = {"steps_per_second": summary["pace"]["steps_per_second"] / 2}
    store.replace("runs/99999999T-train/summary.json", json.dumps(later).encode())
    store.replace("runs/99999999T-export/summary.json", json.dumps({"error": "no model"}).encode())
    rates = last_step_rates(store)
    assert night is not None
    assert night.training is not None
    assert rates == replace(night, source="run 99999999T-train", training=2 * night.training)


def test_without_a_run_there_are_no_rates(tmp_path: Path) -> None:
    assert last_step_rates(Store(str(tmp_path))) is None


# --- a trial


def test_a_trial_measures_every_step_here(tmp_path: Path) -> None:
    recipe = recipe_of(
        tmp_path / "out", tmp_path / "photos", train={"width": 4, "batch_size": 2}, evaluate={"sizes": []}
    )
    objectives = Objectives.of_recipe(recipe, read_style(recipe.style), "cpu", 1)
    rates = step_rates(recipe, objectives, objectives, 1)
    assert min(rates.training or 0, rates.scoring or 0, rates.baseline or 0) > 0
    assert pair_rate(objectives, 32, 2) > 0


# --- what a plan says of them


def photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.effect_noise((70, 70), 64).convert("RGB").save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("count", "train", "told"),
    [
        (
            5,
            {},
            "train.batch_size: given 8; the input has at most 4 pairs to train on; allowed: that many or ",
        ),
        (1, {"batch_size": 1}, "the input has at most 0 pairs to train on; allowed: more photos"),
    ],
)
def test_a_plan_says_now_what_train_would_refuse(
    tmp_path: Path, count: int, train: dict[str, int], told: str
) -> None:
    recipe = recipe_of(tmp_path / "out", photos(tmp_path / "photos", count), train=train)
    with pytest.raises(IncompleteError, match=told) as refused:
        commands.plan(recipe)
    assert isinstance(refused.value.figures, commands.PlanFigures)
    assert refused.value.figures.counts.to_do == count
    assert not (tmp_path / "out").exists()


def test_a_plan_that_nobody_refuses_says_so(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "out", photos(tmp_path / "photos", 5), train={"batch_size": 4})
    assert commands.plan(recipe).refused == []


def test_a_finished_night_has_nothing_left_to_do_and_nothing_is_tried(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "batch_nst.pipelines.cost.calibrate", None)  # which would import Ray
    plan = commands.plan(load_recipe(home.parent / "recipe.yaml"), calibrate=True, price_per_device_hour=2.5)
    assert (plan.counts.to_do, plan.steps.in_all, plan.refused) == (0, StepCost(0.0, 0.0, 0.0), [])
