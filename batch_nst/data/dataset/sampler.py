"""The pairs and photos of a snapshot in an order that is a pure function of seed and snapshot.

What a training sees has positions, from 0. Step n, counted from 0, trains on the `batch_size` positions from
n * batch_size on, over all workers. So the data of a step depend neither on the number of workers nor on
where training was interrupted.

Pairs, and photos without pairs, have an order each. Every epoch of it takes the units in a new order and
shuffles their images within windows of `WINDOW_UNITS` units, so that it reads every unit once. Of each batch
the same places are for photos without pairs, spread evenly, and take them one after the other.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from batch_nst.data.dataset.audit import UnitEntry
from batch_nst.data.dataset.snapshot import Snapshot, unit_pairs, unit_photos
from batch_nst.data.images.codec import Pixels, decode_stored
from batch_nst.data.storage.store import Store

WINDOW_UNITS = 32
"""Units that are shuffled together, if they are not too large."""
WINDOW_BYTES = 1 << 30
"""Approximate bytes of the pairs that are shuffled together."""
PORTION = 256
"""Minimum number of pairs in a portion; in a small dataset these are several windows."""

_PIXEL_BYTES = 3
"""Bytes of a stored pair for each of its pixels, approximately."""
_PORTIONS = 1000
"""Approximate maximum number of portions of a long training."""
_READERS = 8

_Kind: TypeAlias = Literal["ok", "unpaired"]
"""Pairs, or photos without pairs."""
_Order: TypeAlias = npt.NDArray[np.int64]
"""The shuffled places of a window's pairs."""


class Batch(NamedTuple):
    """Photos and their optimised images, uint8 (B, H, W, 3) each."""

    content: Pixels
    optimised: Pixels
    """Where a photo has no pair, the photo."""
    paired: tuple[bool, ...] = ()
    """For each photo whether it has a pair; empty: all have."""


class Portion(TypedDict):
    """A piece of a training's order, to be read by one task: positions `first` to `end` - 1."""

    first: int
    end: int


class EncodedPair(TypedDict):
    """A pair and its position, pictures as stored."""

    position: int
    content: bytes
    optimised: bytes
    """Empty for a photo without a pair."""


