"""Laws of `pipelines.attempts`, with workers that die."""

import os
import signal
from typing import Any

import pytest
import ray

from batch_nst.pipelines.cluster.crash_counter import CrashCounter


@pytest.fixture(scope="module")
def attempts(ray_cluster: None) -> CrashCounter:
    return CrashCounter()


def begin(attempts: CrashCounter, step: str, dies: int = 0, bug: str = "") -> Any:
    """A step that ends so many workers, one after the other, and tells of how many it was told in the end."""

    @ray.remote(num_cpus=1, max_retries=-1)
    def work() -> int:
        with attempts(step) as deaths:
            if deaths < dies:
                os.kill(os.getpid(), signal.SIGKILL)
            if bug:
                raise ValueError(bug)
            return deaths

    return work.remote()


def test_a_step_is_told_how_many_workers_it_has_ended_and_no_others(attempts: CrashCounter) -> None:
    assert ray.get([begin(attempts, "a", 3), begin(attempts, "b", 1), begin(attempts, "c")]) == [3, 1, 0]


def test_a_step_that_came_to_an_end_has_ended_no_worker_but_those_before(attempts: CrashCounter) -> None:
    assert ray.get(begin(attempts, "twice", 1)) == 1
    assert ray.get(begin(attempts, "twice")) == 1  # as where the node with its result was lost
    with pytest.raises(ValueError, match="a bug"):
        ray.get(begin(attempts, "buggy", bug="a bug"))
    assert ray.get(begin(attempts, "buggy")) == 0
