"""Laws of `pipelines.attempts`, with workers that die."""

import os
import signal

import pytest
import ray

from batch_nst.pipelines.attempts import Attempts

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def attempts() -> Attempts:
    return Attempts()


@ray.remote(num_cpus=1, max_retries=-1)
def work(attempts: Attempts, step: str, dies: int) -> int:
    with attempts(step) as deaths:
        if deaths < dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return deaths


@ray.remote(num_cpus=1, max_retries=0)
def stumble(attempts: Attempts, step: str) -> None:
    with attempts(step):
        raise ValueError(step)


def test_a_step_is_told_how_many_workers_it_has_ended(ray_cluster: None, attempts: Attempts) -> None:
    deadly, others = (
        work.remote(attempts, "deadly", 3),
        [work.remote(attempts, "b", 0), work.remote(attempts, "c", 1)],
    )
    assert ray.get(deadly) == 3
    assert ray.get(others) == [0, 1]


def test_one_that_ended_has_ended_no_worker(ray_cluster: None, attempts: Attempts) -> None:
    assert ray.get(work.remote(attempts, "twice", 1)) == 1
    assert ray.get(work.remote(attempts, "twice", 0)) == 0
    with pytest.raises(ValueError, match="bug"):
        ray.get(stumble.remote(attempts, "bug"))
    assert ray.get(work.remote(attempts, "bug", 0)) == 0
