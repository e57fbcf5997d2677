"""Laws of `batch-nst generate`, end to end on a small Ray: each photo once, and the same whatever happens."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import ray
import torch
from PIL import Image

from batch_nst.data.dataset import plan_files, units
from batch_nst.data.dataset.plan import survey
from batch_nst.data.dataset.records import StageSeconds, UnitOutcome
from batch_nst.data.dataset.snapshot import latest_snapshot
from batch_nst.data.dataset.summaries import changes_of
from batch_nst.data.images import codec
from batch_nst.data.images.style import read_style
from batch_nst.data.sources.photos import list_photos, photo_id
from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from batch_nst.engine.slow_transfer import ENGINE, losses_of
from batch_nst.errors import IncompleteError
from batch_nst.figures import as_json
from batch_nst.pipelines.cluster import metrics
from batch_nst.pipelines.cluster.stop import Budget, Stop, StopReason
from batch_nst.pipelines.generate import actors
from batch_nst.pipelines.generate.run import generate
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.recipe import Recipe
from tests.support.pairs import generate_here
from tests.support.places import PAINTING, SAMPLES

SIDE = 32
GOOD = ("astronaut", "chelsea", "coffee", "moose", "panda")
HELD_OUT = "chelsea"
CROPS = 2

Row = dict[str, Any]


def shrink(name: str, target: Path) -> Path:
    """A sample of at most 96 pixels a side, which is read in no time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(SAMPLES / "content" / f"{name}.jpg") as picture:
        picture.thumbnail((112, 112))
        picture.save(target)
    return target


