"""The pairs of a snapshot in an order that is a pure function of seed and snapshot.

A pair has a position: its number among all that a training sees, epoch after epoch, from 0. Every epoch takes
the units in a new order and shuffles their pairs within windows of `WINDOW_UNITS` units, so that it reads
every unit once. Step n, counted from 0, trains on the `batch_size` positions from n * batch_size on, over all
workers. So the data of a step depend neither on the number of workers nor on where training was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from batch_nst.data.dataset.snapshot import Snapshot, unit_pairs
from batch_nst.data.images.codec import Pixels, decode_stored
from batch_nst.data.storage.store import Store

WINDOW_UNITS = 32
"""Units that are shuffled together."""
PORTION = 256
"""Minimum number of pairs in a portion; in a small dataset these are several windows."""

_PORTIONS = 1000
"""Approximate maximum number of portions of a long training."""
_READERS = 8

_Order: TypeAlias = npt.NDArray[np.int64]
"""The shuffled places of a window's pairs."""


class Batch(NamedTuple):
    """Pairs, uint8 (B, H, W, 3) each."""

    content: Pixels
    optimised: Pixels


class Portion(TypedDict):
    """A piece of a training's order, to be read by one task: positions `first` to `end` - 1."""

    first: int
    end: int


class EncodedPair(TypedDict):
    """A pair and its position, pictures as stored."""

    position: int
    content: bytes
    optimised: bytes


class DecodedPair(TypedDict):
    """A pair as uint8 (H, W, 3)."""

    content: Pixels
    optimised: Pixels


@dataclass(frozen=True)
class Share:
    """The part of every global batch that one worker gets."""

    seed: int
    """Seed of order and augmentation."""
    batch_size: int
    """Pairs in a step over all workers, divided as evenly as possible."""
    rank: int = 0
    """Number of this worker, 0 to world - 1."""
    world: int = 1
    """Number of workers."""

    @property
    def places(self) -> range:
        """The places of its pairs in a global batch."""
        first, end = (number * self.batch_size // self.world for number in (self.rank, self.rank + 1))
        return range(first, end)


def portions(snapshot: Snapshot, share: Share, start: int, steps: int) -> list[Portion]:
    """The positions that steps `start` to `steps` - 1 train on, cut into pieces to read."""
    position, last = start * share.batch_size, steps * share.batch_size
    least = max(PORTION, (last - position) // _PORTIONS)
    found: list[Portion] = []
    first = position
    for _, order in _windows(snapshot, share.seed, position):
        position = min(position + len(order), last)
        if position == last or position - first >= least:
            found.append({"first": first, "end": position})
            first = position
        if position == last:
            break
    return found


def read_portion(portion: Portion, store: Store, snapshot: Snapshot, share: Share) -> Iterator[EncodedPair]:
    """This worker's pairs in a portion, in their order."""
    position, end = portion["first"], portion["end"]
    for units, order in _windows(snapshot, share.seed, position):
        with ThreadPoolExecutor(_READERS) as pool:
            pairs = [pair for read in pool.map(partial(_read, store, snapshot), units) for pair in read]
        for index in order[: end - position]:
            if position % share.batch_size in share.places:
                content, optimised = pairs[index]
                yield {"position": position, "content": content, "optimised": optimised}
            position += 1
        if position == end:
            break


def decode_pair(pair: EncodedPair, seed: int, crop_size: int | None) -> DecodedPair:
    """Decode a pair of `read_portion`; the same random crop and flip for both.

    Args:
        pair: a pair of `read_portion`.
        seed: the training's seed.
        crop_size: side of the crop in pixels; None takes the whole picture. Both are flipped at random.
    """
    content, optimised = decode_stored(pair["content"]), decode_stored(pair["optimised"])
    chance = np.random.default_rng((seed, pair["position"]))
    view = random_view(content.shape[:2], crop_size, chance)
    return {"content": content[view], "optimised": optimised[view]}


def random_view(
    size: tuple[int, ...], crop_size: int | None, chance: np.random.Generator
) -> tuple[slice, slice]:
    """Rows and columns of a random crop, flipped or not, of a picture of this size (height, width)."""
    height, width = size
    high, wide = (height, width) if crop_size is None else [min(crop_size, height, width)] * 2
    top, left = int(chance.integers(0, height - high + 1)), int(chance.integers(0, width - wide + 1))
    rows, columns = slice(top, top + high), slice(left, left + wide)
    if chance.integers(2):
        columns = slice(left + wide - 1, left - 1 if left else None, -1)
    return rows, columns


def _windows(snapshot: Snapshot, seed: int, position: int) -> Iterator[tuple[list[str], _Order]]:
    """Units to read together, and the order of their pairs, from a global position on.

    A pure function of seed, epoch and snapshot. What precedes the position is counted, not read.
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


def _read(store: Store, snapshot: Snapshot, unit: str) -> list[tuple[bytes, bytes]]:
    rows = unit_pairs(store, snapshot, unit, "train")
    return [(row["content"]["bytes"], row["stylized"]["bytes"]) for row in rows]
