"""Laws of a cluster whose nodes do not run yet, with Ray's real autoscaler."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from tests.support.autoscaling import busiest, from_zero
from tests.support.fake_device import entries
from tests.support.photo_bucket import UNITS, Bucket, fill
from tests.support.ray_nodes import Command, crash
from tests.support.sessions import finish, start

pytestmark = pytest.mark.slow

RECIPE = """
output: out
style: {image: style.png, size: 32}
loss: {content_layers: {relu1_2: 1.0}, style_layers: {relu1_1: 1.0, relu2_1: 1.0}}
generate: {input: photos, image_size: 64, crops: 3, iterations: 10, unit_images: 1, precision: fp32}
train: {steps: 2, batch_size: 2, width: 4, precision: fp32}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A recipe for twelve units."""
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.effect_noise((70, 70), 64).convert("RGB").save(tmp_path / "photos" / f"{number}.png")
    Image.effect_noise((40, 32), 64).convert("RGB").save(tmp_path / "style.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def port(free_ports: Callable[[int], list[int]]) -> int:
    return free_ports(1)[0]


def ask(address: str, question: str) -> subprocess.CompletedProcess[str]:
    """What a process on the cluster answers: one of its own, since Ray reads a token once in its life."""
    return subprocess.run(
        [sys.executable, "-c", _JOINED + question],
        env=os.environ | {"RAY_ADDRESS": address},
        capture_output=True,
        text=True,
    )


LIMIT = ("--wait-for-nodes", "0.05")


def assert_given_up(command: subprocess.Popen[str]) -> None:
    out, err = command.communicate()
    figures = json.loads(out.splitlines()[-1])
    assert (command.returncode, figures["exit_code"]) == (1, 1), err
    assert figures["error"].startswith("no node with a GPU came within 0.05 minutes; start nodes, or see")
    assert "--wait-for-nodes MINUTES" in figures["error"]
    assert "no node with a GPU yet; asked for 1; 0 minutes" in err


def run(home: Path, address: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "batch_nst", *map(str, words)],
        cwd=home,
        env=os.environ | {"RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


_JOINED = """
import time
from batch_nst.errors import DeviceError
from batch_nst.pipelines.cluster.connect import ask_a_gpu, connect
from batch_nst.pipelines.cluster.gpu import look_at_gpu
from batch_nst.pipelines.cluster.nodes import look, room, settle_device, wait_for_room
connect()

def wait_until_nothing_is_asked_for():
    while look().asked:
        time.sleep(0.2)

"""


@pytest.mark.timeout(1200)
def test_a_node_of_one_core_comes_for_a_dataset_and_again_for_a_training_and_for_painting(
    home: Path, port: int
) -> None:
    """Nobody keeps it in between. A GPU does not come, and the command says so."""
    with from_zero(port, most=1, cpu={"CPU": 1}) as address:
        figures = finish(start(home, "generate", address=address))
        assert (figures["made"], figures["pending"], figures["device"]) == (12, 0, "cpu")
        ask(address, "while room('CPU'): time.sleep(0.2)")
        model = home / "out/models" / finish(start(home, "train", address=address))["version"]
        assert finish(run(home, address, "apply", model, "photos", "painted"))["made"] == 4
        assert_given_up(run(home, address, "apply", model, "photos", "again", "--device", "cuda", *LIMIT))
        ask(address, "wait_until_nothing_is_asked_for()")


def test_actors_come_with_their_nodes_and_a_node_that_is_lost_is_replaced(tmp_path: Path, port: int) -> None:
    """Each works on all cores of its node."""
    fill(Store(str(tmp_path)), UNITS)
    bucket = Bucket(str(tmp_path), UNITS)
    with from_zero(port, most=2, cpu={"CPU": 2}) as address:
        command = Command(tmp_path, bucket.recipe("out", crops=20, actors=[1, 2]), 2.0, address)
        command.wait_until_busy(2)
        crash(busiest(address))
        command.wait_until_busy(3)
        command.hurry()
        figures = command.finish()
    assert (figures["exit_code"], figures["made"], figures["pending"]) == (0, 20 * UNITS, 0), command.log
    assert figures["devices"] == 2
    assert {entry["threads"] for entry in entries(command.journal)} == {2}
    assert "by 1 actor with 2 threads, up to 2 as nodes come" in command.log


IMPATIENT = """
from batch_nst.cli import main
from batch_nst.pipelines.cluster import nodes
nodes._ALONE_SECONDS = 1.0
main()
"""


def test_a_ray_without_a_whole_processor_ends_a_command_with_a_remedy(home: Path, port: int) -> None:
    with from_zero(port) as address:
        process = start(home, "generate", address=address, program=("-c", IMPATIENT))
        output, errors = process.communicate()
    error = "no node of this Ray has a whole CPU, and no autoscaler starts one: start one (ray start --num-"
    assert (process.returncode, json.loads(output)["exit_code"]) == (1, 1)
    assert errors.splitlines()[-1].startswith(f"batch-nst generate: {error}")
    with acquire(Store(str(home / "out")), "plan"):  # nobody holds the lease
        pass


def test_a_gpu_that_can_come_is_what_auto_asks_for(port: int) -> None:
    with from_zero(port, cpu={"CPU": 1}, gpu={"CPU": 1, "GPU": 1}) as address:
        answered = ask(
            address,
            "print(room('CPU'), room('GPU'), settle_device('auto'))\n"
            "wait_for_room('GPU', 30, workers=2); print(room('GPU')); wait_until_nothing_is_asked_for()\n"
            "try: print(ask_a_gpu(look_at_gpu, 100, 64))\n"
            "except DeviceError as error: print(error.cause)",
        )
    lines = answered.stdout.splitlines()
    assert len(lines) == 3, answered.stdout
    zero, two, looked = lines
    assert (zero, two) == ("0 0 cuda", "2"), answered.stderr
    assert "driver" in looked  # as this machine has one or not: its nodes are here
    assert "no node with a GPU yet; asked for 2; 0 minutes" in answered.stderr


def test_a_gpu_that_cannot_come_is_no_choice_of_auto_and_waited_for_until_a_limit(
    home: Path, port: int
) -> None:
    with from_zero(port, cpu={"CPU": 1}) as address:
        waiting = start(home, "generate", "generate.device=cuda", *LIMIT, address=address)
        assert_given_up(waiting)
        answered = ask(
            address,
            "print(settle_device('auto'), room('GPU')); wait_until_nothing_is_asked_for()",
        )
    assert answered.stdout == "cpu 0\n", answered.stderr
