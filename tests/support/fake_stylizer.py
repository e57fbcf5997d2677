"""What stands in for the engine: a unit's pictures are the photos' negatives, without a tensor."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from batch_nst.data.dataset.records import PhotoRecord, UnitRecord


def negative(unit: UnitRecord, seconds: float = 0.0) -> UnitRecord:
    """What `Stylizer` makes of a unit, in at least so many seconds; the same pixels and losses always."""
    if unit.pending:
        return unit
    start, began = time.perf_counter(), time.time()
    if seconds:
        time.sleep(seconds)
    photos = tuple(_negative(photo) if photo.ok else photo for photo in unit.photos)
    return replace(unit, photos=photos, began=began, seconds=time.perf_counter() - start)


def _negative(photo: PhotoRecord) -> PhotoRecord:
    pixels = np.frombuffer(photo.content or b"", np.uint8)
    loss = float(np.float32(pixels.mean()))
    stylized = (255 - pixels).tobytes()
    return replace(
        photo, stylized=stylized, engine="negative", content_loss=loss, style_loss=loss, total_loss=loss
    )
