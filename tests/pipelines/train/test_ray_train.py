"""Laws of how tasks read and decode what a training worker sees."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import ray

from batch_nst.data.dataset import sampler
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError
from batch_nst.pipelines.cluster.connect import Workers, choose_trainers
from batch_nst.pipelines.train import batches, ray_train
from batch_nst.recipe import Train
from tests.support.read_batches import UNITS, Dataset, drawn, noise, same

STEPS = 70
SETTINGS = Train(steps=STEPS, batch_size=5, crop_size=32, crop_until=0.5, seed=4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return noise(tmp_path_factory.mktemp("pairs"))


def reading(
    dataset: Dataset, settings: Train, share: sampler.Share, start: int = 0, decoders: int = 1
) -> Iterator[sampler.Batch]:
    take = partial(batches.Blocks(*dataset, settings, share, start).take, share.rank)
    return batches.training_batches(take, settings, share, decoders)


@dataclass(frozen=True)
class Counting(Store):
    """A store that writes down what is read, by any process."""

    def read(self, name: str) -> bytes:
        with Path(f"{self.uri}.reads").open("a") as file:
            file.write(f"{name}\n")
        return super().read(name)


def test_eight_workers_read_each_unit_once_an_epoch(ray_cluster: None, tmp_path: Path) -> None:
    """In step with each other, as they are; and each gets its own."""
    store, snapshot = noise(tmp_path / "pairs")
    store, epochs = Counting(store.uri), 2
    settings = SETTINGS.model_copy(update={"batch_size": 8, "steps": epochs * 3 * UNITS // 8})
    shares = [sampler.Share(settings.seed, 8, rank, 8) for rank in range(8)]
    blocks = ray.remote(num_cpus=0)(batches.Blocks).remote(store, snapshot, settings, shares[0], 0)

    def take(rank: int) -> list[Any]:
        return cast(list[Any], ray.get(blocks.take.remote(rank)))

    workers = [batches.training_batches(partial(take, share.rank), settings, share, 1) for share in shares]
    steps = list(zip(*workers, strict=True))
    read = Path(f"{store.uri}.reads").read_text().split()
    assert len(read) <= 1.1 * epochs * UNITS
    assert len(steps) == settings.steps
    whole = drawn(store, snapshot, sampler.Share(settings.seed, 8), settings.steps, crop_at=settings.crop_at)
    for each, wanted in zip(steps, whole, strict=True):
        content, optimised = (np.concatenate([batch[part] for batch in each]) for part in (0, 1))
        assert same(sampler.Batch(content, optimised, sum((batch.paired for batch in each), ())), wanted)


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
    got = list(reading(dataset, SETTINGS, share, start, decoders))
    wanted = list(drawn(*dataset, share, STEPS, start, SETTINGS.crop_at))
    assert len(got) == len(wanted) == STEPS - start
    assert all(map(same, got, wanted))


def test_pairs_come_where_trainers_have_reserved_all_cpus(ray_cluster: None, dataset: Dataset) -> None:
    share = sampler.Share(SETTINGS.seed, SETTINGS.batch_size)
    reserved = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    ray.get(reserved.ready())
    try:
        got = list(islice(reading(dataset, SETTINGS, share), 3))
    finally:
        ray.util.remove_placement_group(reserved)
    assert all(map(same, got, drawn(*dataset, share, 3, 0, SETTINGS.crop_at)))


def test_nothing_polls_in_the_worker_while_all_is_read_ahead(
    ray_cluster: None, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that polls takes the interpreter from those that compute: steps took five times as long."""
    monkeypatch.setattr(batches, "_BLOCK", 1 << 16)
    monkeypatch.setattr(batches, "_AHEAD", 1)
    settings = SETTINGS.model_copy(update={"steps": 5000})
    share = sampler.Share(settings.seed, settings.batch_size)
    ahead = reading(dataset, settings, share)
    next(ahead)
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
