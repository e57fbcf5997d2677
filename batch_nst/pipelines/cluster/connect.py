"""Join the Ray cluster that a command runs on, or start one inside the process; choose its workers."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

import ray
from ray import exceptions
from ray._private import ray_constants, services  # each use below says why, and what breaks without it
from ray._private.utils import get_num_cpus  # what Ray itself would count
from ray.util import accelerators
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from batch_nst.data.storage.store import Store
from batch_nst.errors import ClusterError, RecipeError
from batch_nst.pipelines.cluster import session
from batch_nst.pipelines.cluster.address import check_address
from batch_nst.pipelines.cluster.nodes import (
    Node,
    cores_here,
    living_nodes,
    settle_device,
    started_here,
    wait_for_room,
)
from batch_nst.pipelines.cluster.stop import WAIT_MINUTES
from batch_nst.pipelines.cluster.watch import is_lost, watch
from batch_nst.recipe import Train
from batch_nst.streams import set_aside

if TYPE_CHECKING:  # whoever counts crashes or looks for a stop in a worker needs no torch
    from batch_nst.engine.device import Device

NEWEST_RAY_SEEN = "2.60.0"
"""Newest Ray that the tests have run with. A later one may have moved the private parts used here."""

_TALKATIVE = ("ray._private.authentication.authentication_token_setup", "ray.data._internal.progress")
"""Loggers that warn of intended settings: tokens are on, and this project shows progress itself.

Their names are private to Ray; if they change, the warnings appear and nothing else breaks.
"""

_GPU_LABEL = "ray.io/accelerator-type"
"""The label that Ray gives to nodes with GPUs."""

_RAYLET_SECONDS, _HEAD_SECONDS = 3.0, 40.0
"""How long parts of Ray may be gone, here and on the head; Ray ends its driver after some 15 and 60 s."""

LOSSES: tuple[type[Exception], ...] = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.RaySystemError,
    exceptions.RpcError,
)
"""Errors of a driver whose Ray has gone: of processes, not of what ran in them."""


class TaskOptions(TypedDict):
    """Options of a Ray task."""

    num_cpus: float
    label_selector: NotRequired[dict[str, str]]
    """Labels of the nodes that it may run on."""
    fallback_strategy: NotRequired[list[dict[str, dict[str, str]]]]
    """Others, where these have no room."""


@dataclass(frozen=True)
class Workers:
    """Resources of an actor that holds VGG-16, and the maximum number of such actors in this cluster."""

    device: Literal["cpu", "cuda"]
    num_cpus: float
    num_gpus: float
    threads: int
    most: int
    """How many such actors the nodes that are up hold."""

    def pool(self, actors: list[int], tasks: int, calls: int = 1) -> ray.data.ActorPoolStrategy:
        """A pool within the recipe's [fewest, most], bounded by the number of tasks.

        As many actors as the nodes hold are requested at once, because Ray Data would add one every half
        minute; more as further nodes come. It releases those that have no work. `calls` is the maximum number
        of concurrent calls per actor.
        """
        most = max(1, min(actors[1], tasks))
        now = min(self.at_once(actors), most)
        return ray.data.ActorPoolStrategy(
            min_size=min(actors[0], most),
            max_size=most,
            initial_size=max(now, min(actors[0], most)),
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=True,
        )

    @property
    def decoding(self) -> TaskOptions:
        """What a task needs that decodes photos for such actors.

        Beside GPUs it takes a processor, and goes to a node without a GPU where one has room: what decodes on
        a GPU's node competes with the thread that feeds it. Beside actors on CPUs it fits on one core.
        """
        if self.device == "cpu":
            return {"num_cpus": 0.25}
        return {
            "num_cpus": self.num_cpus / 2,
            "label_selector": {_GPU_LABEL: f"!in({','.join(_gpu_types())})"},
            "fallback_strategy": [{"label_selector": {}}],
        }

    def threads_here(self) -> int:
        """CPU threads of such an actor on the node where it runs, which may have more cores than others."""
        on_node = self.device == "cpu" and ray.is_initialized() and ray.get_runtime_context().get_actor_id()
        return cores_here(self.num_cpus) if on_node else self.threads

    def at_once(self, actors: list[int]) -> int:
        """How many actors the nodes that are up hold, given the recipe's [fewest, most]."""
        return max(1, min(actors[1], self.most))

    def in_words(self, actors: list[int]) -> str:
        """The actors that there are and can be, given the recipe's [fewest, most]."""
        now = self.at_once(actors)
        more = f", up to {actors[1]} as nodes come" if now < actors[1] and not started_here() else ""
        some = "1 actor with" if now == 1 else f"{now} actors, each with"
        return f"{some} {self.threads} thread{'s' if self.threads > 1 else ''}{more}"


