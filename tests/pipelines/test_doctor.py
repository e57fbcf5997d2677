"""Laws of `batch-nst doctor`: each check finds what it is for, says how to mend it, and hides secrets."""

import json
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fsspec
import pytest
import ray
import torch
from PIL import Image

from batch_nst.data.storage import store as storage_store
from batch_nst.data.storage.store import Store
from batch_nst.engine.device import choose_device, convolution_error
from batch_nst.errors import ClusterError, DeviceError, IncompleteError, StorageError
from batch_nst.figures import as_json
from batch_nst.pipelines import doctor
from batch_nst.pipelines.cluster import connect, gpu
from batch_nst.recipe import Recipe
from tests.support.devices import DEVICES
from tests.support.ray_nodes import start_ray

BEFORE_RAY = ["painting", "weights", "input", "output", "clock"]
ON_RAY = ["cluster", "nodes", "stores", "clocks", "device"]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "photos").mkdir()
    for name in ("painting.png", "photos/0.png"):
        Image.effect_noise((40, 32), 64).convert("RGB").save(tmp_path / name)
    return Recipe.model_validate(
        {
            "output": f"{tmp_path}/out",
            "style": {"image": f"{tmp_path}/painting.png", "size": 32},
            "generate": {"input": f"{tmp_path}/photos", "image_size": 32},
        }
    )


def changed(recipe: Recipe, section: str, **keys: object) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=keys)})


