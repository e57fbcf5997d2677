"""Laws of training runs that are cut off, and of runs on several workers."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from batch_nst.data.dataset.snapshot import latest_snapshot
from batch_nst.data.models import registry
from batch_nst.data.models.registry import training_version
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.errors import IncompleteError
from batch_nst.pipelines import commands, nightly
from batch_nst.pipelines.train.run import find_cut_off
from batch_nst.recipe_file import load_recipe
from tests.support.places import SAMPLES
from tests.support.ray_nodes import machines
from tests.support.sessions import CTRL_C_COUNTS, finish, resumed_from, start, strike

pytestmark = pytest.mark.slow

STEPS = 60
FEW = f"train.checkpoint_steps={STEPS}"
SLOWLY = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "2")
"""A checkpoint holds the training up for two seconds, on any machine: time for something to happen to it."""

RECIPE = f"""
output: out
style: {{image: style.png, size: 32}}
loss: {{content_layers: {{relu1_2: 1.0}}, style_layers: {{relu1_1: 1.0, relu2_1: 1.0}}}}
generate: {{input: photos, image_size: 40, iterations: 2, unit_images: 2, min_side: 16, precision: fp32}}
train: {{steps: {STEPS}, batch_size: 4, width: 8, crop_size: 32, checkpoint_steps: 10, precision: fp32}}
evaluate: {{holdout: 0.0, iterations: 2, sizes: [32]}}
"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, ray_cluster):
    """A folder with a recipe and its dataset, to be copied."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "photos").mkdir()
    for name in ("astronaut", "coffee", "windmill", "moose", "panda", "perch"):
        with Image.open(SAMPLES / "content" / f"{name}.jpg") as photo:
            photo.resize((48, 48)).save(folder / "photos" / f"{name}.png")
    with Image.open(SAMPLES / "styles" / "van_gogh_auvers.jpg") as painting:
        painting.resize((48, 48)).save(folder / "style.png")
    (folder / "recipe.yaml").write_text(RECIPE)
    commands.generate(load_recipe(folder / "recipe.yaml"))
    return folder


@pytest.fixture
def home(pairs, tmp_path):
    return shutil.copytree(pairs, tmp_path / "home")


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
    """The recipe's training on one worker, to which nothing happened: where it is, and its version."""
    folder = shutil.copytree(pairs, tmp_path_factory.mktemp("uninterrupted") / "home")
    return folder, train(folder, FEW)["version"]


@pytest.fixture(scope="module")
def uninterrupted(finished):
    """Its version, curve and weights."""
    return trained(*finished)


def train(home: Path, *overrides: str) -> dict:
    """On the Ray that these tests share, for trainings to which nothing happens."""
    return commands.train(load_recipe(home / "recipe.yaml", overrides))


def trained(home: Path, version: str) -> tuple[str, list[dict[str, float]], bytes]:
    store = Store(str(home / "out"))
    history = registry.require_card(store, version)["training"]["history"]
    return version, history, store.read(registry.model_object(version, registry.WEIGHTS))


def wait_for_another_checkpoint(home: Path, process: subprocess.Popen | None = None) -> None:
    before = resumed_from(home)
    while resumed_from(home) in (None, before):
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def kill_the_worker(home: Path) -> None:
    """After one more checkpoint of a training in this process."""
    wait_for_another_checkpoint(home)
    (worker,) = training_workers()
    worker.kill()


def training_workers() -> set[psutil.Process]:
    """Those of Ray Train in the Ray of this process."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(child.cmdline()):
                found.add(child)
    return found


@pytest.mark.timeout(1800)
def test_a_training_that_is_stopped_and_loses_its_worker_ends_with_the_weights_of_another(
    home, uninterrupted, monkeypatch
):
    monkeypatch.setenv(*SLOWLY)
    recipe, store = load_recipe(home / "recipe.yaml"), Store(str(home / "out"))
    name = training_version(recipe, latest_snapshot(store))
    stopped = start(home, "train", program=("-c", CTRL_C_COUNTS))
    wait_for_another_checkpoint(home, stopped)
    stopped.send_signal(signal.SIGINT)
    out, said = stopped.communicate()
    assert stopped.returncode == 130, said
    assert json.loads(out.splitlines()[-1])["exit_code"] == 130
    assert "Traceback" not in said
    assert find_cut_off(recipe, store) == latest_snapshot(store)

    curve = resumed_from(home) / "history.json"
    history = json.loads(curve.read_text())
    history[0]["mark"] = "of the stopped run"
    curve.write_text(json.dumps(history))

    with ThreadPoolExecutor() as threads:
        struck = threads.submit(kill_the_worker, home)
        assert train(home)["steps"] == STEPS
        struck.result()
    version, history, weights = trained(home, name)
    assert history[0].pop("mark") == "of the stopped run"
    assert [point["step"] for point in history] == list(range(1, STEPS + 1))
    assert (version, history, weights) == uninterrupted


IMPATIENT = """
from batch_nst.cli import main
from batch_nst.pipelines.train import ray_train

