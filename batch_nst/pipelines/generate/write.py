"""The last stage of `generate`: encode the pictures of a unit and commit it; without torch."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from batch_nst.data.dataset import units
from batch_nst.data.dataset.quality import change
from batch_nst.data.dataset.records import (
    BadPhoto,
    PhotoRecord,
    StageSeconds,
    UnitOutcome,
    UnitRecord,
    UnitRow,
    from_row,
    outcome_to_row,
)
from batch_nst.data.images import codec
from batch_nst.data.storage.store import Store
from batch_nst.errors import OutageError, StorageError
from batch_nst.pipelines.generate.decode import (
    MOST_DEATHS,
    Attempt,
    StopCheck,
    given_up,
    unseen_output,
)
from batch_nst.recipe import Generate


def write_unit(unit: UnitRecord, store: Store, settings: Generate, threads: int = 1) -> UnitOutcome:
    """Encode a unit's pictures on so many threads and commit it, unless another worker has.

    An outage leaves it pending. `refused` says why no unit can be written at all: no room, or no permission.
    """
    if unit.pending:
        return UnitOutcome(unit.unit, outage=unit.outage, stopped=unit.stopped)
    if outage := unseen_output(store):
        return UnitOutcome(unit.unit, outage=outage, refused=outage)
    start = time.perf_counter()
    encoded = encode_unit(unit.unit, unit.photos, settings, threads)
    ready = time.perf_counter()
    try:
        summary = units.commit_encoded(store, encoded)
    except StorageError as error:
        refused = "" if isinstance(error, OutageError) else str(error)
        return UnitOutcome(unit.unit, outage=str(error), refused=refused)
    put, ended = time.perf_counter() - ready, time.time()
    return UnitOutcome(
        unit.unit,
        summary=json.dumps(summary),
        losses=tuple(photo.total_loss or 0.0 for photo in unit.photos if photo.is_pair),
        unpaired=sum(photo.ok and not photo.is_pair for photo in unit.photos),
        bad=tuple(_bad(photo, unit.unit) for photo in unit.photos if not photo.ok),
        stages=_stages(unit, ready - start, put, ended),
        idle_seconds=unit.idle_seconds,
        began=unit.began,
        ended=ended,
        actor=unit.actor,
        photos_read=unit.photos_read,
        bytes_read=unit.bytes_read,
        bytes_written=len(encoded.data),
    )


def write_row(
    row: dict[str, bytes], store: Store, settings: Generate, stop_reason: StopCheck, attempt: Attempt
) -> dict[str, str]:
    """`write_unit` for Ray Data, for units that are written as soon as they are decoded."""
    unit = from_row(row)
    if not unit.pending and stop_reason():
        unit = replace(unit, stopped=True)
    with attempt(f"write {unit.unit}") as deaths:
        if deaths >= MOST_DEATHS:
            unit = replace(unit, photos=tuple(photo.refused(given_up(deaths)) for photo in unit.photos))
        return outcome_to_row(write_unit(replace(unit, began=time.time()), store, settings))


def _stages(unit: UnitRecord, encode: float, put: float, ended: float) -> StageSeconds:
    worked = StageSeconds(
        unit.fetch_seconds, unit.decode_seconds, device=unit.seconds, encode=encode, put=put
    )
    # The rest, and not less than none: clocks of two nodes may differ.
    return replace(worked, wait=max(0.0, ended - unit.taken - worked.total))


def _bad(photo: PhotoRecord, unit: str) -> BadPhoto:
    return BadPhoto(photo.uri, photo.status, photo.reason or "", photo.detail or "", unit)


def encode_unit(
    unit: str, photos: Sequence[PhotoRecord], settings: Generate, threads: int = 1
) -> units.EncodedUnit:
    """The Parquet object of a unit whose photos are decoded and optimised, or refused.

    The object is the same whatever the number of threads.
    """
    digest = units.row_digest(
        (
            photo.id,
            photo.status,
            (photo.content or b"") + (photo.stylized or b""),
            (photo.content_loss or 0.0, photo.style_loss or 0.0, photo.total_loss or 0.0),
        )
        for photo in photos
    )
    with ThreadPoolExecutor(threads) as pool:
        rows = list(pool.map(partial(_stored, settings=settings), photos))
    return units.encode_unit(unit, rows, digest)


def _stored(photo: PhotoRecord, settings: Generate) -> UnitRow:
    """The row of a photo in its unit; without pictures unless it is ok."""
    row: UnitRow = {
        "id": photo.id,
        "uri": photo.uri,
        "split": photo.split,
        "status": photo.status,
        "reason": photo.reason,
        "detail": photo.detail,
    }
    if not photo.ok:
        return row
    side = settings.image_size
    row = {
        **row,
        "content": {"bytes": encode_picture(photo.content, settings), "path": None},
        "height": side,
        "width": side,
    }
    if not photo.is_pair:
        return row
    return {
        **row,
        "stylized": {"bytes": encode_picture(photo.stylized, settings), "path": None},
        "content_loss": photo.content_loss,
        "style_loss": photo.style_loss,
        "total_loss": photo.total_loss,
        "iterations": settings.iterations,
        "init": photo.init,
        "engine": photo.engine,
        "change": change(_pixels(photo.content, side), _pixels(photo.stylized, side)),
    }


def encode_picture(pixels: bytes | None, settings: Generate) -> bytes:
    """A raw picture in the encoding in which it is stored."""
    return codec.encode(_pixels(pixels, settings.image_size), settings.encoding)


def _pixels(raw: bytes | None, side: int) -> codec.Pixels:
    return np.frombuffer(raw or b"", np.uint8).reshape(side, side, 3)
