"""Laws of what actors a cluster is asked for."""

import os
import subprocess
import sys
import time
from typing import Literal

import pytest
import ray

from batch_nst.pipelines.cluster.connect import (
    TaskOptions,
    Workers,
    choose_workers,
    on_node,
    trainers_of,
    workers_on,
)
from batch_nst.recipe import Train
from tests.support.ray_nodes import joined, machines


@pytest.mark.parametrize(
    ("actors", "most", "tasks", "expected"),
    [
        ([1, 64], 16, 1000, (1, 16, 64)),  # what the nodes hold that are up, and more when more have come
        ([1, 8], 16, 1000, (1, 8, 8)),  # what the recipe allows
        ([4, 8], 16, 3, (3, 3, 3)),  # what there is to do
        ([4, 8], 2, 1000, (4, 4, 8)),
        ([1, 64], 16, 0, (1, 1, 1)),
    ],
)
def test_all_actors_that_have_a_node_and_work_are_asked_for_at_once(
    actors: list[int], most: int, tasks: int, expected: tuple[int, int, int]
) -> None:
    pool = Workers("cpu", num_cpus=1, num_gpus=0, threads=1, most=most).pool(actors, tasks)
    assert (pool.min_size, pool.initial_size, pool.max_size) == expected


@pytest.mark.parametrize(
    ("nodes", "asked", "threads"),
    [
        ([{"CPU": 8.0}] * 2, 2, 8),  # a node each
        ([{"CPU": 8.0}] * 2, 1, 8),
        ([{"CPU": 8.0}] * 2, 4, 4),
        ([{"CPU": 8.0}] * 2, [1, 3], 8),  # on nodes that may come
        ([{"CPU": 8.0}] * 2, [3, 4], 4),
        ([{"CPU": 1.0}], [1, 2], 1),
    ],
)
def test_a_training_worker_reserves_what_it_computes_on_and_no_node_holds_more_than_its_share(
    nodes: list[dict[str, float]], asked: int | list[int], threads: int
) -> None:
    workers = trainers_of(workers_on(nodes, "cpu"), Train(workers=asked))
    assert (workers.num_cpus, workers.threads) == (threads, threads)


@pytest.mark.parametrize(
    ("nodes", "device", "num_cpus", "most"),
    [
        ([{"CPU": 8.0}] * 2, "cpu", 7, 2),
        ([{"CPU": 1.0}] * 3, "cpu", 0.6, 3),  # a whole one would be all that there is
        ([{"CPU": 0.0}, *[{"CPU": 2.0}] * 4], "cpu", 1.2, 4),
        ([{"CPU": 1.0}, {"CPU": 2.0}], "cpu", 0.6, 2),
        ([{"CPU": 16.0, "GPU": 1.0}] * 2, "cuda", 2, 2),
        ([{"CPU": 16.0, "GPU": 8.0}, {"CPU": 16.0, "GPU": 1.0}, {"CPU": 1.0}], "cuda", 1, 9),
        ([{"CPU": 4.0, "GPU": 8.0}], "cuda", 0.25, 8),
    ],
)
def test_actors_leave_processors_for_the_stages_beside_them(
    nodes: list[dict[str, float]], device: Literal["cpu", "cuda"], num_cpus: float, most: int
) -> None:
    workers = workers_on(nodes, device)
    assert (workers.num_cpus, workers.most) == (num_cpus, most)


@ray.remote
def _where(seconds: float) -> str:
    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())


def _at_once(tasks: int, options: TaskOptions) -> list[str]:
    """The nodes of so many tasks that run at the same time."""
    return ray.get([_where.options(**options).remote(1.0) for _ in range(tasks)])


@pytest.mark.slow
def test_photos_for_gpus_are_decoded_on_nodes_without_one_while_these_have_room() -> None:
    with machines(0) as nodes:
        # A kind that Ray's list lacks.
        with_gpu = nodes.add(num_cpus=4, num_gpus=1, labels={"ray.io/accelerator-type": "B300"}).node_id
        with joined(nodes):
            workers = choose_workers("cuda")
            assert (workers.num_cpus, workers.decoding["num_cpus"]) == (2, 1)
            assert _at_once(2, workers.decoding) == [with_gpu] * 2
            without = nodes.add(num_cpus=2).node_id
            assert _at_once(2, workers.decoding) == [without] * 2
            full = _where.options(num_cpus=2, scheduling_strategy=on_node(without)).remote(600.0)
            assert _at_once(1, workers.decoding) == [with_gpu]
            ray.cancel(full, force=True)
            rows = ray.data.from_items([0.0]).map(
                lambda row: {"node": ray.get_runtime_context().get_node_id()}, **workers.decoding
            )
            assert [row["node"] for row in rows.iter_rows()] == [without]  # Ray Data takes the options too


WAITING = """
import os, signal, threading, time
import ray
from batch_nst.errors import Stopped
from batch_nst.pipelines.cluster.connect import connect, result_of

def stop(_signal, _frame):
    raise Stopped("stopped")

@ray.remote
def part(number, seconds=0.0):
    time.sleep(seconds)
    return 1 / number

connect()
print(result_of(part.remote(2)))
try:
    result_of(part.remote(0))
except ZeroDivisionError:
    print("raised")
signal.signal(signal.SIGTERM, stop)
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
try:
    result_of(part.remote(2, seconds=60.0))
except Stopped:
    print("stopped")
"""


@pytest.mark.slow
def test_who_waits_for_a_task_hears_sigterm_and_what_the_task_returns_or_raises() -> None:
    """In a process of its own, whose handlers nobody else has set."""
    ran = subprocess.run(
        [sys.executable, "-c", WAITING],
        env=os.environ | {"RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["0.5", "raised", "stopped"]
