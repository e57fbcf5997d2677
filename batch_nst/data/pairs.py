"""The pairs of a sealed snapshot as batches, in an order that is a pure function of seed and snapshot."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from batch_nst.data.images import Pixels, decode_stored
from batch_nst.data.snapshot import Snapshot, unit_pairs
from batch_nst.data.storage import Store

WINDOW_UNITS = 32
"""Units that are shuffled together; as many again are read ahead."""

_READERS = 8
_DECODERS = min(8, os.cpu_count() or 1)
_BATCHES_AHEAD = 2

_Order: TypeAlias = npt.NDArray[np.int64]
"""Places of pairs in a window, the first one first."""


class Batch(NamedTuple):
    """Pairs, uint8 (B, H, W, 3) each."""

    content: Pixels
    optimised: Pixels


class _Encoded(NamedTuple):
    content: bytes
    optimised: bytes


def batches(
    store: Store,
    snapshot: Snapshot,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    crop_size: int | None = None,
) -> Iterator[Batch]:
    """Endless batches from step `start` on: this worker's share of each global batch.

    Every pass over the data takes the units in a new order, and shuffles their pairs within windows of
    `WINDOW_UNITS` units, so that a pass reads every unit once. What a global batch holds depends neither
    on `world` nor on where training was cut off.

    Args:
        store: the output.
        snapshot: what to read.
        batch_size: pairs in a step over all workers, shared among them as evenly as it goes.
        seed: of order and augmentation.
        start: the first step, from 0.
        rank: of this worker, 0 to world - 1.
        world: how many workers there are.
        crop_size: side of a random crop; none takes the whole picture. Flips at random in any case.
    """
    position = start * batch_size
    encoded = _stream(store, snapshot, seed, position)
    with ThreadPoolExecutor(_DECODERS) as pool:

        def prepare() -> list[Future[tuple[Pixels, Pixels]]]:
            nonlocal position
            members = [(position + index, next(encoded)) for index in range(batch_size)]
            position += batch_size
            mine = members[rank * batch_size // world : (rank + 1) * batch_size // world]
            return [pool.submit(_augment, pair, (seed, where), crop_size) for where, pair in mine]

        ahead = deque(prepare() for _ in range(_BATCHES_AHEAD))
        while True:
            pairs = [future.result() for future in ahead.popleft()]
            ahead.append(prepare())
            yield Batch(np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs]))


def _stream(store: Store, snapshot: Snapshot, seed: int, position: int) -> Iterator[_Encoded]:
    """Pairs from a global position on, passes without end; a window is read while another is handed out."""
    windows = _windows(snapshot, seed, position)
    with ThreadPoolExecutor(_READERS) as pool:

        def read() -> tuple[list[Future[list[_Encoded]]], _Order]:
            units, order = next(windows)
            return [pool.submit(_read, store, snapshot, unit) for unit in units], order

        ahead = read()
        while True:
            (reading, order), ahead = ahead, read()
            pairs = [pair for future in reading for pair in future.result()]
            for index in order:
                yield pairs[index]


def _windows(snapshot: Snapshot, seed: int, position: int) -> Iterator[tuple[list[str], _Order]]:
    """Units to read together, and the order of their pairs, from a global position on.

    A function of seed, pass and snapshot alone. What lies before the position is counted, not read.
    """
    sized = [unit for unit in snapshot.units if unit["ok"]]
    epoch, skip = divmod(position, sum(unit["ok"] for unit in sized))
    while True:
        units = np.random.default_rng((seed, epoch)).permutation(len(sized))
        for window, first in enumerate(range(0, len(units), WINDOW_UNITS)):
            members = [sized[index] for index in units[first : first + WINDOW_UNITS]]
            size = sum(unit["ok"] for unit in members)
            if skip < size:
                order = np.random.default_rng((seed, epoch, window)).permutation(size)[skip:]
                yield [unit["unit"] for unit in members], order
            skip = max(0, skip - size)
        epoch += 1


def _read(store: Store, snapshot: Snapshot, unit: str) -> list[_Encoded]:
    rows = unit_pairs(store, snapshot, unit, "train")
    return [_Encoded(row["content"]["bytes"], row["stylized"]["bytes"]) for row in rows]


def _augment(pair: _Encoded, seed: tuple[int, int], crop_size: int | None) -> tuple[Pixels, Pixels]:
    """Decode a pair; the same random crop and flip for both."""
    chance = np.random.default_rng(seed)
    content, optimised = decode_stored(pair.content), decode_stored(pair.optimised)
    height, width = content.shape[:2]
    side = min(crop_size or max(height, width), height, width)
    top, left = chance.integers(0, height - side + 1), chance.integers(0, width - side + 1)
    flip = -1 if chance.integers(2) else 1
    window = (slice(top, top + side), slice(left, left + side))
    return content[window][:, ::flip], optimised[window][:, ::flip]
