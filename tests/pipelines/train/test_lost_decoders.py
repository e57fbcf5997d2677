"""What becomes of pairs that are read and decoded on a node that is lost."""

from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from batch_nst.data.dataset.sampler import Share
from batch_nst.pipelines.train import batches
from batch_nst.recipe import Train
from tests.support.ray_nodes import joined, machines
from tests.support.read_batches import drawn, noise, same

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

STEPS, LOST_AFTER = 1000, 200
SETTINGS = Train(steps=STEPS, batch_size=5, crop_size=32)


def test_a_lost_node_takes_no_pair_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_AHEAD", 1)  # so that pairs are still to be made when it is lost
    monkeypatch.setattr(batches, "_BLOCK", 1 << 16)
    dataset, share = noise(tmp_path), Share(0, SETTINGS.batch_size)
    with machines(2) as nodes, joined(nodes):
        take = partial(batches.Blocks(*dataset, SETTINGS, share, 0).take, 0)
        reading = batches.training_batches(take, SETTINGS, share, 4)
        got = list(islice(reading, LOST_AFTER))
        nodes.crash(nodes.nodes[1])
        got += reading
    assert len(got) == STEPS
    assert all(map(same, got, drawn(*dataset, share, STEPS, crop_at=SETTINGS.crop_at)))