def break_some(folder: Path) -> dict[str, Path]:
    """Files that are called photos, by the reason for which each of them is refused."""
    (folder / "bad_empty.jpg").touch()
    (folder / "bad_text.jpg").write_text("once upon a time")
    whole = (folder / "astronaut.jpg").read_bytes()
    (folder / "bad_cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (200, 20)).save(folder / "bad_small.png")
    named = {
        "empty": "bad_empty.jpg",
        "not_an_image": "bad_text.jpg",
        "truncated": "bad_cut.jpg",
        "too_small": "bad_small.png",
    }
    return {reason: folder / name for reason, name in named.items()}


def recipe(
    output: str | Path, source: str | list[str], held_out: tuple[str, ...] = (), **changes: Any
) -> Recipe:
    document = {
        "output": str(output),
        "style": {"image": str(PAINTING), "size": SIDE},
        "loss": {"content_layers": {"relu1_2": 1.0}, "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0}},
        "generate": {
            "input": source,
            "image_size": SIDE,
            "iterations": 3,
            "unit_images": 2,
            "crops": CROPS,
            "precision": "fp32",
            "max_rejected": 1.0,
            **changes,
        },
        "evaluate": {"holdout": 0.0, "holdout_photos": [*held_out]},
    }
    return Recipe.model_validate(document)


def run(given: Recipe, **limits: Any) -> dict[str, Any]:
    """The figures of a run on Ray."""
    store = Store(given.output)
    with acquire(store, "generate") as lease:
        return as_json(generate(given, store, lease, **limits))


def rows_of(output: str | Path) -> list[Row]:
    store = Store(str(output))
    return [row for unit in sorted(units.done_units(store)) for row in units.read_unit(store, unit)]


def by_id(output: str | Path) -> dict[bytes, Row]:
    rows = rows_of(output)
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def files(output: Path) -> dict[str, int]:
    """The committed units and when each was written."""
    return {str(path): path.stat().st_mtime_ns for path in (output / units.DATA).rglob("*.parquet")}


def pixels(row: Row, column: str) -> codec.Pixels:
    return codec.decode_stored(row[column]["bytes"])


def assert_same_images(some: dict[bytes, Row], others: dict[bytes, Row]) -> None:
    """The same ids, outcomes, pixels and losses, to the bit."""
    assert some.keys() == others.keys()
    for identity, row in some.items():
        other = others[identity]
        alike = ("uri", "split", "status", "reason", "detail", "iterations", "init", "engine")
        losses = ("content_loss", "style_loss", "total_loss")
        assert [row[name] for name in alike + losses] == [other[name] for name in alike + losses]
        if row["status"] == "ok":
            for column in ("content", "stylized"):
                np.testing.assert_array_equal(pixels(row, column), pixels(other, column))


class Bucket:
    """Good and broken photos in a folder, and a list of them that names one which is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.good = {name: str(shrink(name, root / f"{name}.jpg")) for name in GOOD}
        self.bad = {reason: str(path) for reason, path in break_some(root).items()}
        self.missing = root / "missing.jpg"
        self.uris = [*self.good.values(), *self.bad.values(), str(self.missing)]

    def recipe(self, output: Path, uris: list[str] | None = None, **changes: Any) -> Recipe:
        return recipe(output, uris or [*self.uris, self.uris[0]], (self.good[HELD_OUT],), **changes)


class Made:
    """The dataset of a bucket, made once for the tests of this file; they work on copies of it."""

    def __init__(self, bucket: Bucket, output: Path) -> None:
        self.bucket, self.output = bucket, output
        self.recipe = bucket.recipe(output)
        self.figures = run(self.recipe)
        self.by_id = by_id(output)
        self.rows = list(self.by_id.values())
        self.good = [row for row in self.rows if row["status"] == "ok"]
        assert len(self.good) == CROPS * len(GOOD)

    def copy(self, output: Path) -> Recipe:
        shutil.copytree(self.output, output)
        return self.bucket.recipe(output)

    def again(self, output: Path, **changes: Any) -> dict[bytes, Row]:
        """The rows of two of the photos, made in another way."""
        uris = [self.bucket.good[name] for name in (HELD_OUT, "coffee")]
        generate_here(self.bucket.recipe(output, uris, **changes))
        return by_id(output)


@pytest.fixture(scope="module")
def made(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("generate")
    return Made(Bucket(root / "photos"), root / "out")


def test_each_crop_of_each_photo_is_exactly_one_row(made: Made) -> None:
    planned = list_photos(made.recipe.generate.input)
    expected = [photo_id(photo.key, photo.version, crop) for photo in planned for crop in range(CROPS)]
    assert sorted(row["id"] for row in made.rows) == sorted(expected)
    assert Counter(row["uri"] for row in made.rows) == dict.fromkeys(made.bucket.uris, CROPS)


def test_outcomes_add_up_to_what_was_found(made: Made) -> None:
    good, bad = CROPS * len(GOOD), CROPS * len(made.bucket.bad)
    snapshot = latest_snapshot(Store(made.recipe.output))
    assert snapshot is not None
    assert snapshot.counts == {
        "ok": good - CROPS,
        "held_out": CROPS,
        "unpaired": 0,
        "rejected": bad,
        "failed": CROPS,
        "forgotten": 0,
        "filtered": 0,
        "pending": 0,
        "gone": 0,
    }
    assert made.figures | snapshot.counts == made.figures
    assert made.figures["found"] == good + bad + CROPS == len(made.rows)
    assert made.figures["photos"] == len(made.bucket.uris)
    assert made.figures["passed_over"] == {"named twice": 1}
    assert made.figures["made"] == good
    assert made.figures["reasons"] == {**dict.fromkeys(made.bucket.bad, CROPS), "vanished": CROPS}


def test_a_photo_that_cannot_be_used_is_a_row_with_status_and_reason_and_nothing_else(made: Made) -> None:
    told = {row["uri"]: (row["status"], row["reason"]) for row in made.rows if row["status"] != "ok"}
    rejected = {uri: ("rejected", reason) for reason, uri in made.bucket.bad.items()}
    assert told == {**rejected, str(made.bucket.missing): ("failed", "vanished")}
    for row in made.rows:
        if row["status"] != "ok":
            assert row["detail"]
            empty = {name for name, value in row.items() if value is None}
            assert empty == row.keys() - {"id", "uri", "split", "status", "reason", "detail"}


def test_all_crops_of_a_held_out_photo_are_on_that_side(made: Made) -> None:
    held_out = [row["uri"] for row in made.rows if row["split"] == "held_out"]
    assert held_out == [made.bucket.good[HELD_OUT]] * CROPS
    assert {row["split"] for row in made.rows} == {"held_out", "train"}


def test_photos_without_pairs_are_kept_alone_and_pairs_are_what_they_are_without_them(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Names differ from run to run, and decide: a share at which both kinds are there.
    recipes = [made.bucket.recipe(tmp_path / "out", pairs=share) for share in (0.5, 0.3, 0.7, 0.2, 0.8)]
    plans = ((each, survey(each, Store(each.output))) for each in recipes)
    given, plan = next((each, plan) for each, plan in plans if 0 < plan.unpaired < plan.to_do)
    figures = run(given)
    told, pairs = capsys.readouterr().err, plan.to_do - plan.unpaired
    assert f"generate: {pairs} of {pairs} images, " in told
    assert f"keep: {plan.unpaired} of {plan.unpaired} photos, " in told
    alone = {row["uri"] for row in rows_of(given.output) if row["split"] == "unpaired"}
    assert 0 < len(alone) < len(made.bucket.uris)
    assert plan.unpaired == CROPS * len(alone)
    good = CROPS * len(alone & {*made.bucket.good.values()})
    assert (figures["unpaired"], figures["kept"]) == (good, good)
    assert figures["ok"] + figures["held_out"] == figures["made"] == CROPS * len(GOOD) - good
    assert figures["rejected"] + figures["failed"] == len(made.rows) - CROPS * len(GOOD)
    half = by_id(given.output)
    paired = {name: row for name, row in half.items() if row["uri"] not in alone}
    assert_same_images({name: made.by_id[name] for name in paired}, paired)
    for name in half.keys() - paired.keys():
        row, whole = half[name], made.by_id[name]
        assert row["status"] == whole["status"]
        assert {row[column] for column in ("stylized", "total_loss", "iterations", "engine")} == {None}
        if row["status"] == "ok":
            np.testing.assert_array_equal(pixels(row, "content"), pixels(whole, "content"))
    for unit in units.done_units(Store(given.output)):
        sides = {row["split"] == "unpaired" for row in units.read_unit(Store(given.output), unit)}
        assert sides == {unit.endswith(units.UNPAIRED)}
    again = run(given)
    assert (again["tried"], again["snapshot"], again["digest"]) == (0, 1, figures["digest"])


def crops_of(output: str) -> dict[bytes, int]:
    """Of the planned images their numbers of crops."""
    store = Store(output)
    groups = [plan_files.read_group(store, group) for group in plan_files.read_written(store).groups]
    return {row["id"]: row["crop"] for group in groups for row in group.to_pylist()}


def test_the_content_is_the_crop_of_the_decoded_photo_to_the_last_bit(made: Made) -> None:
    crops = crops_of(made.recipe.output)
    limits = made.recipe.generate.model_dump(include={"min_side", "max_bytes", "max_pixels"})
    for row in made.good:
        data = Path(row["uri"]).read_bytes()
        photo = codec.decode(data, **limits)
        expected = codec.crop(photo, SIDE, crops[row["id"]], row["id"])
        np.testing.assert_array_equal(pixels(row, "content"), expected)
        assert (row["height"], row["width"]) == (SIDE, SIDE)


def test_losses_are_those_of_the_stored_pictures(made: Made) -> None:
    style, threads = read_style(made.recipe.style), torch.get_num_threads()
    objective = Objectives.on(style, made.recipe.loss, made.recipe.vgg, "cpu", "fp32", threads).exact
    rows = made.good
    content = to_tensor(np.stack([pixels(row, "content") for row in rows]))
    stylized = to_tensor(np.stack([pixels(row, "stylized") for row in rows]))
    losses = losses_of(objective, stylized, content)
    for name, expected in losses._asdict().items():
        stored = torch.tensor([row[f"{name}_loss"] for row in rows])
        torch.testing.assert_close(stored, expected, rtol=1e-5, atol=0)
    assert (losses.total < losses_of(objective, content, content).total).all()


def test_a_unit_says_how_far_each_image_is_from_its_photo(made: Made) -> None:
    moved = {
        row["id"]: np.abs(pixels(row, "content").astype(float) - pixels(row, "stylized")).mean()
        for row in made.good
    }
    store = Store(made.recipe.output)
    told: dict[bytes, float] = {}
    for unit in units.done_units(store):
        told |= changes_of(units.read_summary(store, unit), units.read_unit(store, unit, columns=["id"]))
    assert {identity: told[identity] for identity in moved} == pytest.approx(moved)
    assert np.isnan([told[identity] for identity in told.keys() - moved.keys()]).all()


def test_a_row_says_how_it_was_made(made: Made) -> None:
    assert {(row["iterations"], row["init"], row["engine"]) for row in made.good} == {
        (3, "content", f"{ENGINE} lbfgs cpu fp32")
    }


def test_without_ray_the_dataset_is_the_same_to_the_bit(made: Made, tmp_path: Path) -> None:
    given = made.recipe.model_copy(update={"output": str(tmp_path / "out")})
    assert generate_here(given).digest == made.figures["digest"]
    assert_same_images(by_id(given.output), made.by_id)


def test_another_start_makes_nothing_and_leaves_everything_as_it_is(made: Made) -> None:
    before = files(made.output)
    figures = run(made.recipe)
    assert figures["made"] == 0
    assert (figures["snapshot"], figures["digest"]) == (1, made.figures["digest"])
    assert files(made.output) == before
    assert Store(made.recipe.output).list("dataset/plan") == ["dataset/plan/000001.parquet"]
    assert Store(made.recipe.output).list("dataset/snapshots") == ["dataset/snapshots/000001.json"]


def test_only_a_new_photo_is_made_and_one_that_came_back_is_new(made: Made, tmp_path: Path) -> None:
    again = made.copy(tmp_path / "out")
    before = files(tmp_path / "out")
    shrink("windmill", made.bucket.missing)
    try:
        snapshot = generate_here(again)
    finally:
        made.bucket.missing.unlink()
    assert snapshot.number == 2
    assert (snapshot.counts["failed"], snapshot.counts["gone"]) == (0, CROPS)
    assert snapshot.counts["ok"] == made.figures["ok"] + CROPS
    after = files(tmp_path / "out")
    assert after | before == after
    assert len(after) == len(before) + 1
    rows = [row for row in rows_of(tmp_path / "out") if row["uri"] == str(made.bucket.missing)]
    assert Counter(row["status"] for row in rows) == {"failed": CROPS, "ok": CROPS}


def test_a_retry_is_a_further_attempt_at_failed_images_alone_and_the_last_one_counts(
    made: Made, tmp_path: Path
) -> None:
    again = made.copy(tmp_path / "out")
    before = files(tmp_path / "out")
    assert generate_here(again).number == 1
    snapshot = generate_here(again, retry=True)
    assert snapshot.number == 2
    assert made.figures | snapshot.counts == made.figures
    after = files(tmp_path / "out")
    assert after | before == after
    assert len(after) == len(before) + 1


def test_neighbours_in_a_batch_change_no_bit_of_an_image(made: Made, tmp_path: Path) -> None:
    # Beside another photo, where it was beside a crop of its own.
    some = made.again(tmp_path / "out", crops=1)
    assert len(some) == 2
    assert_same_images(some, {identity: made.by_id[identity] for identity in some})


def test_a_larger_unit_changes_an_image_by_rounding_alone(made: Made, tmp_path: Path) -> None:
    some = made.again(tmp_path / "out", unit_images=2 * CROPS)
    assert len(some) == 2 * CROPS
    for identity, row in some.items():
        other = made.by_id[identity]
        np.testing.assert_array_equal(pixels(row, "content"), pixels(other, "content"))
        assert row["total_loss"] == pytest.approx(other["total_loss"], rel=1e-4)
        levels = pixels(row, "stylized").astype(int) - pixels(other, "stylized")
        assert abs(levels).max() <= 1


@pytest.fixture
def parted() -> Iterator[list[int]]:
    """Four units an execution of Ray Data; of how many units each one was that has begun."""
    begun: list[int] = []
    from_items = ray.data.from_items

    def counted(items: list[Row]) -> ray.data.Dataset:
        begun.append(sum(len(json.loads(item["chunk"])[1]) for item in items))
        return from_items(items)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_files, "GROUP_UNITS", 4)
        patch.setattr(actors, "_FASTEST", 4)
        patch.setattr(actors, "_SHORTEST", 1.0)
        patch.setattr(ray.data, "from_items", counted)
        yield begun


@pytest.mark.parametrize(
    "budget", [Budget(device_hours=0.0), Budget(deadline=datetime(2026, 11, 25, tzinfo=UTC))]
)
def test_a_budget_that_is_spent_lets_no_unit_begin(made: Made, tmp_path: Path, budget: Budget) -> None:
    given = made.recipe.model_copy(update={"output": str(tmp_path / "out")})
    with pytest.raises(IncompleteError) as ended:
        run(given, budget=budget)
    figures = ended.value.figures
    assert str(ended.value) == (
        f"{figures['found']} images are pending: {budget.stop_reason()}; run the same command again"
    )
    assert (figures["made"], figures["photos_read"], figures["pending"]) == (0, 0, figures["found"])
    assert figures["stopped"] == str(budget.stop_reason())


def until_one_is_done(output: str) -> Budget:
    """A budget that is spent as soon as a unit is committed."""

    late = Stop(StopReason.DEADLINE, "2026-11-25 06:00+00:00")

    class Short(Budget):
        def stop_reason(self, _: float = 0.0) -> Stop | None:
            return late if units.done_units(Store(output)) else None

    return Short(deadline=datetime(2026, 11, 25, 6, tzinfo=UTC))


@pytest.mark.slow
def test_what_a_deadline_leaves_is_told_and_made_by_the_next_run_whatever_the_executions(
    made: Made, tmp_path: Path, parted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    given = made.recipe.model_copy(update={"output": str(tmp_path / "out")})
    budget = until_one_is_done(given.output)
    figures = run(given, budget=budget, min_done=0.01)
    assert parted == [4]  # no other execution has begun
    assert figures["stopped"] == "the deadline 2026-11-25 06:00+00:00 has come"
    found, pending = figures["found"], figures["pending"]
    assert 0 < pending < found
    told = f"{pending} images are pending: {figures['stopped']}; continuing with what is done"
    assert told in capsys.readouterr().err
    snapshot = latest_snapshot(Store(given.output))
    assert snapshot is not None
    assert snapshot.audit == {"planned": found, "done": found - pending, "pending": pending, "gone": 0}
    assert snapshot.done == (found - pending) / found

    with pytest.raises(IncompleteError) as ended:  # nor does it begin one at another start
        run(given, budget=budget, min_done=0.99)
    told = f"{pending} images are pending: {figures['stopped']}; {snapshot.done:.1%} are done, train.min_done"
    assert str(ended.value) == f"{told} asks for 99.0%; run the same command again"
    assert latest_snapshot(Store(given.output)) == snapshot
    done = len(units.done_units(Store(given.output)))
    parted.clear()
    rest = run(given)
    assert (rest["digest"], rest["stopped"]) == (made.figures["digest"], None)
    assert rest["tried"] == pending
    assert len(parted) > 1
    assert max(parted) == 4
    assert sum(parted) == len(units.done_units(Store(given.output))) - done


def test_figures_have_the_seconds_of_each_stage(made: Made) -> None:
    figures, stages = made.figures, made.figures["stage_seconds"]
    assert set(stages) == {"fetch", "decode", "wait", "device", "encode", "put"}
    assert stages["device"] == figures["device_seconds"] > 0
    assert min(stages.values()) >= 0
    assert figures["idle_seconds"] > 0  # an actor waits for its first unit


def test_prometheus_sees_what_became_of_images(made: Made) -> None:
    (node,) = ray.nodes()
    page = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    # Ray forgets a gauge whose run has ended; its counters stay.
    shown = metrics.Metrics("s3://bucket/out", 0, 1)
    shown.add(UnitOutcome("u", losses=(1.0,), stages=StageSeconds(device=1.0)), 1, 1.0, 0.0)
    old = ("images_total", "units_total", "iterations_total", "queue_depth")
    old += ("seconds_per_image", "device_busy_ratio")
    told = {f"ray_{name}" for name in (*old, *metrics.METRICS)} | {"ok", "rejected", "failed"}
    deadline = time.monotonic() + 120
    while True:  # Ray tells of them every few seconds, and not of all at once
        with urllib.request.urlopen(page, timeout=30) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith("ray_")]
        names = {line.split("{")[0] for line in lines if "{" in line}
        text = "\n".join(lines)
        statuses = re.findall(r'^ray_images_total{.*status="(\w+)"', text, re.MULTILINE)
        if told <= names.union(statuses):
            break
        assert time.monotonic() < deadline, told - names.union(statuses)
        time.sleep(1)
    assert f'output="{made.recipe.output}"' in text
    for stage in made.figures["stage_seconds"]:
        assert re.search(rf'^ray_batch_nst_stage_seconds_total{{.*stage="{stage}"', text, re.MULTILINE)
    assert {*statuses} == {"ok", "rejected", "failed"}


Spoiled = tuple[Recipe, IncompleteError]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Spoiled:
    """A folder of three: a photo, a text, and one that went between planning and reading."""
    folder = tmp_path_factory.mktemp("spoiled")
    shrink("coffee", folder / "in" / "coffee.jpg")
    (folder / "in" / "text.jpg").write_text("once upon a time")
    vanishing = shrink("moose", folder / "in" / "vanishing.jpg")
    given = recipe(folder / "out", str(folder / "in"), crops=1, unit_images=3, max_rejected=0.49)
    survey(given, Store(given.output)).write_down(Store(given.output))
    vanishing.unlink()
    generate_here(given)
    with pytest.raises(IncompleteError) as ended:
        run(given)
    return given, ended.value


def test_too_many_rejected_photos_are_an_error_after_sealing(spoiled: Spoiled) -> None:
    given, error = spoiled
    assert str(error) == "1 of 2 images were rejected (50.0%); generate.max_rejected allows 49.0%"
    assert error.exit_code == 1
    snapshot = latest_snapshot(Store(given.output))
    assert snapshot is not None
    assert (snapshot.counts["rejected"], snapshot.counts["pending"]) == (1, 0)
    assert error.figures | snapshot.counts == error.figures


def test_rejected_photos_are_told_by_every_start_until_they_are_allowed(
    spoiled: Spoiled, capsys: pytest.CaptureFixture[str]
) -> None:
    given, error = spoiled
    with pytest.raises(IncompleteError) as again:
        run(given)
    assert str(again.value) == str(error)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rejected: ")]
    assert len(told) == 1
    assert f"{given.generate.input}/text.jpg: not_an_image" in told[0]
    half = given.generate.model_copy(update={"max_rejected": 0.5})
    assert run(given.model_copy(update={"generate": half}))["rejected"] == 1


def test_a_photo_that_vanishes_after_planning_has_failed_and_is_gone(spoiled: Spoiled) -> None:
    given, error = spoiled
    told = {Path(row["uri"]).name: (row["status"], row["reason"]) for row in rows_of(given.output)}
    assert told == {
        "coffee.jpg": ("ok", None),
        "text.jpg": ("rejected", "not_an_image"),
        "vanishing.jpg": ("failed", "vanished"),
    }
    assert (error.figures["failed"], error.figures["gone"]) == (0, 1)


def test_from_a_bucket_into_a_bucket_is_the_same_as_on_disk(made: Made, s3: str) -> None:
    filesystem = fsspec.filesystem("s3")
    for name in ("coffee", "moose"):
        filesystem.put(made.bucket.good[name], f"{s3}/photos/deep/{name}.jpg")
    filesystem.pipe(f"{s3}/photos/empty.jpg", b"")
    filesystem.pipe(f"{s3}/photos/notes.md", b"no photo")
    given = recipe(f"{s3}/models/wave", f"{s3}/photos", crops=1)
    counts = generate_here(given).counts
    assert (counts["ok"] + counts["held_out"], counts["rejected"]) == (2, 1)
    rows = {row["uri"]: row for row in rows_of(given.output)}
    assert sorted(rows) == [
        f"{s3}/photos/deep/coffee.jpg",
        f"{s3}/photos/deep/moose.jpg",
        f"{s3}/photos/empty.jpg",
    ]
    # The first crop is the centre, whatever the id.
    crops = crops_of(made.recipe.output)
    on_disk = {Path(row["uri"]).stem: row for row in made.good if crops[row["id"]] == 0}
    for name in ("coffee", "moose"):
        row = rows[f"{s3}/photos/deep/{name}.jpg"]
        for column in ("content", "stylized"):
            np.testing.assert_array_equal(pixels(row, column), pixels(on_disk[name], column))
        assert row["total_loss"] == on_disk[name]["total_loss"]
    again = run(given)
    assert (again["made"], again["snapshot"]) == (0, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_command_does_not_join_the_ray_inside_another_process() -> None:
    """It would die with that one."""
    code = (
        "import ray; from batch_nst.pipelines.cluster import connect; connect.connect(); "
        "print(ray.get_runtime_context().gcs_address)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    address = ran.stdout.splitlines()[-1]
    assert address.count(":") == 1
    assert address != ray.get_runtime_context().gcs_address
