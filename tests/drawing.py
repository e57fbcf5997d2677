"""What a training sees, read and decoded in this process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from batch_nst.data import pairs
from batch_nst.data.snapshot import Snapshot
from batch_nst.data.storage import Store


def drawn(
    store: Store,
    snapshot: Snapshot,
    share: pairs.Share,
    steps: int,
    start: int = 0,
    crop_size: int | None = None,
) -> Iterator[pairs.Batch]:
    """A worker's share of the global batches of steps `start` to `steps` - 1."""
    members = [
        pairs.decode_pair(pair, share.seed, crop_size)
        for portion in pairs.portions(snapshot, share, start, steps)
        for pair in pairs.read_portion(portion, store, snapshot, share)
    ]
    size = len(share.places)
    assert len(members) == size * (steps - start)
    for first in range(0, len(members), size):
        batch = members[first : first + size]
        yield pairs.Batch(*(np.stack([pair[name] for pair in batch]) for name in ("content", "optimised")))
