"""Laws of `batch-nst submit`: one job an output, what goes along, and the exit code that comes back."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ray.dashboard.modules.job.pydantic_models import JobType
from ray.job_submission import JobDetails, JobStatus

from batch_nst.data.dataset import units
from batch_nst.data.dataset.snapshot import latest_snapshot
from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from batch_nst.errors import BatchNSTError, RecipeError
from batch_nst.pipelines import submit
from batch_nst.pipelines.submit import exit_code_of, last_figures, pack, series
from batch_nst.recipe import Recipe
from batch_nst.recipe_file import load_recipe
from tests.support.http_proxy import HttpProxy
from tests.support.places import ROOT
from tests.support.ray_nodes import Machines, machines
from tests.support.served import served
from tests.support.sessions import CTRL_C_COUNTS, kill


def recipe_of(output: str, **more: Any) -> Recipe:
    document = {
        "output": output,
        "style": {"image": "s3://b/painting.jpg"},
        "generate": {"input": "s3://b/in"},
    }
    return Recipe.model_validate(document | more)


# --- names


def test_jobs_of_an_output_share_a_name_that_tells_it_and_no_others() -> None:
    name = series("s3://models/van Gogh's_auvers/")
    assert name == series("s3://models/van Gogh's_auvers")
    assert name.startswith("batch-nst-van-Gogh-s-auvers-")
    assert name != series("s3://other/van Gogh's_auvers")
    assert len(series(f"s3://models/{'x' * 300}")) < 60


# --- ends


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 3, 3),
        (JobStatus.FAILED, 143, 143),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 1),  # it has never begun, or its node is lost
        (JobStatus.FAILED, 0, 1),
        (JobStatus.STOPPED, None, 143),
        (JobStatus.STOPPED, 0, 143),
    ],
)
def test_only_a_job_that_succeeded_is_a_success(status: JobStatus, driver: int | None, code: int) -> None:
    job = JobDetails(type=JobType.SUBMISSION, status=status, entrypoint="", driver_exit_code=driver)
    assert exit_code_of(job) == code


@pytest.mark.parametrize(
    ("log", "figures"),
    [
        ("", None),
        ("a\n{broken\n", None),
        ('{"made": 1}\n{"made": 2}\nlast words\n', {"made": 2}),
        ('{"made": 2}\n{broken\n', {"made": 2}),
    ],
)
def test_figures_are_the_last_json_object_of_a_log(log: str, figures: dict[str, Any] | None) -> None:
    assert last_figures(log) == figures


# --- what goes along


def test_a_recipe_goes_with_its_overrides_and_a_painting_that_lies_here(tmp_path: Path) -> None:
    Image.effect_noise((40, 32), 64).convert("RGB").save(tmp_path / "painting.png")
    (tmp_path / "recipe.yaml").write_text(
        "output: s3://b/out\nstyle: {image: painting.png}\ngenerate: {input: s3://b/in}\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml", ["train.learning_rate=[[0.5, 1e-3], [1, 1e-5]]"])
    files = pack(recipe)
    there = tmp_path / "there"
    there.mkdir()
    for name, data in files.items():
        (there / name).write_bytes(data)
    (painting,) = files.keys() - {"recipe.yaml"}
    assert files[painting] == (tmp_path / "painting.png").read_bytes()
    arrived = load_recipe(there / "recipe.yaml")
    assert arrived.style.image == str(there / painting)
    assert arrived.model_copy(update={"style": recipe.style}) == recipe
    assert pack(recipe) == files


def test_a_painting_elsewhere_stays_there() -> None:
    recipe = recipe_of("s3://b/out")
    assert Recipe.model_validate_json(pack(recipe)["recipe.yaml"]) == recipe


def test_the_code_of_a_checkout_goes_along() -> None:
    with submit._working_dir({"recipe.yaml": b"x"}) as folder:
        sent = {str(path.relative_to(folder)) for path in Path(folder).rglob("*")}
    assert {"recipe.yaml", "batch_nst/cli.py", "batch_nst/weights/vgg16-oxford.safetensors"} <= sent
    assert {name.split("/")[0] for name in sent} == {"recipe.yaml", "batch_nst"}
    assert not any("__pycache__" in name for name in sent)


@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("output", {"output": "/here/out"}),
        ("generate.input", {"generate": {"input": "/here/in"}}),
        ("generate.input", {"generate": {"input": ["s3://b/1.jpg", "/here/2.jpg"]}}),
        ("generate.init", {"generate": {"input": "s3://b/in", "init": "model:/here/out"}}),
        ("train.init", {"train": {"init": "model:/here/out"}}),
        ("vgg.weights", {"vgg": {"weights": "/here/vgg.safetensors"}}),
    ],
)
def test_a_path_of_this_machine_is_refused(key: str, more: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=rf"^{key}: /here/\S+ is a path of this machine; .*--shared"):
        submit.submit(recipe_of(**({"output": "s3://b/out"} | more)), "nightly", "http://127.0.0.1:1")


# --- a job server that is none


@pytest.fixture
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the command sets is put back."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:2")


@pytest.mark.usefixtures("_settings")
def test_a_job_server_out_of_reach_is_named(free_ports: Callable[[int], list[int]]) -> None:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"  # and not the one in the environment
    told = rf"^--address {address}: Failed to connect .*:{port}"
    for call in (submit.status, submit.stop):
        with pytest.raises(BatchNSTError, match=told) as raised:
            call(recipe_of("s3://b/out"), address)
        assert raised.value.exit_code == 1


_TOKEN = secrets.token_hex(32)


class _JobServer(BaseHTTPRequestHandler):
    """Answers as Ray's: a version, no jobs, and 401 to who brings no token."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == f"Bearer {_TOKEN}"
        body = b'{"ray_version": "99.0"}' if self.path == "/api/version" else b"[]"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(body if known else b"Unauthorized: Missing authentication token")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def job_server() -> Iterator[int]:
    """The port of a job server that asks for a token."""
    with served(ThreadingHTTPServer(("127.0.0.1", 0), _JobServer)) as server:
        yield server.server_port


