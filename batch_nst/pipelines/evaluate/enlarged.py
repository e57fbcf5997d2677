"""Held-out photos cut at twice the size of the pairs: models are used on larger images than in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_nst.data.dataset import plan_files
from batch_nst.data.dataset.records import PhotoRecord, UnitRecord
from batch_nst.data.images.codec import encode
from batch_nst.data.storage.store import Store
from batch_nst.pipelines.generate.decode import decode_unit, units_of
from batch_nst.recipe import Generate


class EnlargedPhotos(NamedTuple):
    """Photos at twice the size."""

    size: int
    """Side in pixels."""
    pictures: dict[str, bytes]
    """The photos by image id (hex), losslessly encoded."""
    left_out: dict[str, int]
    """Number of photos left out, by reason: a reason of bad photos, `unreachable` or `unplanned`."""


def cut_enlarged(store: Store, ids: Sequence[str], photos: int, limits: Generate) -> EnlargedPhotos:
    """Read the originals of held-out images again, and cut their centre squares at twice the size.

    Nothing is upscaled: a photo whose short side is below twice `image_size` is left out as `too_small`.
    A photo that was replaced since is still unseen, because photos are held out by name.

    Args:
        store: the output.
        ids: image ids (hex), in the order in which they are tried.
        photos: number of photos wanted.
        limits: limits of photos, and the size of the pairs.
    """
    size = 2 * limits.image_size
    limits = limits.model_copy(update={"image_size": size, "min_side": size})
    planned = _planned(store, ids)
    pictures: dict[str, bytes] = {}
    left_out: Counter[str] = Counter()
    for identity in ids:
        photo = planned.get(identity)
        if len(pictures) == photos or (photo and photo.crop):
            continue
        if photo is None:  # its segment was deleted
            left_out["unplanned"] += 1
            continue
        decoded = decode_unit(UnitRecord("larger", (photo,)), limits)
        if decoded.outage:
            left_out["unreachable"] += 1
            continue
        (found,) = decoded.photos
        if found.ok:
            pixels = np.frombuffer(found.content or b"", np.uint8).reshape(size, size, 3)
            pictures[identity] = encode(pixels, "webp")
        else:
            left_out[found.reason or ""] += 1
    return EnlargedPhotos(size, pictures, dict(sorted(left_out.items())))


def _planned(store: Store, ids: Sequence[str]) -> dict[str, PhotoRecord]:
    """The planned photo of each image, by image id (hex)."""
    written, wanted = plan_files.read_written(store), pa.array(map(bytes.fromhex, ids), pa.binary(16))
    mine = pc.is_in(written.rows["id"], value_set=wanted)
    found: dict[str, PhotoRecord] = {}
    first = 0
    for group in written.groups:
        here = mine.slice(first, group.rows)
        first += group.rows
        if pc.any(here).as_py():
            rows = plan_files.read_group(store, group)
            rows = rows.filter(pc.is_in(rows["id"], value_set=wanted))
            units = units_of(rows, lambda _: "held_out")
            found |= {photo.id.hex(): photo for unit in units for photo in unit.photos}
    return found