def connect() -> None:
    """Join the cluster of `RAY_ADDRESS`, of the submitted job, or of this machine; else start one inside."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Two settings for a Ray that is started here. By default it runs workers at nice 15. A parallel loop of
    # torch waits for its slowest thread, so any process of normal priority on the machine would stall it.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray also ends workers that are idle for a second, by default, and starts others for the next unit, each
    # with two seconds of imports. `cluster.yaml` has the same setting.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    contexts = ray.data.DataContext  # Ray imports its parts when they are named; this one makes loggers
    _set_aside_lines_of_ray()
    if not ray.is_initialized():
        _start_or_join()
        watch(is_alive, _RAYLET_SECONDS)
        watch(_head_is_alive, _HEAD_SECONDS)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = contexts.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    # A unit may take longer than Ray's half hour without progress, on a slow node.
    context.execution_no_progress_timeout_s = -1
    # One node with a broken driver must not end the job.
    context.max_consecutive_actor_init_deaths = 3


def _set_aside_lines_of_ray() -> None:
    """Let what Ray's parts in C++ and Python write go to the log file of a command."""
    stream = set_aside()
    for name, logger in logging.root.manager.loggerDict.items():
        if stream and name.partition(".")[0] == "ray" and isinstance(logger, logging.Logger):
            for handler in logger.handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
                    handler.setStream(stream)


def _start_or_join() -> None:
    # Private, as no public call says whether `ray start` has left a cluster on this machine. Not "auto":
    # that also joins a Ray that another command has started inside itself, and dies with it. Without
    # this function, a cluster of `ray start` is only found through RAY_ADDRESS.
    address = services.get_ray_address_from_environment(None, None) or "local"
    try:
        if address not in ("local", "auto"):
            check_address(address)
        if address != "local":
            session.start(address)
            return
    except (ClusterError, ConnectionError) as error:
        if given := os.environ.get("RAY_ADDRESS"):
            if isinstance(error, ClusterError):
                raise
            raise ClusterError(
                f"RAY_ADDRESS={given}: no Ray runs there; start its head (ray start --head), or unset it"
            ) from error
        # else the cluster that `ray start` left on this machine is gone
    _stay_on_loopback()
    session.check_folders(dict(os.environ))
    session.start("local", cpus_here())


def cpus_here() -> int:
    """The processors of this machine, 1 or more, for a Ray that is started here.

    Ray would count none where a container has half a processor, and nothing would ever be scheduled.
    """
    return max(1, int(get_num_cpus(override_docker_cpu_warning=True)))


def _stay_on_loopback() -> None:
    """Let the Ray that is started next, and torch's process groups inside it, listen on 127.0.0.1."""
    # Private, as there is no public way (Ray 2.60): Ray replaces a loopback address by the machine's own,
    # unless this constant says, as on macOS, that it cannot form clusters. Without it, a Ray inside a command
    # listens on the machine's address, which tests/test_security.py notices.
    ray_constants.ENABLE_RAY_CLUSTER = False
    for name in {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)  # else the address of the machine's name


def _gpu_types() -> list[str]:
    """The kinds of accelerators that Ray knows, and those of nodes that are up."""
    known = {kind for name, kind in vars(accelerators).items() if name.isupper() and isinstance(kind, str)}
    seen = {node["Labels"][_GPU_LABEL] for node in living_nodes() if _GPU_LABEL in node["Labels"]}
    return sorted(known | seen)


def choose_workers(device: Device, minutes: float = WAIT_MINUTES, gpus: int = 1) -> Workers:
    """One actor per GPU, or one per node; waits up to so many minutes for a node, or for so many GPUs.

    Raises:
        RecipeError, ClusterError: no such node can come, or has come; see `wait_for_room`.
    """
    settled = settle_device(device)
    wait_for_room(*(("GPU", minutes, gpus) if settled == "cuda" else ("CPU", minutes)))
    return workers_on([node["Resources"] for node in living_nodes()], settled)


def workers_on(nodes: Sequence[Mapping[str, float]], device: Literal["cpu", "cuda"]) -> Workers:
    """The actors for nodes with these resources, at least one of which has what the device needs."""
    if device == "cuda":
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        cpus = min(node.get("CPU", 0) / node["GPU"] for node in nodes if node.get("GPU"))
        # One for the thread that feeds the GPU and one for those that encode, if that leaves as many.
        return Workers("cuda", num_cpus=min(2.0, cpus / 2), num_gpus=1, threads=2, most=gpus)
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    threads = min(cores)
    # One actor computes on all cores of a node. It reserves more than half of them, so that a second one does
    # not fit, and leaves some for other stages.
    return Workers("cpu", max(0.6 * threads, threads - 1), num_gpus=0, threads=threads, most=len(cores))


