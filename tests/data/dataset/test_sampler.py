"""Laws of the order in which training sees the pairs."""

from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import pytest

from batch_nst.data.dataset import sampler, units
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.images.codec import encode
from batch_nst.data.storage.store import Store
from tests.support.read_batches import drawn

SIDE = 8


def picture(number: int) -> np.ndarray:
    """A flat picture that says which pair it is of; flips and crops leave it as it is."""
    return np.full((SIDE, SIDE, 3), number, np.uint8)


def row(number: int, split: str = "train", status: str = "ok") -> dict:
    ok = status == "ok"
    stored = {"bytes": encode(picture(number), "png"), "path": None} if ok else None
    return {
        "id": bytes([number]) * 16,
        "uri": f"{number}.png",
        "split": split,
        "status": status,
        "content": stored,
        "stylized": stored,
    }


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Ten pairs to train on in four units, among held-out, rejected and gone ones."""
    monkeypatch.setattr(sampler, "WINDOW_UNITS", 2)
    store = Store(str(tmp_path))
    contents = [
        [row(1), row(2), row(3)],
        [row(4), row(100, split="held_out"), row(101, status="rejected")],
        [row(5), row(6), row(7), row(102)],
        [row(8), row(9), row(10)],
    ]
    entries = []
    for index, rows in enumerate(contents):
        summary = units.commit_unit(store, f"{index:032x}", rows, digest=str(index))
        entries.append({**summary, "left_out": 0})
    entries[2]["ok"] -= 1  # 102 is gone from the input
    counts = {"ok": 10, "held_out": 1, "rejected": 1, "failed": 0, "pending": 0, "gone": 1}
    return store, Snapshot(1, 1, "digest", counts, entries, [(bytes([102]) * 16).hex()])


def numbers(batch: sampler.Batch) -> list[int]:
    assert (batch.content == batch.optimised).all()
    return batch.content[:, 0, 0, 0].tolist()


def first(dataset, count: int, seed: int, start: int = 0) -> list[list[int]]:
    share = sampler.Share(seed, 2)
    return [numbers(batch) for batch in drawn(*dataset, share, start + count, start)]


def test_every_pass_holds_each_training_pair_once_in_an_order_of_its_own(dataset):
    both = first(dataset, 10, seed=0)
    passes = both[:5], both[5:], first(dataset, 5, seed=1)
    for batches in passes:
        assert sorted(chain.from_iterable(batches)) == list(range(1, 11))
    assert passes[0] != passes[1]
    assert passes[0] != passes[2]


def test_the_order_of_a_pass_is_a_function_of_seed_pass_and_snapshot_alone(dataset, tmp_path):
    """Not of the store, of what was read before, or of who reads: of a copy, from any pass on, alike."""
    store, snapshot = dataset
    copy = Store(str(tmp_path / "copy"))
    for name in store.list():
        copy.create(name, store.read(name))
    passes = first(dataset, 20, seed=5)
    for number in range(4):
        alone = first((copy, replace(snapshot, number=9, token=9)), 5, seed=5, start=5 * number)
        assert alone == passes[5 * number : 5 * number + 5]
    other = replace(snapshot, units=snapshot.units[::-1])
    assert first((store, other), 5, seed=5) != passes[:5]


@pytest.mark.parametrize("start", [0, 1, 3, 5, 7, 12, 23])
def test_a_resumed_order_is_the_rest_of_the_uninterrupted_one(dataset, start):
    assert first(dataset, 6, seed=3, start=start) == first(dataset, start + 6, seed=3)[start:]


@pytest.mark.parametrize("least", [1, 4, 7, 1000])
@pytest.mark.parametrize("start", [0, 3])
def test_portions_end_where_windows_do_and_hold_what_a_training_has_left(dataset, monkeypatch, least, start):
    whole = first(dataset, 13, seed=2)
    monkeypatch.setattr(sampler, "PORTION", least)
    _, snapshot = dataset
    places = sampler.portions(snapshot, sampler.Share(2, 2), start, 13)
    edges = [portion["first"] for portion in places] + [26]
    assert [portion["end"] for portion in places] == edges[1:]
    assert edges[0] == 2 * start
    assert all(end - begin >= least for begin, end in pairwise(edges[:-1]))
    assert (len(places) == 1) == (least == 1000)
    assert first(dataset, 13 - start, seed=2, start=start) == whole[start:]


@pytest.mark.parametrize("world", [2, 3, 4, 5])
def test_shares_are_even_to_a_pair_and_make_up_the_global_batch(dataset, world):
    def share(rank: int, world: int) -> list[list[int]]:
        return [numbers(batch) for batch in drawn(*dataset, sampler.Share(0, 5, rank, world), 7)]

    shares = [share(rank, world) for rank in range(world)]
    for whole, *parts in zip(share(0, 1), *shares, strict=True):
        assert list(chain.from_iterable(parts)) == whole
        assert {len(part) for part in parts} <= {5 // world, -(-5 // world)}


@pytest.mark.parametrize(
    ("side", "windows"),
    [(SIDE, [[3, 1], [3, 3]]), (2 * SIDE, [[3, 1], [3], [3]]), (1000, [[3], [1], [3], [3]])],
)
def test_larger_pictures_are_shuffled_with_fewer_others(dataset, monkeypatch, side, windows):
    """So that what a worker holds stays within bounds; a unit that is too large by itself is read alone."""
    monkeypatch.setattr(sampler, "WINDOW_BYTES", 16 * 3 * SIDE**2)
    share, (_, snapshot) = sampler.Share(0, 2, side=side), dataset
    (stream,) = sampler._streams(snapshot, share)
    assert [[unit["ok"] for unit in window] for window in sampler._cut(stream.units, "ok", stream.most)] == (
        windows
    )
    seen = list(chain.from_iterable(map(numbers, drawn(*dataset, share, 10))))
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(1, 11))


def test_crop_and_flip_are_the_same_for_both_pictures_and_depend_on_the_position_alone(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    both = {"bytes": encode(pixels, "png"), "path": None}
    store = Store(str(tmp_path))
    summary = units.commit_unit(store, "0" * 32, [{**row(1), "content": both, "stylized": both}], digest="")
    snapshot = Snapshot(1, 1, "", {"ok": 1}, [{**summary, "left_out": 0}], [])
    share = sampler.Share(0, 1)
    whole = list(drawn(store, snapshot, share, 12, crop_at=lambda _: 5))
    again = list(drawn(store, snapshot, share, 12, start=4, crop_at=lambda _: 5))
    windows = [pixels[y : y + 5, x : x + 5] for y in range(4) for x in range(4)]
    allowed = {window.tobytes() for window in windows} | {window[:, ::-1].tobytes() for window in windows}
    for batch in whole:
        assert (batch.content == batch.optimised).all()
        assert batch.content[0].tobytes() in allowed
    assert len({batch.content.tobytes() for batch in whole}) > 4
    for one, other in zip(whole[4:], again, strict=True):
        assert (one.content == other.content).all()
