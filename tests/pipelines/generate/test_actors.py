"""Laws of the pipeline of `generate`: when the driver hears of a unit, and when the actors go."""

import time
from pathlib import Path

import pytest
import ray.data

from batch_nst.data.dataset import units
from batch_nst.data.dataset.plan import survey
from batch_nst.data.dataset.records import UnitRecord
from batch_nst.data.images.style import read_style
from batch_nst.data.storage.store import Store
from batch_nst.pipelines.cluster.connect import Workers
from batch_nst.pipelines.cluster.rows import rows_at_once
from batch_nst.pipelines.generate.actors import stylize_units
from batch_nst.pipelines.generate.decode import never
from batch_nst.recipe import Recipe
from tests.support.fake_stylizer import negative
from tests.support.photo_bucket import Bucket, fill


def patient(heard: Path) -> type:
    """A `Stylizer` that begins a further unit when the driver has heard of the first, or much later."""

    class Patient:
        def __init__(self, *_: object) -> None:
            self._units = 0

        def __call__(self, unit: UnitRecord) -> UnitRecord:
            self._units += 1
            until = time.monotonic() + 30
            while self._units > 1 and not heard.exists() and time.monotonic() < until:
                time.sleep(0.05)
            return negative(unit)

    return Patient


@pytest.mark.usefixtures("ray_cluster")
def test_the_driver_hears_of_a_unit_before_the_next_is_made(tmp_path: Path) -> None:
    """And no actor is left after the last one, so that nodes may go while something else runs."""
    fill(Store(str(tmp_path)), 3)
    recipe = Recipe.model_validate(Bucket(str(tmp_path), 3).recipe("out", unit_images=1, actors=[1, 1]))
    store, heard = Store(recipe.output), tmp_path / "heard"
    plan = survey(recipe, store).write_down(store)
    outcomes = stylize_units(
        plan.chunks(),
        lambda key: "train",
        store,
        read_style(recipe.style),
        recipe,
        Workers("cpu", 1, 0, 1, 1),
        None,
        never,
        stylizer=patient(heard),
    )
    first = next(outcomes)
    done = units.done_units(store)
    assert free_cpus() < ray.cluster_resources()["CPU"]
    heard.touch()
    assert list(done) == [first.unit]
    assert len([first, *outcomes]) == 3
    while free_cpus() < ray.cluster_resources()["CPU"]:
        time.sleep(0.05)


@pytest.mark.usefixtures("ray_cluster")
def test_ray_shows_an_execution_by_its_command() -> None:
    dataset = ray.data.from_items([{"number": 1}])
    assert list(rows_at_once(dataset, "generate")) == [{"number": 1}]
    assert dataset.name == "batch_nst_generate"


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0)
