"""The pairs of an output, for readers in Python; `read_pairs` is public."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

from batch_nst.data.dataset.snapshot import Snapshot, StoredPair, require_snapshot, unit_pairs
from batch_nst.data.dataset.units import unit_object
from batch_nst.data.images.codec import Pixels, decode_stored
from batch_nst.data.storage.documents import intact
from batch_nst.data.storage.store import Store

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class PairLosses:
    """The losses of an optimised image, in fp32; see `batch_nst.engine.perceptual_loss`."""

    content: float
    style: float
    total: float
    """What was minimised: content and style by the weights of the recipe, and total variation."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A photo and its optimised image."""

    id: str
    """32 hexadecimal digits, as `forget` takes them; it never changes."""
    uri: str
    """The photo's place, for people."""
    split: Split
    """Whether it is one to train on, or held out."""
    content: Pixels
    """The square cut from the photo: uint8 (size, size, 3), sRGB."""
    stylized: Pixels
    """The optimised image, of the same shape."""
    losses: PairLosses


def read_pairs(output: str | os.PathLike[str]) -> Iterator[Pair]:
    """The pairs of an output's newest sealed snapshot, in its order; without torch, without Ray.

        for pair in read_pairs("s3://bucket/output"):
            print(pair.uri, pair.split, pair.losses.total, pair.stylized.shape)

    What the snapshot leaves out (gone, forgotten, filtered by `quality`) is left out. Memory holds one unit.
    All columns of all rows are in the Parquet files below `dataset/data/`.

    Args:
        output: a folder, or a prefix in a bucket.

    Raises:
        RecipeError: no output can be there.
        IncompleteError: nothing is sealed there.
        StorageError: a unit is damaged, or has not the digest that the snapshot says. Raised when its pairs
            are reached, as faults of the store are.
    """
    store = Store(os.path.expanduser(os.fsdecode(output)))
    return _pairs(store, require_snapshot(store))


def _pairs(store: Store, snapshot: Snapshot) -> Iterator[Pair]:
    for unit in snapshot.units:
        if unit["ok"] or unit["held_out"]:
            for row in unit_pairs(store, snapshot, unit["unit"]):
                with intact(store, unit_object(unit["unit"])):
                    pair = _pair(row)
                yield pair


def _pair(row: StoredPair) -> Pair:
    return Pair(
        id=row["id"].hex(),
        uri=row["uri"],
        split=cast(Split, row["split"]),
        content=decode_stored(row["content"]["bytes"]),
        stylized=decode_stored(row["stylized"]["bytes"]),
        losses=PairLosses(row["content_loss"], row["style_loss"], row["total_loss"]),
    )