def failures(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The failed checks by name; each has its remedy, and the rest has none."""
    with pytest.raises(IncompleteError) as raised:
        doctor.doctor(recipe)
    figures = as_json(raised.value.figures)
    checks = figures["checks"]
    assert [check["name"] for check in checks] == BEFORE_RAY + ON_RAY
    assert all((check["state"] == "failed") == bool(check["remedy"]) for check in checks)
    failed = {check["name"]: check for check in checks if check["state"] == "failed"}
    assert figures["failed"] == len(failed)
    assert str(raised.value) == f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}"
    return failed


def left_in(output: str) -> list[Path]:
    """The files that lie there."""
    return [path for path in Path(output).rglob("*") if path.is_file()]


# --- before Ray


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, free_ports: Any) -> str:
    """No cluster answers, so that nothing waits for one."""
    ray.shutdown()
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    return address


AND_TELL = """
import sys
from batch_nst import cli
try:
    cli.main(["doctor", sys.argv[1]])
finally:
    print("ray" in sys.modules, file=sys.stderr)
"""


def test_a_cluster_out_of_reach_is_named_and_what_needs_it_is_skipped(recipe: Recipe, nobody: str) -> None:
    """Neither is Ray imported before it is reached."""
    path = Path(recipe.output).parent / "recipe.yaml"
    path.write_text(recipe.model_dump_json())
    ran = subprocess.run([sys.executable, "-c", AND_TELL, path], capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    figures = json.loads(ran.stdout)
    states = {check["name"]: check["state"] for check in figures["checks"]}
    assert states == {
        **dict.fromkeys(BEFORE_RAY, "ok"),
        "cluster": "failed",
        **dict.fromkeys(ON_RAY[1:], "skipped"),
    }
    assert (figures["ok"], figures["failed"], figures["skipped"]) == (5, 1, 4)
    lines = ran.stderr.splitlines()
    assert lines[-1] == "False"
    (row,) = (number for number, line in enumerate(lines) if line.startswith("failed"))
    assert f"RAY_ADDRESS {nobody}: [Errno 111] Connection refused" in lines[row]
    assert lines[row + 1].strip().startswith("remedy: set RAY_ADDRESS to HOST:PORT")
    assert left_in(recipe.output) == []


def test_a_check_that_fails_stops_no_other(recipe: Recipe, nobody: str) -> None:
    ill = changed(changed(recipe, "style", image="/nowhere.png"), "generate", input="/nowhere")
    failed = failures(changed(ill, "vgg", weights=recipe.style.image))
    assert list(failed) == ["painting", "weights", "input", "cluster"]
    assert "style.image: /nowhere.png" in failed["painting"]["told"]
    assert "is not a safetensors file" in failed["weights"]["told"]
    assert "generate.input: /nowhere: there is no such file or folder" in failed["input"]["told"]


def test_one_photo_of_the_first_must_be_readable(recipe: Recipe, nobody: str) -> None:
    photo = f"{recipe.generate.input}/0.png"
    assert list(failures(changed(recipe, "generate", input=["/nowhere.jpg", photo]))) == ["cluster"]
    failed = failures(changed(recipe, "generate", input=["/nowhere.jpg"]))
    assert "/nowhere.jpg: cannot be read" in failed["input"]["told"]


def test_a_store_that_lets_a_second_writer_in_is_found(
    recipe: Recipe, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(disk: Any, name: str, data: bytes) -> bool:
        disk.replace(name, data)
        return True

    monkeypatch.setattr(storage_store._Disk, "create", create)
    failed = failures(recipe)
    assert "exclusive create does not work" in failed["output"]["told"]
    assert list(failed) == ["output", "cluster"]
    assert left_in(recipe.output) == []


@pytest.mark.parametrize("seconds", [60, -60])
def test_a_wrong_clock_is_found(
    recipe: Recipe, nobody: str, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + seconds)
    told = failures(recipe)["clock"]["told"]
    way = "behind" if seconds > 0 else "ahead of"
    assert f"s {way} this machine's; allowed: 10 s" in told


@pytest.mark.parametrize(
    ("moment", "apart"), [(4.0, -1.0), (5.0, 0.0), (6.0, 0.0), (7.0, 0.0), (7.5, 0.5), (20.0, 13.0)]
)
def test_a_clock_is_right_if_it_may_be(moment: float, apart: float) -> None:
    assert doctor._apart(moment, 5.0, 7.0) == apart


def test_a_bucket_is_written_and_its_clock_read(s3: str) -> None:
    store = Store(f"{s3}/doctor")
    assert doctor._output(store) == f"{store.uri}: created, refused to a second writer, deleted"
    assert "from this machine's" in doctor._clock(store)
    assert store.list() == []


def test_a_bucket_that_may_only_be_read_is_found(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        with pytest.raises(StorageError, match="cannot create"):
            doctor._output(Store(f"{s3}/doctor"))
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_secrets_are_not_shown(
    recipe: Recipe, nobody: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    monkeypatch.setenv("SOME_TOKEN_PATH", "/where/tokens/lie")
    ill = changed(recipe, "generate", input=["http://user:planted-pass@127.0.0.1:1/x.jpg?sig=planted-sig"])
    ill = changed(ill, "style", image="/planted-secret/where/tokens/lie.png")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    failed = failures(ill)
    seen = f"{failed} {capsys.readouterr().err}"
    assert "http://user:***@127.0.0.1:1/x.jpg?***" in failed["input"]["told"]
    assert "/***/where/tokens/lie.png" in failed["painting"]["told"]
    assert "planted" not in seen


def test_a_node_with_another_version_is_named() -> None:
    here = doctor.versions()
    assert here["python"] == platform.python_version()
    other = here | {"torch": "0.1"}
    with pytest.raises(IncompleteError, match=rf"^b: torch 0\.1, here {here['torch']}; c: Nothing: lost$"):
        doctor._equal(["a", "b", "c"], [here, other, type("Nothing", (Exception,), {})("lost")], here)


# --- on Ray


@pytest.fixture
def ray_cluster() -> None:
    """Those before may have ended the one of this process."""
    start_ray()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("seen", "warns"), [("1.99.9", True), ("2.9", True), (version("ray"), False), ("9.1.0", False)]
)
def test_a_ray_newer_than_any_that_was_tested_is_a_warning_and_no_fault(
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seen: str,
    warns: bool,
) -> None:
    monkeypatch.setattr(connect, "NEWEST_RAY_SEEN", seen)
    monkeypatch.delenv("RAY_ADDRESS")
    assert doctor._join().startswith("no RAY_ADDRESS")
    warning = f"warning: ray {version('ray')} is newer than {seen}, the newest that batch_nst is tested with"
    assert capsys.readouterr().err.startswith(warning) is warns


@pytest.mark.usefixtures("ray_cluster")
def test_all_is_well_and_nothing_is_left(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    figures = doctor.doctor(recipe)
    assert [(check.name, check.state) for check in figures.checks] == [
        (name, "ok") for name in BEFORE_RAY + ON_RAY
    ]
    assert (figures.ok, figures.failed, figures.skipped) == (10, 0, 0)
    told = {check.name: check.told for check in figures.checks}
    assert "1 nodes up, 4 CPUs, 0 GPUs" in told["cluster"]
    assert "generate on cpu" in told["device"]
    assert len(capsys.readouterr().err.splitlines()) == 10
    assert left_in(recipe.output) == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_device_that_no_node_has_is_found(recipe: Recipe) -> None:
    failed = failures(changed(recipe, "generate", device="cuda"))
    assert list(failed) == ["device"]
    assert "device: given 'cuda', but this machine has no GPU" in failed["device"]["told"]


# --- on a GPU


@pytest.mark.parametrize(
    ("driver", "torch_cuda", "fault"),
    [
        ((13, 0), "13.0", ""),
        ((13, 2), "13.0", ""),
        ((12, 0), "12.8", ""),  # of the same major version
        ((13, 0), "12.8", ""),
        (
            (12, 8),
            "13.0",
            "the driver supports CUDA 12.8 at most; .* CUDA 13.0, which needs driver 580.65 or",
        ),
        (None, "12.8", "no NVIDIA driver answers .*, which needs driver 525.60 or newer"),
        ((13, 0), None, "this torch is built without CUDA"),
    ],
)
def test_a_driver_is_held_against_the_cuda_of_torch(
    driver: tuple[int, int] | None, torch_cuda: str | None, fault: str
) -> None:
    assert re.match(fault or "$", gpu.driver_fault(driver, torch_cuda))


@pytest.mark.parametrize("device", DEVICES)
def test_a_convolution_is_right_to_a_ten_thousandth(device: str) -> None:
    assert convolution_error(choose_device(device)) < gpu._RIGHT


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_is_looked_at_and_its_memory_must_hold_an_image() -> None:
    assert "GB free, driver for CUDA" in gpu.look_at_gpu(256)
    with pytest.raises(DeviceError, match=r"an image of 1000000 px needs 5000000\.0 GB"):
        gpu.look_at_gpu(1_000_000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_machine_without_a_driver_says_so() -> None:
    """Or one whose torch cannot use it."""
    assert gpu.driver_cuda() is None
    with pytest.raises(DeviceError, match=r"driver|built without CUDA"):
        gpu.look_at_gpu(256)


@pytest.mark.usefixtures("ray_cluster")
def test_a_gpu_that_is_not_free_in_time_is_asked_for_no_longer() -> None:
    with pytest.raises(ClusterError, match=r"no GPU was free and answered within 0\.5 s; see `ray status`"):
        connect.ask_a_gpu(gpu.look_at_gpu, 0.5, 256)
