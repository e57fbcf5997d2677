"""Workers and machines that are lost again and again: a unit to blame is given up, a machine blames none."""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from batch_nst.data.dataset.records import PhotoRecord
from batch_nst.data.images.codec import Pixels
from batch_nst.data.models.files import ModelFiles
from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.model_io import model_bytes
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.errors import IncompleteError
from batch_nst.figures import as_json
from batch_nst.pipelines.apply import actors as apply_actors
from batch_nst.pipelines.apply.run import ApplyFigures, apply
from batch_nst.pipelines.apply.tasks import PictureRecord, stylize_picture
from batch_nst.pipelines.cluster.crash_counter import CrashCounter
from batch_nst.pipelines.generate import actors
from batch_nst.pipelines.generate.decode import Attempt
from batch_nst.pipelines.generate.run import generate
from batch_nst.pipelines.generate.stylizer import Stylizer
from batch_nst.recipe import Recipe
from tests.support.photo_bucket import Bucket, fill
from tests.support.ray_nodes import joined, machines, small_ray

pytestmark = pytest.mark.slow


@pytest.fixture
def local_ray() -> Iterator[None]:
    with small_ray():
        yield


def deadly(names: tuple[str, ...]) -> type:
    """A `Stylizer` whose optimiser ends the worker at some photos, as a fault in a driver of CUDA does."""

    class Deadly(Stylizer):
        _objectives: Any = SimpleNamespace(load=lambda: None)
        batch = 4

        def _optimised(self, photos: Sequence[PhotoRecord], *_: object) -> list[PhotoRecord]:
            if any(photo.uri.endswith(names) for photo in photos):
                os.kill(os.getpid(), signal.SIGKILL)
            losses = dict.fromkeys(("content_loss", "style_loss", "total_loss"), 1.0)
            return [
                replace(photo, **losses, stylized=photo.content, init="content", engine="deadly")
                for photo in photos
            ]

    return Deadly


def run(folder: Path, photos: tuple[str, ...], retry: bool = False, **changes: Any) -> dict[str, Any]:
    document = Bucket(str(folder), 0).recipe("out", **{"max_rejected": 1.0, **changes})
    given = Recipe.model_validate({**document, "loss": {"content_layers": {"relu1_1": 1.0}}})
    store = Store(given.output)
    with pytest.MonkeyPatch.context() as patch, acquire(store, "generate") as lease:
        patch.setattr(actors, "stylize_units", partial(actors.stylize_units, stylizer=deadly(photos)))
        return as_json(generate(given, store, lease, retry))


def counts(figures: dict[str, Any]) -> tuple[int, ...]:
    return tuple(figures[name] for name in ("tried", "made", "failed", "pending"))


@pytest.mark.usefixtures("local_ray")
def test_a_photo_that_ends_every_worker_fails_with_its_unit_and_can_be_told_from_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(Store(str(tmp_path)), 6)
    figures = run(tmp_path, ("003.png",))
    assert counts(figures) == (6, 4, 2, 0)
    assert figures["reasons"] == {"worker_died": 2}
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert len(told) == 2
    assert all(
        f"photos/00{number}.png: worker_died: its unit has ended 3 workers" in line
        for number, line in zip((2, 3), sorted(told), strict=True)
    )
    assert counts(run(tmp_path, ("003.png",), retry=True, unit_images=1)) == (2, 1, 1, 0)
    assert counts(run(tmp_path, (), retry=True)) == (1, 1, 0, 0)


@pytest.mark.chaos
@pytest.mark.usefixtures("local_ray")
def test_where_workers_die_at_one_unit_after_the_other_the_run_ends_and_leaves_the_rest(
    tmp_path: Path,
) -> None:
    fill(Store(str(tmp_path)), 8)
    with pytest.raises(IncompleteError, match=r"images are pending: workers died again and again at 3 units"):
        run(tmp_path, (".png",), unit_images=1, max_rejected=0.05)
    figures = run(tmp_path, ())
    assert (figures["failed"], figures["pending"]) == (8 - figures["made"], 0)
    assert 3 <= figures["failed"] < 8


@pytest.mark.chaos
def test_a_machine_that_is_lost_is_no_fault_of_what_it_worked_on(tmp_path: Path) -> None:
    """Three machines go, as often as a unit may end its worker; a fourth begins and finishes."""

    @ray.remote(num_cpus=1, max_retries=-1)
    def work(attempts: CrashCounter) -> int:
        with attempts("unit") as deaths:
            begun = len(list(tmp_path.iterdir()))
            (tmp_path / str(begun)).write_text(json.dumps(ray.get_runtime_context().get_node_id()))
            if begun < 3:
                time.sleep(3600)
            return deaths

    with machines(1) as found, joined(found):
        made = work.remote(CrashCounter())
        for lost in range(3):
            while len(list(tmp_path.iterdir())) <= lost:
                time.sleep(0.1)
            found.replace(found.nodes[0])
        assert ray.get(made) == 0
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 4


def deadly_actor(photos: tuple[str, ...]) -> type:
    """A `FastModelActor` that kills its worker at some photos, and leaves the others as they are."""

    class Deadly(apply_actors.FastModelActor):
        def stylize(self, record: PictureRecord, attempt: Attempt) -> PictureRecord:
            def model(pixels: Pixels) -> Pixels:
                if record.uri.endswith(photos):
                    os.kill(os.getpid(), signal.SIGKILL)
                return pixels

            return stylize_picture(record, lambda: model, self._blend, attempt)

    return Deadly


def paint_all(folder: Path, photos: tuple[str, ...]) -> ApplyFigures:
    torch.manual_seed(0)
    card = {"architecture": {"name": "johnson", "width": 4}}
    model = ModelFiles("v", card, model_bytes(TransformerNet(4)), "here")
    deadly = partial(apply_actors.stylize_photos, actor=deadly_actor(photos))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply_actors, "stylize_photos", deadly)
        patch.setattr("batch_nst.pipelines.apply.run.read_model", lambda _: model)
        return apply("model", str(folder / "photos"), str(folder / "painted"), "cpu", precision="fp32")


@pytest.mark.usefixtures("local_ray")
@pytest.mark.chaos
def test_a_picture_that_ends_every_painter_fails_alone(tmp_path: Path) -> None:
    fill(Store(str(tmp_path)), 6)
    with pytest.raises(IncompleteError, match="1 of 6 pictures were not stylized") as ended:
        paint_all(tmp_path, ("003.png",))
    figures = ended.value.figures
    assert (figures["made"], figures["failed"], figures["reasons"]) == (5, 1, {"worker_died": 1})
    assert paint_all(tmp_path, ()).made == 1


@pytest.mark.chaos
@pytest.mark.usefixtures("local_ray")
def test_where_painters_die_at_one_picture_after_the_other_the_command_ends(tmp_path: Path) -> None:
    fill(Store(str(tmp_path)), 5)
    with pytest.raises(IncompleteError, match="workers died again and again, at 3 pictures") as ended:
        paint_all(tmp_path, (".png",))
    figures = ended.value.figures
    assert (figures["ok"], figures["failed"], figures["reasons"]) == (0, 3, {"worker_died": 3})
