"""With other defaults than commit 580efb4 had, its output still means what it meant."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.compatibility.test_compatibility import (
    CUT_OFF,
    EXPECTED,
    PREVIOUS,
    PUBLISHED,
    call,
    card,
    home,
    objects,
    pixels,
    states,
    without_ray,
)
from tests.support.later_defaults import LATER, default_of, later_defaults

__all__ = ["home", "without_ray"]


def test_each_of_these_is_another_default() -> None:
    assert {name: default_of(name) for name in LATER}.items() & LATER.items() == set()


def test_nothing_new_is_planned_and_no_night_finds_work(home: Path, without_ray: None) -> None:
    before = objects(home / "output")
    with later_defaults():
        assert call("plan", home / "recipe.yaml")["to_do"] == 0
        figures = call("nightly", home / "recipe.yaml")
    assert (figures["nothing_new"], figures["version"]) == (True, PUBLISHED)
    assert figures["dataset"]["digest"] == EXPECTED["snapshot"]
    assert objects(home / "output") == before


def test_a_key_that_is_written_and_differs_is_refused(home: Path, without_ray: None) -> None:
    with later_defaults():
        error = call("plan", home / "recipe.yaml", "generate.optimizer=adam", code=2)["error"]
    assert "generate.optimizer" in error


def test_models_are_inspected_painted_with_and_rolled_back_to(home: Path, without_ray: None) -> None:
    painted, words = home / "today.png", ("--precision", "fp32", "--device", "cpu")
    with later_defaults():
        assert call("inspect", home / "output", "--out", home / "page.html")["counts"]["ok"] == 8
        assert call("apply", home / "output", home / "photos" / "astronaut.jpg", painted, *words)["ok"] == 1
        assert call("rollback", home / "output")["version"] == PREVIOUS
    assert np.abs(pixels(painted) - pixels(home / "painted.png")).max() <= 1
    assert states(home / "output")[PREVIOUS] == "published"


@pytest.mark.slow
def test_the_training_that_was_cut_off_is_resumed(home: Path, ray_cluster: None) -> None:
    output = home / "output"
    (curve,) = (output / "checkpoints" / CUT_OFF).glob("*/history.json")
    history = json.loads(curve.read_text())
    history[0]["loss"] = 12345.0  # what only the checkpoint tells
    curve.write_text(json.dumps(history))
    overrides = ("train.device=cpu", *EXPECTED["overrides_of_cut_off"])
    with later_defaults():
        figures = call("train", home / "recipe.yaml", *overrides)
    assert (figures["version"], figures["steps"]) == (CUT_OFF, 12)
    model = card(output, CUT_OFF)
    assert model["architecture"] == {"name": "small", "width": 4}
    assert model["training"]["history"][: len(history)] == history
    assert model["training"]["history"][-1]["step"] == 12
    assert [path.name for path in (output / "checkpoints").iterdir()] == [CUT_OFF]
    assert states(output)[CUT_OFF] == "trained"
