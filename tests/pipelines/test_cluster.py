"""Laws of what actors a cluster is asked for."""

import pytest

from batch_nst.pipelines.cluster import Workers


@pytest.mark.parametrize(
    ("actors", "most", "tasks", "expected"),
    [
        ([1, 64], 16, 1000, (1, 16)),  # what the cluster can hold
        ([1, 8], 16, 1000, (1, 8)),  # what the recipe allows
        ([4, 8], 16, 3, (3, 3)),  # what there is to do
        ([4, 8], 2, 1000, (2, 2)),
        ([1, 64], 16, 0, (1, 1)),
    ],
)
def test_all_actors_that_have_work_are_asked_for_at_once(
    actors: list[int], most: int, tasks: int, expected: tuple[int, int]
) -> None:
    pool = Workers("cpu", num_cpus=1, num_gpus=0, threads=1, most=most).pool(actors, tasks)
    assert (pool.min_size, pool.max_size) == expected
    assert pool.initial_size == pool.max_size