@pytest.mark.usefixtures("_settings")
def test_a_job_server_that_asks_for_a_token_is_told(job_server: int) -> None:
    address = f"http://127.0.0.1:{job_server}"
    told = f"^--address {address}: requires the cluster's token: set RAY_AUTH_MODE"
    with pytest.raises(BatchNSTError, match=told):
        submit.status(recipe_of("s3://b/out"), address)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpProxy]:
    """Named by `http_proxy`, and nothing is exempt."""
    with served(HttpProxy()) as found:
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("no_proxy", "")  # what the command sets is put back
        monkeypatch.setenv("http_proxy", found.url)
        yield found


def test_the_token_of_a_cluster_on_this_machine_goes_to_no_proxy(
    job_server: int, proxy: HttpProxy, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(_TOKEN)
    (tmp_path / "recipe.yaml").write_text(pack(recipe_of("s3://b/out"))["recipe.yaml"].decode())
    words = ("submit", "recipe.yaml", "--status", "--address", f"http://127.0.0.1:{job_server}")
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    ended = subprocess.run(
        [sys.executable, "-m", "batch_nst", *words],
        cwd=tmp_path,
        env={**os.environ, **secret},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr  # the server knew the token
    assert proxy.seen == []


@pytest.mark.usefixtures("_settings")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8", "[::1]"])
@pytest.mark.parametrize("exempt", ["", "example.org"])
def test_no_request_to_this_machine_goes_through_a_proxy(
    host: str, exempt: str, job_server: int, proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", exempt)
    with pytest.raises(BatchNSTError, match=r"requires the cluster's token|Failed to connect"):
        submit.status(recipe_of("s3://b/out"), f"http://{host}:{job_server}")
    assert proxy.seen == []
    assert os.environ["no_proxy"] == ",".join(filter(None, (exempt, host.strip("[]"))))


@pytest.mark.usefixtures("_settings")
def test_an_address_elsewhere_is_reached_as_no_proxy_says(
    proxy: HttpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.refuses = True
    with pytest.raises(BatchNSTError) as refused:
        submit.status(recipe_of("s3://b/out"), "http://ray.invalid:8265")
    assert str(refused.value) == (
        f"--address http://ray.invalid:8265: the proxy {proxy.url}, or what lies behind it, answered 403, "
        "and not Ray: Blocked by policy; set no_proxy=ray.invalid, or let the proxy pass it"
    )
    proxy.seen.clear()
    monkeypatch.setenv("no_proxy", "ray.invalid")
    with pytest.raises(BatchNSTError, match="Failed to connect"):
        submit.status(recipe_of("s3://b/out"), "http://ray.invalid:8265")
    assert proxy.seen == []


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001", "127.0.0.1:8265"])
def test_an_address_that_is_none_of_a_job_server_is_refused(address: str) -> None:
    with pytest.raises(RecipeError, match=f"^--address: given '{address}'; allowed: the URL of a job server"):
        submit.status(recipe_of("s3://b/out"), address)


# --- a cluster of three nodes


RECIPE = """
output: out
style: {image: painting.png, size: 32}
generate:
  {input: photos, image_size: 64, iterations: 40, unit_images: 1, crops: 1, precision: fp32, device: cpu,
   actors: [2, 2]}
"""


class Submitter:
    """The command, on the machine of somebody who has the cluster's token."""

    def __init__(
        self,
        folder: Path,
        address: str,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.address, self.output, self.python = folder, address, folder / "out", python
        self.environment = environment or os.environ
        (folder / "photos").mkdir()
        Image.effect_noise((40, 32), 64).convert("RGB").save(folder / "painting.png")
        for number in range(12):
            Image.effect_noise((70, 70), 64).convert("RGB").save(folder / "photos" / f"{number}.png")
        (folder / "recipe.yaml").write_text(RECIPE)

    def start(self, *words: str) -> subprocess.Popen[str]:
        words = ("submit", f"{self.folder}/recipe.yaml", "--address", self.address, *words)
        return subprocess.Popen(
            [self.python, "-c", CTRL_C_COUNTS, *words],
            cwd=self.folder,
            env={**self.environment, "RAY_ADDRESS": "127.0.0.1:1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Its figures; the rest of what it said is printed."""
        stdout, stderr = process.communicate()
        print(stderr)
        figures = json.loads(stdout.splitlines()[-1])
        assert figures["exit_code"] == process.returncode
        return dict(figures)

    def call(self, *words: str) -> dict[str, Any]:
        return self.end(self.start(*words))

    def wait_until_done(self, count: int, process: subprocess.Popen[str] | None = None) -> None:
        while len(units.done_units(Store(str(self.output)))) < count:
            assert process is None or process.poll() is None, self.end(process)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(free_ports: Callable[[int], list[int]]) -> Iterator[tuple[Machines, str]]:
    """A head with a job server, and two workers."""
    dashboard, agent = free_ports(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("OMP_NUM_THREADS", "1")
        head = {
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": dashboard,
            "dashboard_agent_listen_port": agent,
        }
        with machines(2, **head) as found:
            yield found, f"http://127.0.0.1:{dashboard}"


@pytest.mark.slow
def test_a_job_outlives_a_node_and_its_exit_code_comes_back(
    cluster: tuple[Machines, str], tmp_path: Path
) -> None:
    nodes, address = cluster
    here = Submitter(tmp_path, address)
    process = here.start("--shared", "--command", "generate")
    here.wait_until_done(3, process)
    nodes.replace(nodes.nodes[0])
    figures = here.end(process)
    assert (figures["exit_code"], figures["status"], figures["joined"]) == (0, "SUCCEEDED", False)
    assert figures["submission_id"] == f"{series(str(here.output))}-1"
    job = figures["job"]
    assert (job["command"], job["exit_code"], job["made"], job["pending"]) == ("generate", 0, 12, 0)
    snapshot = latest_snapshot(Store(str(here.output)))
    assert snapshot is not None
    assert snapshot.digest == job["digest"]
    assert snapshot.counts["ok"] + snapshot.counts["held_out"] == 12

    # What is over is not joined, and a command that fails is no success.
    with acquire(Store(str(here.output)), "somebody"):
        held = here.call("--shared", "--command", "generate")
    assert (held["submission_id"], held["joined"]) == (f"{series(str(here.output))}-2", False)
    assert (held["exit_code"], held["status"], held["job"]["exit_code"]) == (4, "FAILED", 4)
    assert "somebody" in held["error"]


@pytest.mark.slow
def test_the_same_call_joins_and_who_stops_waiting_stops_nothing_but_stop_does(
    cluster: tuple[Machines, str], tmp_path: Path
) -> None:
    here = Submitter(tmp_path, cluster[1])
    more = "generate.crops=100"  # than anybody waits for
    same = ("--shared", "--command", "generate", "--retry", more)
    begun = here.call(*same, "--detach")
    assert (begun["exit_code"], begun["joined"]) == (0, False)
    waiting, leaving = here.start(*same), here.start(*same)
    another = here.call("--shared", "--command", "generate")
    assert another["exit_code"] == 4
    assert f"{begun['submission_id']} is running there" in another["error"]
    assert leaving.stderr is not None
    assert next(line for line in leaving.stderr if "Running entrypoint" in line)  # it follows the log
    leaving.send_signal(signal.SIGINT)
    _, stderr = leaving.communicate()
    assert leaving.returncode == 130
    assert f"{begun['submission_id']} continues without this command" in stderr
    here.wait_until_done(1)
    under_way = here.call("--status")
    assert under_way["status"] == "RUNNING"
    assert under_way["entrypoint"] == "python -m batch_nst generate recipe.yaml --retry"
    stopped = here.call("--stop")
    assert (stopped["exit_code"], stopped["status"], stopped["job_exit_code"]) == (0, "STOPPED", 143)
    ended = here.end(waiting)
    assert ended["submission_id"] == begun["submission_id"]
    assert (ended["exit_code"], ended["status"], ended["joined"]) == (143, "STOPPED", True)
    # SIGTERM has had its time.
    assert ended["job"]["exit_code"] == 143
    (summary,) = (here.output / "runs").glob("*/summary.json")
    assert "stopped by SIGTERM" in json.loads(summary.read_text())["error"]
    (lease,) = (here.output / "lease").iterdir()
    assert json.loads(lease.read_text())["released"] is True


@pytest.mark.slow
def test_doctor_runs_as_a_job_and_finds_gpus_that_are_none(
    cluster: tuple[Machines, str], tmp_path: Path
) -> None:
    nodes, address = cluster
    here = Submitter(tmp_path, address)
    node = nodes.add(num_cpus=1, num_gpus=64)
    try:
        ill = here.call("--shared", "--command", "doctor")
    finally:
        nodes.cluster.remove_node(node)
    assert ill["exit_code"] == 1
    checks = {check["name"]: check for check in ill["job"]["checks"]}
    assert [name for name, check in checks.items() if check["state"] != "ok"] == ["device"]
    assert "no NVIDIA driver answers" in checks["device"]["told"]
    assert "4 nodes up, 7 CPUs, 64 GPUs" in checks["cluster"]["told"]
    assert "reached from 4 nodes" in checks["stores"]["told"]


# --- a wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs are of an environment with the wheel of this checkout, which sees no checkout."""
    folder = tmp_path_factory.mktemp("installed")
    source, environment = folder / "source", folder / "environment"
    shutil.copytree(ROOT / "batch_nst", source / "batch_nst", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    venv.create(environment, symlinks=True)
    (site,) = environment.glob("lib/*/site-packages")

    def pip(*words: str | Path) -> None:
        quiet = ("--quiet", "--disable-pip-version-check", "--no-deps")
        subprocess.run([sys.executable, "-m", "pip", *words, *quiet], check=True, cwd=folder)

    pip("wheel", source, "--no-build-isolation", "--wheel-dir", folder)
    (wheel,) = folder.glob("*.whl")
    # Not --python: pip then looks at the packages beside itself, and finds this one installed.
    pip("install", "--no-index", "--target", site, wheel)
    # What batch_nst needs is here already. Links in that folder to a checkout are not followed from there.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin"


@pytest.mark.slow
def test_an_installed_wheel_sends_no_code_and_runs_where_it_is_installed(
    installed: Path, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))},
        "PATH": f"{installed}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    token = secrets.token_hex(32)
    (tmp_path / "token").write_text(token)
    python = str(installed / "python")
    where = subprocess.run(
        [python, "-c", "import batch_nst; print(batch_nst.__file__)"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert Path(where).is_relative_to(installed.parent)
    # Not pytest's folder: Ray's sockets lie in it, and their paths are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="nst", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = subprocess.Popen(
            [
                *(python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=3"),
                *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}/t"),
                *("--object-store-memory=100000000", *(f"--{name}={port}" for name, port in ports.items())),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{ports['dashboard-port']}"
            jobs = urllib.request.Request(
                f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"}
            )
            wait_for(jobs, head)
            here = Submitter(tmp_path, address, python, environment)
            ended = here.call("--shared", "--command", "generate", "generate.iterations=1")
            sent = Path(folder).glob("t/session_latest/runtime_resources/working_dir_files/*/*")
            kinds = sorted(path.suffix for path in sent)
        finally:
            kill(head)
    assert (ended["exit_code"], ended["status"], ended["job"]["made"]) == (0, "SUCCEEDED", 12)
    assert kinds == [".png", ".yaml"]  # painting and recipe


@pytest.mark.slow
def test_an_installed_wheel_has_photos_and_a_painting_to_try(installed: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    small = ("generate.iterations=1", "generate.image_size=32", "style.size=32", "--photos", "1")
    words = ("-m", "batch_nst", "try", "loss.style_weight=1,2", *small)
    subprocess.run([installed / "python", *words], cwd=tmp_path, env=environment, check=True)
    assert "chelsea" in (tmp_path / "try.html").read_text()


def wait_for(request: urllib.request.Request, server: subprocess.Popen[str]) -> None:
    """Until it is answered."""
    while True:
        assert server.poll() is None, server.communicate()[0]
        try:
            with urllib.request.urlopen(request, timeout=30):
                return
        except OSError:
            time.sleep(0.2)
