"""Laws of a Ray that cannot be started or joined, each with what is really wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from batch_nst.errors import ClusterError
from batch_nst.pipelines.cluster import session
from batch_nst.pipelines.cluster.address import check_address
from tests.support.namespaces import unshared


@pytest.mark.parametrize(
    "address",
    ["ray://127.0.0.1:10001", "10.0.0.1", "head:", ":6379", "head:six", "http://head:8265", "h:70000"],
)
def test_an_address_of_another_form_is_refused_with_those_that_are_allowed(address: str) -> None:
    with pytest.raises(ClusterError, match=r"HOST:PORT") as refused:
        check_address(address)
    assert repr(address) in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "timed out"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what listens there is no Ray, and answers b'HTTP/1.1 '"),
        (None, "refused"),
    ],
)
def test_an_address_is_looked_at_before_ray_is(answer: bytes | None, told: str) -> None:
    """What listens says nothing, or something else; or nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"

        def speak() -> None:
            connection, _ = head.accept()
            with connection:
                connection.sendall(answer or b"")
                connection.recv(100)
                connection.recv(100)

        if answer is None:
            head.close()
        else:
            threading.Thread(target=speak).start()
        with pytest.raises(ClusterError, match=f"{told}.*; no Ray answers at {address} .*unset it"):
            check_address(address, seconds=0.5)


@pytest.mark.parametrize("cpus", ["0.5", "1.0", "1.5"])
def test_a_container_with_half_a_processor_counts_as_one(cpus: str) -> None:
    """Ray reads the limit, of either version of cgroups, where Linux shows it."""
    quota = int(float(cpus) * 100_000)
    v1 = f"mkdir $0/cpu; echo {quota} > $0/cpu/cpu.cfs_quota_us; echo 100000 > $0/cpu/cpu.cfs_period_us"
    script = {"0.5": f'echo "{quota} 100000" > $0/cpu.max', "1.5": v1, "1.0": v1}[cpus]
    question = "from batch_nst.pipelines.cluster.connect import cpus_here; print(cpus_here())"
    limited = unshared(
        "--mount",
        'mount -t tmpfs none /sys/fs/cgroup; sh -ec "$1" /sys/fs/cgroup; exec "$2" -c "$3"',
        *(script, sys.executable, question),
    )
    ran = subprocess.run(limited, capture_output=True, text=True)
    assert ran.stdout == "1\n", ran.stderr


def test_a_temporary_folder_may_be_as_long_as_sockets_allow(tmp_path: Path) -> None:
    home = {"RAY_AUTH_TOKEN": "secret"}
    longest = "/tmp/" + "x" * (session._MOST_BYTES - 5)
    try:
        session.check_folders(home | {"TMPDIR": longest})
    finally:
        Path(longest, "ray").rmdir()
        Path(longest).rmdir()
    with pytest.raises(ClusterError, match=f"allowed: {session._MOST_BYTES}; set RAY_TMPDIR"):
        session.check_folders(home | {"TMPDIR": longest + "x"})


@pytest.mark.parametrize("folder", ["/proc", "/dev/null"])
def test_a_folder_that_ray_cannot_write_to_is_named(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    with pytest.raises(ClusterError, match=f"cannot write to {folder}/ray .*RAY_TMPDIR"):
        session.check_folders({"RAY_TMPDIR": folder})
    monkeypatch.setenv("HOME", folder)
    with pytest.raises(ClusterError, match=f"cannot write to {folder}/.ray .*HOME"):
        session.check_folders({})
    session.check_folders({"RAY_AUTH_TOKEN": "secret"})


NOISY = """
import logging, sys, numpy, ray
from batch_nst import cli
from batch_nst.errors import ClusterError
from batch_nst.pipelines.cluster import connect
class Actor:
    def __init__(self, array): pass
    def ready(self): return True
def run(options):
    connect.connect()
    actor = ray.remote(max_restarts=1)(Actor).remote(ray.put(numpy.zeros(1 << 20)))
    assert ray.get(actor.ready.remote())
    for name in ("ray", "ray.data", "ray.train", "ray._private.worker"):
        logging.getLogger(name).warning("by %s", name)
    raise ClusterError("it failed")
cli._plan = run
cli.main(["plan", "recipe.yaml"])
"""


@pytest.mark.slow
def test_lines_of_ray_go_to_a_file_that_a_failure_names(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", NOISY],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "RAY_TMPDIR": "/tmp"},
    )
    (log,) = tmp_path.glob("batch-nst-*.log")
    named, error = ran.stderr.splitlines()
    assert named.startswith(f"what Ray wrote is in {log} on ")
    assert (ran.returncode, error) == (1, "batch-nst plan: it failed")
    for line in ("has constructor arguments in the object store", "by ray", "by ray.data", "by ray.train"):
        assert line in log.read_text()


SLEEPS = """
import time, sys
from batch_nst import cli
from batch_nst.pipelines.cluster import connect
def run(options):
    print("begins", file=sys.stderr, flush=True)
    connect.connect()
    print("joined", file=sys.stderr, flush=True)
    time.sleep(60)
cli._plan = run
cli.main(["plan", "recipe.yaml"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1, 2.0, 5.0])
def test_sigterm_while_ray_starts_is_143(seconds: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    assert process.stderr.readline() == "begins\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.splitlines()[-1] == "batch-nst plan: stopped by SIGTERM"
    assert json.loads(output)["exit_code"] == 143
