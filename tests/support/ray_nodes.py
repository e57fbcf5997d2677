"""Several Ray nodes on one machine, as `cluster.yaml` starts them, and the command that runs on them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from tests.support.fake_device import QUICK, entries
from tests.support.places import ROOT

STORE = 100 << 20


def shipped_settings() -> dict[str, str]:
    """What the head of `cluster.yaml` tells Ray about lost nodes and idle workers, as environment."""
    commands = yaml.safe_load((ROOT / "cluster.yaml").read_text())["head_start_ray_commands"]
    found = dict(re.findall(r"\b(RAY_[a-z_]+)=(\d+)", " ".join(commands)))
    assert "RAY_health_check_period_ms" in found
    return found


def start_ray() -> None:
    """Start a Ray of this machine alone, inside this process, if there is none here."""
    if not ray.is_initialized():
        ray.init("local", num_cpus=4, object_store_memory=STORE, include_dashboard=False, log_to_driver=False)


@contextlib.contextmanager
def small_ray() -> Iterator[None]:
    """A Ray of its own inside this process: one whose workers have today's environment, or one to spoil."""
    ray.shutdown()
    start_ray()
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def joined(machines: Machines) -> Iterator[None]:
    """This process on a cluster, and no more in the Ray of `start_ray`."""
    ray.shutdown()
    ray.init(machines.cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def crash(raylet: psutil.Process) -> None:
    """Kill a node with all that runs on it, as when the power fails."""
    for process in (raylet, *raylet.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


class Machines:
    """A head that runs no tasks, and workers that hold one actor each."""

    def __init__(self, workers: int, head: Mapping[str, Any]) -> None:
        """For `machines`."""
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": STORE,
                "include_dashboard": False,
                **head,
            },
        )
        self.nodes = [self.add() for _ in range(workers)]

    def add(self, num_cpus: int = 3, **more: Any) -> Any:
        """A worker; returns when it is there."""
        # Code that a job brings along lies in a folder of the node's own, as on a machine of its own: before
        # a node unpacks it, it empties that folder, and would do so under the others' workers.
        own = f"runtime_resources_{secrets.token_hex(4)}"
        return self.cluster.add_node(
            num_cpus=num_cpus, object_store_memory=STORE, runtime_env_dir_name=own, **more
        )

    def replace(self, node: Any) -> Any:
        """Crash a worker with all that runs on it, and start another in its place."""
        self.crash(node)
        self.nodes[self.nodes.index(node)] = new = self.add()
        return new

    def crash(self, node: Any) -> None:
        """As when the power fails."""
        crash(psutil.Process(node.all_processes["raylet"][0].process.pid))
        self.cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any, seconds: int) -> None:
        """Say that a worker will be taken away: a spot notice."""
        subprocess.run(
            [
                *(str(Path(sys.executable).parent / "ray"), "drain-node", "--address", self.cluster.address),
                *("--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
                *("--reason-message", "spot", "--deadline-remaining-seconds", str(seconds)),
            ],
            check=True,
            capture_output=True,
        )


@contextlib.contextmanager
def machines(workers: int, **head: Any) -> Iterator[Machines]:
    """Nodes whose workers find the tests, with the settings that `cluster.yaml` ships; `head` are options."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shipped_settings().items():
            patch.setenv(name, value)
        found = Machines(workers, head)
        try:
            yield found
        finally:
            found.cluster.shutdown()


class Command:
    """`batch-nst generate` with a simulated device, in a session of its own."""

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, Any],
        seconds: float,
        address: str = "local",
        inside: Callable[[list[str]], list[str]] = list,
        **environment: str,
    ) -> None:
        """Start it.

        Args:
            folder: for the recipe and the journal.
            recipe: a document.
            seconds: a unit.
            address: of a Ray; one of its own by default.
            inside: what makes of the command line the one that is run.
            environment: beside that of this process.
        """
        self.journal = folder / "journal"
        self.journal.mkdir(exist_ok=True)
        (folder / "recipe.yaml").write_text(json.dumps(recipe))
        words = (ROOT / "tests" / "support" / "fake_device.py", seconds, self.journal, folder / "recipe.yaml")
        self._log = folder / "log"
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                inside([sys.executable, *map(str, words)]),
                env={
                    **os.environ,
                    "RAY_ADDRESS": address,
                    **environment,
                },
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def wait_until_busy(self, nodes: int) -> list[str]:
        """Until so many nodes have begun a unit; their ids."""
        while len(busy := sorted({entry["node"] for entry in entries(self.journal)})) < nodes:
            assert self.process.poll() is None, self.log
            time.sleep(0.1)
        return busy

    def hurry(self) -> None:
        """Let units take no time from now on."""
        (self.journal / QUICK).touch()

    def finish(self) -> dict[str, Any]:
        """What it printed, with `exit_code`."""
        stdout, _ = self.process.communicate()
        assert stdout, self.log
        return dict(json.loads(stdout.splitlines()[-1]))

    def kill(self) -> None:
        """The driver, with signal 9."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    @property
    def log(self) -> str:
        """What it, and those before it in its folder, said."""
        return self._log.read_text()