class DecodedPair(TypedDict):
    """A pair as uint8 (H, W, 3)."""

    content: Pixels
    optimised: Pixels
    """For a photo without a pair the photo."""
    paired: bool


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
    unpaired: float = 0.0
    """Fraction of a batch that is photos without pairs, 0 to 1."""
    side: int = 256
    """Side of the images in pixels."""

    @property
    def places(self) -> range:
        """The places of its pairs in a global batch."""
        first, end = (number * self.batch_size // self.world for number in (self.rank, self.rank + 1))
        return range(first, end)


@dataclass(frozen=True)
class _Stream:
    """The images of one kind in a training: pairs, or photos without pairs."""

    kind: _Kind
    places: tuple[int, ...]
    """The places in each global batch that are for them."""
    batch_size: int
    units: list[UnitEntry]
    """Units that hold some."""
    most: int
    """Images that a window may have, if it has more than one unit."""

    @property
    def images(self) -> int:
        """Number of images in the snapshot."""
        return sum(unit.get(self.kind, 0) for unit in self.units)

    def before(self, position: int) -> int:
        """How many of the positions before this one are for these images."""
        batches, place = divmod(position, self.batch_size)
        return batches * len(self.places) + bisect_left(self.places, place)

    def position(self, number: int) -> int:
        """The position of the image with this number among them, from 0."""
        batches, index = divmod(number, len(self.places))
        return batches * self.batch_size + self.places[index]

    @property
    def longest(self) -> float:
        """Positions that a whole window spans."""
        sizes = sorted((unit.get(self.kind, 0) for unit in self.units), reverse=True)
        return min(sum(sizes[:WINDOW_UNITS]), max(self.most, sizes[0])) / len(self.places)


def _streams(snapshot: Snapshot, share: Share) -> list[_Stream]:
    """The kinds of images that a training sees, in a snapshot that has any."""
    pairs = [unit for unit in snapshot.units if unit["ok"]]
    alone = [unit for unit in snapshot.units if unit.get("unpaired")]
    size, part = share.batch_size, (share.unpaired if pairs else 1.0) if alone else 0.0
    chosen = unpaired_places(size, part)
    others = tuple(place for place in range(size) if place not in chosen)
    most = WINDOW_BYTES // (_PIXEL_BYTES * share.side**2)
    found = [_Stream("ok", others, size, pairs, most), _Stream("unpaired", chosen, size, alone, most)]
    return [stream for stream in found if stream.places]


def unpaired_places(batch_size: int, part: float) -> tuple[int, ...]:
    """The places of a batch that are for photos without pairs: this part of it, rounded down, and even."""
    places = range(batch_size)
    return tuple(place for place in places if math.floor((place + 1) * part) > math.floor(place * part))


def portions(snapshot: Snapshot, share: Share, start: int, steps: int) -> list[Portion]:
    """The positions that steps `start` to `steps` - 1 train on, cut into pieces to read."""
    position, last = start * share.batch_size, steps * share.batch_size
    least = max(PORTION, (last - position) // _PORTIONS)
    found: list[Portion] = []
    first = position
    # A portion ends where a window of the kind with the longer ones does, so that it reads few of them twice.
    stream = max(_streams(snapshot, share), key=lambda stream: stream.longest)
    number = stream.before(position)
    for _, order in _windows(stream, share.seed, number):
        number += len(order)
        position = min(stream.position(number - 1) + 1, last)
        if position == last or position - first >= least:
            found.append({"first": first, "end": position})
            first = position
        if position == last:
            break
    return found


def read_portion(portion: Portion, store: Store, snapshot: Snapshot, share: Share) -> Iterator[EncodedPair]:
    """The pairs and photos of all workers in a portion, in their order."""
    sources = {
        place: images
        for stream in _streams(snapshot, share)
        for images in [_images(stream, store, snapshot, share.seed, stream.before(portion["first"]))]
        for place in stream.places
    }
    for position in range(portion["first"], portion["end"]):
        content, optimised = next(sources[position % share.batch_size])
        yield {"position": position, "content": content, "optimised": optimised}


def _images(
    stream: _Stream, store: Store, snapshot: Snapshot, seed: int, number: int
) -> Iterator[tuple[bytes, bytes]]:
    """The images of a stream from a number on, photo and optimised image as stored; read window by window."""
    read = partial(_read, store, snapshot, stream.kind)
    for units, order in _windows(stream, seed, number):
        with ThreadPoolExecutor(_READERS) as pool:
            images = [image for some in pool.map(read, units) for image in some]
        yield from (images[index] for index in order)


def decode_pair(pair: EncodedPair, seed: int, crop_size: int | None) -> DecodedPair:
    """Decode a pair of `read_portion`; the same random crop and flip for both.

    Args:
        pair: a pair of `read_portion`.
        seed: the training's seed.
        crop_size: side of the crop in pixels; None takes the whole picture. Both are flipped at random.
    """
    content = decode_stored(pair["content"])
    optimised = decode_stored(pair["optimised"]) if pair["optimised"] else content
    chance = np.random.default_rng((seed, pair["position"]))
    view = random_view(content.shape[:2], crop_size, chance)
    return {"content": content[view], "optimised": optimised[view], "paired": bool(pair["optimised"])}


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


def _windows(stream: _Stream, seed: int, number: int) -> Iterator[tuple[list[str], _Order]]:
    """Units to read together, and the order of their images, from a number on.

    A pure function of seed, epoch and snapshot. What precedes the number is counted, not read.
    """
    sized, kind = stream.units, stream.kind
    apart = () if kind == "ok" else (1,)  # two kinds have two orders
    epoch, skip = divmod(number, stream.images)
    while True:
        units = np.random.default_rng((seed, epoch, *apart)).permutation(len(sized))
        for window, members in enumerate(_cut([sized[index] for index in units], kind, stream.most)):
            size = sum(unit.get(kind, 0) for unit in members)
            if skip < size:
                order = np.random.default_rng((seed, epoch, window, *apart)).permutation(size)[skip:]
                yield [unit["unit"] for unit in members], order
            skip = max(0, skip - size)
        epoch += 1


def _cut(units: list[UnitEntry], kind: _Kind, most: int) -> Iterator[list[UnitEntry]]:
    """Units in their order, so many together as a window may have, at least one."""
    window: list[UnitEntry] = []
    size = 0
    for unit in units:
        images = unit.get(kind, 0)
        if window and (len(window) == WINDOW_UNITS or size + images > most):
            yield window
            window, size = [], 0
        window.append(unit)
        size += images
    yield window


def _read(store: Store, snapshot: Snapshot, kind: _Kind, unit: str) -> list[tuple[bytes, bytes]]:
    if kind == "unpaired":
        return [(photo, b"") for photo in unit_photos(store, snapshot, unit)]
    rows = unit_pairs(store, snapshot, unit, "train")
    return [(row["content"]["bytes"], row["stylized"]["bytes"]) for row in rows]
