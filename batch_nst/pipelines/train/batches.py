"""The batches of a training: Ray tasks read and decode ahead of a worker, in order.

They are plain tasks, not a pipeline of Ray Data. While such a pipeline is full, its executor polls without
pause in the worker's own process, and takes the interpreter from the threads that compute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np
import ray

from batch_nst.data.dataset.sampler import (
    Batch,
    DecodedPair,
    EncodedPair,
    Portion,
    Share,
    decode_pair,
    portions,
    read_portion,
)
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.storage.store import Store
from batch_nst.recipe import Train

_READERS = 2
"""Portions of pairs that are read at the same time: one is read while another is handed out."""
_BLOCK = 4 << 20
"""Approximate bytes of encoded pairs that one task decodes."""
_AHEAD = 8
"""Blocks of a portion that are read and not decoded yet."""
_FOR_EVER = -1
"""Retries of a task whose worker or node died; what it raises itself is not retried."""

_Item = TypeVar("_Item")


def training_batches(
    store: Store, snapshot: Snapshot, settings: Train, share: Share, start: int, decoders: int
) -> Iterator[Batch]:
    """A worker's share of every global batch, from step `start` to the last one.

    The tasks request no CPUs, because trainers may have reserved all of them; their number is limited here
    instead.

    Args:
        store: the output.
        snapshot: what is trained on.
        settings: of the training.
        share: the worker's.
        start: the first step, from 0.
        decoders: tasks that decode at the same time.
    """
    task = partial(ray.remote, num_cpus=0, max_retries=_FOR_EVER)
    read = task(num_returns="streaming", _generator_backpressure_num_objects=_AHEAD)(_read_blocks)
    decode = task()(_decode_block)
    places = portions(snapshot, share, start, settings.steps)
    reading = _ahead((read.remote(place, store, snapshot, share, _BLOCK) for place in places), _READERS - 1)
    decoding = (
        decode.remote(block, settings.seed, settings.crop_size) for block in chain.from_iterable(reading)
    )
    pairs = chain.from_iterable(ray.get(block) for block in _ahead(decoding, decoders))
    return map(_batch, _groups(pairs, len(share.places)))


def _read_blocks(
    place: Portion, store: Store, snapshot: Snapshot, share: Share, most: int
) -> Iterator[list[EncodedPair]]:
    """The pairs of a portion in their order, about so many bytes at a time."""
    block: list[EncodedPair] = []
    size = 0
    for pair in read_portion(place, store, snapshot, share):
        block.append(pair)
        size += len(pair["content"]) + len(pair["optimised"])
        if size >= most:
            yield block
            block, size = [], 0
    yield block


def _decode_block(block: list[EncodedPair], seed: int, crop_size: int | None) -> list[DecodedPair]:
    return [decode_pair(pair, seed, crop_size) for pair in block]


def _ahead(items: Iterable[_Item], number: int) -> Iterator[_Item]:
    """The items, of which that many more are started than were taken."""
    begun: deque[_Item] = deque()
    for item in items:
        begun.append(item)
        if len(begun) > number:
            yield begun.popleft()
    yield from begun


def _groups(pairs: Iterable[DecodedPair], size: int) -> Iterator[list[DecodedPair]]:
    """Pairs by so many; what is left over at the end is no group."""
    group: list[DecodedPair] = []
    for pair in pairs:
        group.append(pair)
        if len(group) == size:
            yield group
            group = []


def _batch(pairs: list[DecodedPair]) -> Batch:
    content = np.stack([pair["content"] for pair in pairs])
    optimised = np.stack([pair["optimised"] for pair in pairs])
    return Batch(content, optimised, tuple(pair["paired"] for pair in pairs))
