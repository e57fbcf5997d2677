"""Laws of `jobs/`: they run as submitted jobs, on a real cluster that asks for a token."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from batch_nst.data.dataset.snapshot import latest_snapshot
from batch_nst.data.storage.store import Store
from tests.support.places import ROOT

BIN = Path(sys.executable).parent
TINY = (
    *("generate.iterations=1", "generate.crops=1", "generate.image_size=32"),
    *("style.size=32", "generate.precision=fp32", "train.crop_size=32"),
)

pytestmark = pytest.mark.slow


class Cluster:
    """A head node in a session of its own, and a checkout to submit from."""

    PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")

    def __init__(self, folder: Path, checkout: Path, ports: list[int]) -> None:
        self.checkout = checkout
        self.token = secrets.token_hex(32)
        token_file = folder / "token"
        token_file.write_text(self.token)
        named = dict(zip(self.PORTS, ports, strict=True))
        self.address = f"http://127.0.0.1:{named['dashboard-port']}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.log = folder / "head.log"
        with self.log.open("w") as log:
            self.head = subprocess.Popen(
                [
                    *(
                        BIN / "ray",
                        "start",
                        "--head",
                        "--block",
                        "--num-cpus=2",
                        "--node-ip-address=127.0.0.1",
                    ),
                    *(
                        "--dashboard-host=127.0.0.1",
                        f"--temp-dir={folder}/t",
                        "--object-store-memory=100000000",
                    ),
                    *(f"--{name}={port}" for name, port in named.items()),
                ],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until the job server answers who has the token."""
        while self.status_of_answer(self.token) != 200:
            assert self.head.poll() is None, self.log.read_text()
            time.sleep(0.2)

    def status_of_answer(self, token: str | None) -> int | None:
        """The HTTP status with which the list of jobs is answered, None if by nobody."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"{self.address}/api/jobs/", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return None

    def submit(self, *words: str) -> tuple[JobDetails, str]:
        """`ray job submit` as in the README, to the end of the job; its details and logs."""
        name = f"job-{secrets.token_hex(4)}"
        subprocess.run(
            [
                *(BIN / "ray", "job", "submit", "--address", self.address, "--submission-id", name),
                *("--working-dir", ".", "--", *words),
            ],
            cwd=self.checkout,
            env=self.environment,
            capture_output=True,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RAY_ADDRESS")  # the client would take it for the address that it is given
            client = JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {self.token}"})
        # The command follows the logs, and ends early where that connection does.
        while not (info := client.get_job_info(name)).status.is_terminal():
            time.sleep(0.2)
        return info, client.get_job_logs(name)

    def stop(self) -> None:
        """`ray stop` would stop every cluster of this machine."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.head.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.head.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.head.pid, signal.SIGKILL)
        self.head.wait()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git holds of this checkout, and beside it what people have in theirs."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    for name in (".git/objects/pack", ".venv/lib/torch.so", "out/demo/dataset/dataset.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("much")
    return folder


@pytest.fixture(scope="module")
def cluster(checkout: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Cluster]:
    # Not pytest's folder: Ray's sockets lie in it, and their paths are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="nst", dir="/tmp", ignore_cleanup_errors=True) as folder:
        started = Cluster(Path(folder), checkout, free_ports(len(Cluster.PORTS)))
        try:
            started.wait()
            yield started
        finally:
            started.stop()


def figures(logs: str) -> dict[str, Any]:
    """The last JSON line."""
    lines = [line for line in logs.splitlines() if line.startswith("{")]
    parsed = json.loads(lines[-1])
    assert isinstance(parsed, dict)
    return parsed


def test_the_job_server_asks_for_the_token(cluster: Cluster) -> None:
    assert cluster.status_of_answer(None) == 401
    assert cluster.status_of_answer("0" * 64) == 403
    assert cluster.status_of_answer(cluster.token) == 200


def test_a_submitted_job_makes_the_dataset(cluster: Cluster, tmp_path: Path) -> None:
    words = ("python", "jobs/generate.py", "jobs/recipes/demo.yaml", f"output={tmp_path}/out", *TINY)
    info, logs = cluster.submit(*words)
    assert info.status == JobStatus.SUCCEEDED, logs
    told = figures(logs)
    assert (told["command"], told["exit_code"], told["found"]) == ("generate", 0, 19)
    snapshot = latest_snapshot(Store(f"{tmp_path}/out"))
    assert snapshot is not None
    assert snapshot.digest == told["digest"]
    others = ("unpaired", "rejected", "failed", "forgotten", "filtered", "pending", "gone")
    assert snapshot.counts == {"ok": 18, "held_out": 1, **dict.fromkeys(others, 0)}


def test_what_is_uploaded_is_what_the_job_needs(cluster: Cluster) -> None:
    listing = "import json, pathlib; print(json.dumps([str(p) for p in pathlib.Path('.').rglob('*')]))"
    info, logs = cluster.submit("python", "-c", listing)
    assert info.status == JobStatus.SUCCEEDED, logs
    names = next(json.loads(line) for line in logs.splitlines() if line.startswith('["'))
    assert {"jobs/generate.py", "batch_nst/weights/vgg16-oxford.safetensors"} <= set(names)
    strangers = {".git", ".venv", "out"}
    assert strangers <= {path.name for path in cluster.checkout.iterdir()}
    assert {name.split("/")[0] for name in names} & strangers == set()


def test_a_job_that_cannot_run_has_failed_with_the_exit_code_of_the_command(
    cluster: Cluster, tmp_path: Path
) -> None:
    words = ("python", "jobs/generate.py", "jobs/recipes/demo.yaml", f"output={tmp_path}/out")
    info, logs = cluster.submit(*words, "generate.iteration=1")
    assert info.status == JobStatus.FAILED
    assert info.driver_exit_code == 2
    assert "exit code 2" in str(info.message)
    assert "generate.iteration: unknown key" in logs
    assert figures(logs)["exit_code"] == 2
    assert not (tmp_path / "out").exists()
