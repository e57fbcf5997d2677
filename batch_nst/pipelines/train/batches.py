"""The batches of a training: Ray tasks read ahead for all workers and decode ahead of each, in order.

They are plain tasks, not a pipeline of Ray Data. While such a pipeline is full, its executor polls without
pause in the worker's own process, and takes the interpreter from the threads that compute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, TypeAlias, TypeVar

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
"""Blocks of a portion that are read and not decoded yet; two for each of more workers than four."""
_FOR_EVER = -1
"""Retries of a task whose worker or node died; what it raises itself is not retried."""

_Item = TypeVar("_Item")
Take: TypeAlias = Callable[[], list[Any]]
"""Gives a worker its next block of pairs, a reference in a list; an empty list after the last one."""

_task = partial(ray.remote, num_cpus=0, max_retries=_FOR_EVER)
"""Tasks request no CPUs, because trainers may have reserved all of them; their number is limited instead."""


class Blocks:
    """The pairs of all workers of a training, in blocks: each unit is read once for the whole group.

    An object of one worker, or an actor of several.
    """

    def __init__(self, store: Store, snapshot: Snapshot, settings: Train, share: Share, start: int) -> None:
        """Begin to read.

        Args:
            store: the output.
            snapshot: what is trained on.
            settings: of the training.
            share: of any worker of the group.
            start: the first step, from 0.
        """
        ahead = max(_AHEAD, 2 * share.world)
        read = _task(num_returns="streaming", _generator_backpressure_num_objects=ahead)(_read_blocks)
        places = portions(snapshot, share, start, settings.steps)
        most = _BLOCK * share.world
        reading = (read.remote(place, store, snapshot, share, most) for place in places)
        self._read = chain.from_iterable(_ahead(reading, _READERS - 1))
        self._waiting: list[deque[Any]] = [deque() for _ in range(share.world)]

    def take(self, rank: int) -> list[Any]:
        """A worker's next block, see `Take`. What was read for the others waits for them."""
        mine = self._waiting[rank]
        if not mine:
            for waiting, block in zip(self._waiting, self._read, strict=False):
                waiting.append(block)
        return [mine.popleft()] if mine else []


def training_batches(take: Take, settings: Train, share: Share, decoders: int) -> Iterator[Batch]:
    """A worker's share of every global batch, from the first step of its blocks to the last one.

    Args:
        take: gives the blocks.
        settings: of the training.
        share: the worker's.
        decoders: tasks that decode at the same time.
    """
    decode = _task()(_decode_block)
    decoding = (decode.remote(block, settings) for [block] in iter(take, []))
    pairs = chain.from_iterable(ray.get(block) for block in _ahead(decoding, decoders))
    return map(_batch, _groups(pairs, len(share.places)))


def _read_blocks(
    place: Portion, store: Store, snapshot: Snapshot, share: Share, most: int
) -> Iterator[list[EncodedPair]]:
    """The pairs of a portion in their order, about so many bytes at a time: a block for each worker."""
    shares = [replace(share, rank=rank) for rank in range(share.world)]
    owner = [rank for rank, each in enumerate(shares) for _ in each.places]
    blocks: list[list[EncodedPair]] = [[] for _ in shares]
    size = 0
    for pair in read_portion(place, store, snapshot, share):
        blocks[owner[pair["position"] % share.batch_size]].append(pair)
        size += len(pair["content"]) + len(pair["optimised"])
        if size >= most:
            yield from _sent(blocks)
            blocks, size = [[] for _ in shares], 0
    yield from _sent(blocks)


def _sent(blocks: list[list[EncodedPair]]) -> Iterator[list[EncodedPair]]:
    """A generator, which Ray can send to; it cannot to the list that it would find by `yield from`."""
    return (block for block in blocks)


def _decode_block(block: list[EncodedPair], settings: Train) -> list[DecodedPair]:
    return [
        decode_pair(pair, settings.seed, settings.crop_at(pair["position"] // settings.batch_size))
        for pair in block
    ]


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
