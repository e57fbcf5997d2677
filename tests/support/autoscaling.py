"""A cluster with Ray's real autoscaler on one machine: its provider starts nodes that are processes."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from tests.support.ray_nodes import STORE, shipped_settings

IDLE_MINUTES = 0.2


def config(port: int, types: Mapping[str, Mapping[str, float]], most: int) -> dict[str, Any]:
    """What `ray start --autoscaling-config` reads: a head without CPUs, and types of nodes."""
    nodes = {
        name: {
            "resources": {**resources, "object_store_memory": STORE},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        }
        for name, resources in types.items()
    }
    return {
        "cluster_name": "from-zero",
        "max_workers": most * len(types),
        "upscaling_speed": 20.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {
            "type": "external",
            "module": "tests.support.machines.Provider",
            "gcs_address": f"127.0.0.1:{port}",
            "disable_node_updaters": True,
            "launch_multiple": True,
            # All nodes have one address; by it the autoscaler would not know which of them is idle.
            "use_node_id_as_ip": True,
        },
        "auth": {"ssh_user": "nobody"},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **nodes,
        },
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


@contextlib.contextmanager
def from_zero(port: int, most: int = 2, **types: Mapping[str, float]) -> Iterator[str]:
    """The address of a head whose node types have these resources, up to `most` nodes each.

    Without types nothing starts nodes. Processes that are started meanwhile have its token.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with _head(port, types, most) as address:
            yield address


@contextlib.contextmanager
def _head(port: int, types: Mapping[str, Mapping[str, float]], most: int) -> Iterator[str]:
    # Not pytest's folder: Ray's sockets lie in it, and their paths are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="nst", dir="/tmp", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "autoscaling.yaml"
        path.write_text(yaml.safe_dump(config(port, types, most)))
        words = [
            *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"),
            *(f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=0"),
            *([f"--autoscaling-config={path}"] if types else []),
            *(f"--temp-dir={folder}/t", "--include-dashboard=false"),
            f"--object-store-memory={STORE}",
        ]
        log = Path(folder) / "head.log"
        head = _start(words, log)
        try:
            # Ray waits 30 s for its first node, on a busy machine too.
            if not _runs(head, log) and "node timed out during startup" in log.read_text():
                _kill(_processes_of(folder))
                head = _start(words, log)
            assert _runs(head, log), log.read_text()
            yield f"127.0.0.1:{port}"
        finally:
            end(head)


def _start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("w") as output:
        return subprocess.Popen(
            words,
            env={
                **os.environ,
                **shipped_settings(),
                "RAY_FAKE_CLUSTER": "1",
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _runs(head: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until the cluster of a head runs; False if the head has ended before."""
    while "Ray runtime started" not in log.read_text():
        if head.poll() is not None:
            return False
        time.sleep(0.1)
    return True


def _processes_of(folder: str) -> list[psutil.Process]:
    """What a cluster in this folder has left."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(folder in word for word in process.info["cmdline"] or ())
    ]


def nodes_of(address: str) -> list[psutil.Process]:
    """The nodes of this cluster that its autoscaler has started: a process each, with children."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "raylet" and f"--gcs-address={address}" in process.info["cmdline"]
    ]


def busiest(address: str) -> psutil.Process:
    """The node of these on which most actors and tasks are at work."""

    def at_work(node: psutil.Process) -> int:
        found = 0
        for process in node.children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                name = "".join(process.cmdline()[:1])
                found += name.startswith("ray::") and not name.startswith("ray::IDLE")
        return found

    return max(nodes_of(address), key=at_work)


def end(head: subprocess.Popen[bytes]) -> None:
    """Kill the head and all that it or its autoscaler has started; `ray stop` would kill others' too."""
    try:
        family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    except psutil.NoSuchProcess:  # it ended by itself, which the test tells
        return
    _kill(family)
    head.wait()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes)
