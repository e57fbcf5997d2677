"""Nodes that are up and nodes that can come: which device `auto` means, and waiting for the first nodes.

A cluster may have no node yet on which anything can run. Ray's autoscaler starts nodes for what is asked for,
and names its node types to nobody. So whether a GPU can come is found out by asking for one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

import ray
from ray._private import ray_constants  # see `look`
from ray.autoscaler.sdk import request_resources
from ray.experimental.internal_kv import _internal_kv_get  # see `look`

from batch_nst.console import log
from batch_nst.errors import ClusterError, RecipeError

if TYPE_CHECKING:  # whoever counts crashes or looks for a stop in a worker needs no torch
    from batch_nst.engine.device import Device

_LOG_SECONDS = 60.0
_ALONE_SECONDS = 50.0
"""How long it waits where nobody starts nodes but people."""
_LOOKS = 3
"""Updates of the autoscaler after which what was asked for is on its way, if it can come."""
_LOOK_SECONDS = 30.0
"""The longest wait for these updates. Where no autoscaler is at work, there are none."""
_NO_TYPE = "node_"
"""How Ray begins the type of a node that nobody but `ray start` has started."""


class Node(TypedDict):
    """What `ray.nodes()` says of a node, as far as it is used."""

    NodeID: str
    NodeManagerAddress: str
    Alive: bool
    Resources: dict[str, float]
    Labels: dict[str, str]


def living_nodes() -> list[Node]:
    """The cluster's nodes that are up."""
    return [node for node in ray.nodes() if node["Alive"]]


def room(resource: str, amount: float = 1) -> int:
    """How many workers fit on the nodes that are up, each with this amount of a `CPU` or `GPU`."""
    return sum(int(node["Resources"].get(resource, 0) / amount) for node in living_nodes())


def settle_device(device: Device) -> Literal["cpu", "cuda"]:
    """What `auto` means on this cluster: the GPU if one is up or can come, else the CPU."""
    if device == "auto":
        head = ray.get_runtime_context().gcs_address
        return "cuda" if room("GPU") or (not started_here() and _gpu_can_come(head)) else "cpu"
    return device


def wait_for_room(resource: str, minutes: float, workers: int = 1, amount: int = 1) -> None:
    """Ask for nodes, and wait until so many workers fit on those that are up; returns at once if they do.

    Args:
        resource: `CPU` or `GPU`.
        minutes: the longest wait.
        workers: how many there are.
        amount: how much of the resource each of them takes.

    Raises:
        RecipeError: this process has started its Ray, so no GPU can come, nor more CPUs.
        ClusterError: too few came in time. Then nothing is asked for any more.
    """
    if room(resource, amount) >= workers:
        return
    if started_here() and (resource == "GPU" or room("CPU")):
        raise RecipeError(_too_small(resource, workers, amount))
    start, said = time.monotonic(), -math.inf
    try:
        while (found := room(resource, amount)) < workers:
            # Again and again: a cluster has one such request, which whoever else ends a wait takes back.
            request_resources(bundles=[{resource: amount}] * workers)
            now = time.monotonic()
            what = f"room for {found} of {workers} workers" if found else f"no node with a {resource}"
            if now - said >= _LOG_SECONDS:
                log(f"{what} yet; asked for {workers}; {(now - start) / 60:.0f} minutes")
                said = now
            if now - start >= 60 * minutes:
                raise ClusterError(
                    f"{what} came within {minutes:g} minutes; start nodes, or see what `ray status` says of "
                    "the cluster's node types and quota; --wait-for-nodes MINUTES waits longer"
                )
            if now - start >= _ALONE_SECONDS and _nobody_starts_nodes(look()):
                what = what if found else f"no node of this Ray has a whole {resource}"
                raise ClusterError(
                    f"{what}, and no autoscaler starts one: start one "
                    f"(ray start --num-{resource.lower()}s=1; a container of half a {resource} needs it too)"
                )
            time.sleep(1)
    finally:
        request_resources(bundles=[])


def _too_small(resource: str, workers: int, amount: int) -> str:
    if resource == "GPU" and not room("GPU"):
        return "device: given 'cuda', but this machine has no GPU; allowed: auto, cpu"
    return (
        f"train.workers: given {workers}, each with {amount} {resource}, but this machine has "
        f"{room(resource)}; allowed: {room(resource, amount)} or fewer"
    )


@cache
def _gpu_can_come(_head: str) -> bool:
    """Whether the autoscaler of this head starts a node for a GPU, which it is asked once in a process.

    It is asked to no more when this returns.
    """
    seen, until = {look().time}, time.monotonic() + _LOOK_SECONDS
    try:
        while len(seen) <= _LOOKS and time.monotonic() < until:
            request_resources(bundles=[{"GPU": 1}])  # again and again, as in `wait_for_room`
            update = look()
            seen.add(update.time)
            if room("GPU") or update.coming.get("GPU"):
                return True
            if _nobody_starts_nodes(update):
                return False
            time.sleep(0.5)
        return False
    finally:
        request_resources(bundles=[])


def started_here() -> bool:
    """Whether this process has started its Ray, which has this machine and nothing else."""
    # Private, as no public call says it (Ray 2.60). Without it, a command looks for an autoscaler first.
    node = ray._private.worker._global_node
    return node is not None and node.is_head()


def cores_here(reserved: float) -> int:
    """CPU cores for an actor on this node that reserves so many CPUs, where as many as fit share the node."""
    me = ray.get_runtime_context().get_node_id()
    cores = next(node["Resources"].get("CPU", 1) for node in living_nodes() if node["NodeID"] == me)
    return max(1, int(cores / max(1, int(cores / reserved))))


class Update(NamedTuple):
    """What the autoscaler has said of the cluster."""

    time: float = 0.0
    """Seconds since 1970; 0: it has said nothing."""
    types: tuple[str, ...] = ()
    """Types of the nodes that are up."""
    coming: Mapping[str, float] = MappingProxyType({})
    """Resources of the nodes that are about to start."""
    asked: int = 0
    """How many resources `request_resources` asks for."""


def _nobody_starts_nodes(update: Update) -> bool:
    return bool(update.types) and all(name.startswith(_NO_TYPE) for name in update.types)


def look() -> Update:
    """The autoscaler's latest update."""
    # Private, as no public call says what the autoscaler is about to start (Ray 2.60); `ray status` reads the
    # same. Without it, `auto` finds no GPU on a cluster whose GPU nodes are all to come.
    text = _internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)
    if not text:
        return Update()
    said = json.loads(text)
    report = said.get("autoscaler_report", {})
    return Update(
        said["time"],
        tuple((report.get("node_type_mapping") or {}).values()),
        report.get("pending_resources", {}),
        len(said["load_metrics_report"]["request_demand"]),
    )
