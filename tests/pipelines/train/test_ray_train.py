"""Laws of how tasks read and decode what a training worker sees."""

from __future__ import annotations

import time
from itertools import islice

import pytest
import ray

from batch_nst.data.dataset import sampler
from batch_nst.errors import RecipeError
from batch_nst.pipelines.cluster.connect import Workers, choose_trainers
from batch_nst.pipelines.train import batches, ray_train
from batch_nst.recipe import Train
from tests.support.read_batches import Dataset, drawn, noise, same

STEPS = 70
SETTINGS = Train(steps=STEPS, batch_size=5, crop_size=32, seed=4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return noise(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize(("rank", "world", "start", "decoders"), [(0, 1, 0, 3), (1, 2, 9, 1)])
def test_a_worker_gets_its_pairs_in_their_order_whoever_decodes_them(
    ray_cluster: None,
    dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    world: int,
    start: int,
    decoders: int,
) -> None:
    monkeypatch.setattr(sampler, "PORTION", 50)
    monkeypatch.setattr(batches, "_BLOCK", 1 << 16)  # several tasks a portion
    share = sampler.Share(SETTINGS.seed, SETTINGS.batch_size, rank, world)
    got = list(batches.training_batches(*dataset, SETTINGS, share, start, decoders))
    wanted = list(drawn(*dataset, share, STEPS, start, SETTINGS.crop_size))
    assert len(got) == len(wanted) == STEPS - start
    assert all(map(same, got, wanted))


def test_pairs_come_where_trainers_have_reserved_all_cpus(ray_cluster: None, dataset: Dataset) -> None:
    share = sampler.Share(SETTINGS.seed, SETTINGS.batch_size)
    reserved = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    ray.get(reserved.ready())
    try:
        got = list(islice(batches.training_batches(*dataset, SETTINGS, share, 0, 1), 3))
    finally:
        ray.util.remove_placement_group(reserved)
    assert all(map(same, got, drawn(*dataset, share, 3, 0, SETTINGS.crop_size)))


def test_nothing_polls_in_the_worker_while_all_is_read_ahead(
    ray_cluster: None, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that polls takes the interpreter from those that compute: steps took five times as long."""
    monkeypatch.setattr(batches, "_BLOCK", 1 << 16)
    monkeypatch.setattr(batches, "_AHEAD", 1)
    settings = SETTINGS.model_copy(update={"steps": 5000})
    share = sampler.Share(settings.seed, settings.batch_size)
    reading = batches.training_batches(*dataset, settings, share, 0, 1)
    next(reading)
    time.sleep(1)
    before = time.process_time()
    time.sleep(2)
    assert time.process_time() - before < 0.5


def test_more_workers_than_a_ray_of_its_own_holds_are_refused(ray_cluster: None) -> None:
    """They would wait without end."""
    assert choose_trainers(Train(workers=[4, 9], batch_size=9)).num_cpus == 1
    with pytest.raises(
        RecipeError, match=r"train\.workers: given 5, each with 1 CPU, .* has 4; allowed: 4 or"
    ):
        choose_trainers(Train(workers=5, batch_size=9))


@pytest.mark.parametrize(
    ("cpus", "reserved", "world", "decoders"),
    [
        (2, 2, 1, 1),  # a node that computes on all it has
        (4, 0.5, 1, 3),
        (16, 0.5, 2, 7),
        (100, 0.5, 2, 16),
        (5, 0.5, 2, 2),
        (2, 0.5, 2, 1),
    ],
)
def test_as_many_decode_as_there_are_cpus_beside_the_trainers(
    monkeypatch: pytest.MonkeyPatch, cpus: int, reserved: float, world: int, decoders: int
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(cpus)})
    workers = Workers("cuda", num_cpus=reserved, num_gpus=1, threads=2, most=2)
    assert ray_train._decoders(workers, world) == decoders