def choose_trainers(train: Train, minutes: float = WAIT_MINUTES) -> Workers:
    """Resources of each training worker: a GPU, or its share of a node's cores; as `choose_workers`.

    Waits until as many fit as `train.workers` says at least; Ray Train itself would wait without end.
    """
    fewest = train.worker_range[0]
    workers = trainers_of(choose_workers(train.device, minutes, fewest), train)
    if workers.device == "cpu":
        wait_for_room("CPU", minutes, fewest, workers.threads)
    return workers


def trainers_of(one: Workers, train: Train) -> Workers:
    """The training workers where `one` is the actor of a node or GPU."""
    if one.device == "cuda":
        return one
    # As many workers as there are nodes get a node each; more workers share its cores. For elastic training
    # the minimum counts: additional workers run on additional nodes.
    sharing = math.ceil(train.worker_range[0] / one.most)
    threads = max(1, one.threads // sharing)
    # Reserve all cores that they compute on, so that no node gets an extra worker when another node is lost.
    return replace(one, threads=threads, num_cpus=threads)


def is_alive() -> bool:
    """Whether the parts of Ray that this process needs take connections; without them Ray ends it too."""
    # Private, as no public call answers once it is gone (Ray 2.60). Ray then ends its driver, with exit code
    # 1 and without a word, some 15 seconds later. Without this function, that is how SIGTERM may end.
    if is_lost():
        return False
    node = ray._private.worker._global_node
    if node is None or not ray.is_initialized():
        return True
    with socket.socket(socket.AF_UNIX) as local:
        try:
            local.connect(node.raylet_socket_name)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


def _head_is_alive() -> bool:
    """Whether something listens where the head of this cluster was; true where nobody knows."""
    if not ray.is_initialized():
        return True
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _HEAD_SECONDS).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
    return True


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """This process's node, for an actor that it depends on: the loss of another node does not end both."""
    return on_node(_this_node())


def on_node(node: str) -> NodeAffinitySchedulingStrategy:
    """A scheduling strategy: this node and no other."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


def result_of(reference: ray.ObjectRef[Any]) -> Any:
    """What a long task returns or raises, awaited so that SIGTERM can end the command.

    `ray.get` loses the exception that a handler of SIGTERM raises, or turns it into a SystemError.
    """
    return reference.future().result()


def check_output_is_shared(store: Store) -> None:
    """Refuse a local output that other nodes of the cluster do not see.

    Raises:
        RecipeError: names such a node.
    """
    others = [node for node in living_nodes() if node["NodeID"] != _this_node()]
    if store.local_path is None or not others:
        return
    marker = f".tmp/seen-{uuid.uuid4().hex}"
    store.create(marker, b"")
    try:
        for node, reference in zip(others, ask(others, _exists, store.uri, marker), strict=True):
            try:
                seen = ray.get(reference)
            except (*LOSSES, exceptions.TaskUnschedulableError):  # the node has gone since it was listed
                continue
            if not seen:
                raise RecipeError(
                    f"output {store.uri}: is local, and node {node['NodeManagerAddress']} does not see it; "
                    "allowed: a bucket, or a disk that all nodes share"
                )
    finally:
        store.delete(marker)


def ask(nodes: Sequence[Node], question: Callable[..., object], *arguments: object) -> list[Any]:
    """Run a function on each of these nodes, without reserving resources; references to the results."""
    task = ray.remote(num_cpus=0)(question)
    return [task.options(scheduling_strategy=on_node(node["NodeID"])).remote(*arguments) for node in nodes]


def answers(asked: Sequence[Any], seconds: float) -> list[Any]:
    """Results of `ask`, each within `seconds` from now, or the exception raised instead of it."""
    until = time.monotonic() + seconds
    found: list[Any] = []
    for reference in asked:
        try:
            found.append(ray.get(reference, timeout=max(0.1, until - time.monotonic())))
        except Exception as error:
            found.append(error)
    return found


def ask_a_gpu(question: Callable[..., str], seconds: float, *arguments: object) -> str:
    """The result of a function that runs where it has a GPU.

    Raises:
        ClusterError: no GPU was free in time, or none answered. Then nothing is asked for any more.
    """
    reference = ray.remote(num_cpus=0, num_gpus=1, max_retries=0)(question).remote(*arguments)
    try:
        return str(ray.get(reference, timeout=seconds))
    except exceptions.GetTimeoutError as error:
        ray.cancel(reference, force=True)
        raise ClusterError(f"no GPU was free and answered within {seconds:g} s; see `ray status`") from error


def _exists(uri: str, name: str) -> bool:
    return Store(uri).exists(name)


def _this_node() -> str:
    return str(ray.get_runtime_context().get_node_id())
