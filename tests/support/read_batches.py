"""What a training sees, read and decoded in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from batch_nst.data.dataset import sampler, units
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.images.codec import encode
from batch_nst.data.storage.store import Store

Dataset: TypeAlias = tuple[Store, Snapshot]
SIDE, UNITS = 40, 40


def drawn(
    store: Store,
    snapshot: Snapshot,
    share: sampler.Share,
    steps: int,
    start: int = 0,
    crop_at: Callable[[int], int | None] = lambda step: None,
) -> Iterator[sampler.Batch]:
    """A worker's share of the global batches of steps `start` to `steps` - 1."""
    members = [
        sampler.decode_pair(pair, share.seed, crop_at(pair["position"] // share.batch_size))
        for portion in sampler.portions(snapshot, share, start, steps)
        for pair in sampler.read_portion(portion, store, snapshot, share)
        if pair["position"] % share.batch_size in share.places
    ]
    size = len(share.places)
    assert len(members) == size * (steps - start)
    for first in range(0, len(members), size):
        batch = members[first : first + size]
        photos, optimised = (np.stack([pair[name] for pair in batch]) for name in ("content", "optimised"))
        yield sampler.Batch(photos, optimised, tuple(pair["paired"] for pair in batch))


def noise(folder: Path) -> Dataset:
    """Three pairs of noise in each of more units than a window has."""
    store = Store(str(folder))
    rng = np.random.default_rng(0)
    entries = []
    for unit in range(UNITS):
        rows = []
        for number in range(3):
            content, stylized = (
                {"bytes": encode(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8), "webp"), "path": None}
                for _ in range(2)
            )
            row = {"id": bytes([unit, number]) * 8, "uri": f"{unit}-{number}.png", "split": "train"}
            rows.append({**row, "status": "ok", "content": content, "stylized": stylized})
        entries.append({**units.commit_unit(store, f"{unit:032x}", rows, digest=""), "left_out": 0})
    return store, Snapshot(1, 1, "", {"ok": 3 * UNITS}, entries, [])


def same(one: sampler.Batch, other: sampler.Batch) -> bool:
    """Whether all pixels are."""
    return all(np.array_equal(left, right) for left, right in zip(one, other, strict=True))