ray_train._LOOK_FOR_MORE = 3.0
main()
"""


@pytest.mark.chaos
def test_nodes_that_go_and_come_change_no_weight(home, uninterrupted, monkeypatch):
    monkeypatch.setenv(*SLOWLY)
    # Few steps to a checkpoint: time for the node to come.
    words = ("train.workers=[1, 2]", "train.checkpoint_steps=3")
    with machines(2) as nodes:
        address = nodes.cluster.address
        running = start(home, "train", *words, address=address, program=("-c", IMPATIENT))
        wait_for_another_checkpoint(home, running)
        nodes.crash(nodes.nodes[1])
        wait_for_another_checkpoint(home, running)
        nodes.add()
        out, said = running.communicate()
    assert running.returncode == 0, said
    assert "1 to 2 workers" in said
    continued = re.findall(r"training continues from step [1-9]\d*, workers: (\d)$", said, re.MULTILINE)
    assert continued == ["1", "2"], said
    check_same_training(trained(home, json.loads(out.splitlines()[-1])["version"]), uninterrupted)


def check_same_training(
    one: tuple[str, list[dict[str, float]], bytes], other: tuple[str, list[dict[str, float]], bytes]
) -> None:
    # Not about the same: an image's gradient is the same to the bit whoever computes it, and the sum of all
    # is exact. Were it not so, rounding would be a thousandth of the loss at the end. Only the means of the
    # losses are taken in another order, in fp64.
    for point, same in zip(one[1], other[1], strict=True):
        assert point == pytest.approx(same, rel=1e-12)
    assert (one[0], one[2]) == (other[0], other[2])


def test_a_training_that_starts_from_a_model_begins_with_its_weights(home, finished):
    folder, first = finished
    # At this rate no weight changes, and without an average the last ones are the model.
    still = ("train.steps=2", "train.learning_rate=1e-30", "train.average=0")
    second = train(home, *still, f"train.init=model:{folder}/out/models/{first}")["version"]
    assert second != first
    card = registry.require_card(Store(str(home / "out")), second)
    assert re.fullmatch(rf"{first}@[0-9a-f]{{12}}", card["training"]["init"])
    before, after = (load(trained(*run)[2]) for run in (finished, (home, second)))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-20)


def test_gradients_that_are_no_numbers_end_a_training_with_one_line(home):
    net = TransformerNet(8, "skip")
    torch.nn.init.constant_(net.head.weight, 3e38)
    bad = Store(str(home / "bad"))
    # In float32, as version 0.1.0 wrote them: float16 has no number so large.
    bad.create(registry.model_object("v", registry.WEIGHTS), save(net.state_dict()))
    registry.write_card(bad, "v", {"architecture": {"name": "skip", "width": 8}})
    with pytest.raises(IncompleteError) as error:
        train(home, f"train.init=model:{home}/bad/models/v")
    told = r"training 000001-\w+: step 50: .* a lower train\.learning_rate may help"
    assert re.fullmatch(told, str(error.value))
    out = Store(str(home / "out"))
    (failed,) = (name for name in out.list("models") if name.endswith(f"/{registry.FAILED}"))
    assert str(error.value).endswith(f": {out.read(failed).decode().strip()}")


@pytest.mark.timeout(1800)
def test_a_night_in_a_bucket_ends_as_one_on_disk_that_was_killed_and_ends_its_training_first(
    pairs, tmp_path, s3, monkeypatch
):
    monkeypatch.setenv(*SLOWLY)
    few = ("train.steps=12", "evaluate.sizes=[]", "evaluate.baseline_photos=0", "evaluate.larger_photos=0")
    home = shutil.copytree(pairs, tmp_path / "home")
    here, recipe = Store(str(home / "out")), load_recipe(home / "recipe.yaml", few)
    with ThreadPoolExecutor() as threads:
        in_bucket = threads.submit(finish, start(pairs, "nightly", f"output={s3}/night", *few))
        strike(start(home, "nightly", *few, "train.checkpoint_steps=3"), lambda: resumed_from(home))
        # A photo has come since.
        shutil.copy(home / "photos" / "coffee.png", home / "photos" / "more.png")
        on_disk = nightly.nightly(recipe, deadline=datetime(9999, 1, 1, tzinfo=UTC))
        figures = in_bucket.result()
    store, version = Store(f"{s3}/night"), figures["version"]
    assert registry.current(store)["version"] == version
    assert store.list("checkpoints")
    assert store.exists(f"runs/{figures['run']}/report.html")
    log = registry.model_object(version, "training")
    assert {f"{log}/{name}" for name in ("index.html", "photo.jpg", "optimised.jpg", "000012.jpg")} <= set(
        store.list(log)
    )
    assert any(name.startswith(f"{log}/events.out.tfevents.") for name in store.list(log))
    evaluation = registry.require_card(store, version)["evaluation"]
    assert {"speed", "baseline", "larger"} & {*figures, *evaluation} == set()  # what `few` switches off

    assert (on_disk["version"], on_disk["published"]) == (version, True)
    assert (on_disk["dataset"]["digest"], on_disk["dataset"]["made"]) == (figures["dataset"]["digest"], 0)
    assert on_disk["dataset"]["stopped"] == "the training on snapshot 1 was cut off and is ended first"
    assert on_disk["cost"]["device_hours"]["pairs"] == 0
    assert nightly.find_finished(recipe, here)[1].to_do == 1  # the next night goes on
    for name in (registry.WEIGHTS, registry.GRAPH):
        part = registry.model_object(version, name)
        assert here.read(part) == store.read(part), name
