"""The first stage of `generate`: read planned photos, decode them, and cut their squares; without torch.

`planned_units` reads the plan rows of a chunk, and `decode_unit` fetches the photos and cuts their crops. The
device is next (`actors`), then `write_unit` (`write`).
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pyarrow as pa

from batch_nst.data.dataset import plan_files
from batch_nst.data.dataset.manifest import SETTINGS
from batch_nst.data.dataset.plan import Chunk
from batch_nst.data.dataset.records import PhotoRecord, Refusal, UnitRecord, from_row, to_row
from batch_nst.data.images.reasons import BadImage
from batch_nst.data.images.sandbox import Limits, decoder_for
from batch_nst.data.sources.photos import Photo, uri_of
from batch_nst.data.sources.reader import read_each
from batch_nst.data.storage.fetch import TooLarge
from batch_nst.data.storage.store import Store
from batch_nst.errors import StorageError
from batch_nst.pipelines.cluster.stop import Stop
from batch_nst.recipe import Generate

SplitOf = Callable[[str], str]
"""The side of the split, `train` or `held_out`, of a photo's key."""

StopCheck = Callable[[], Stop | None]
"""Why no further unit may start; None while one may."""

Attempt = Callable[[str], AbstractContextManager[int]]
"""A context for a step of a unit, given its name; yields how many workers the step has crashed before."""

MOST_DEATHS = 3
"""Crashed workers after which a unit is given up."""

DIED = "worker_died"
"""Reason of the photos of a unit that was given up."""


VANISHED = "vanished"
"""Reason of photos that are not there."""


def never() -> None:
    """A `StopCheck` that lets every unit start."""


def first_attempt(_: str) -> AbstractContextManager[int]:
    """An `Attempt` that counts nothing."""
    return nullcontext(0)


def chunk_row(chunk: Chunk) -> dict[str, str]:
    """A chunk as a row of Ray Data."""
    return {"chunk": json.dumps([chunk.group, chunk.units])}


def plan_rows(
    row: dict[str, str], store: Store, split_of: SplitOf, stop_reason: StopCheck
) -> list[dict[str, bytes]]:
    """`planned_units` for Ray Data: a row of `chunk_row` becomes one row per unit."""
    group, names = json.loads(row["chunk"])
    chunk = Chunk(plan_files.Group(*group), names)
    return [to_row(unit) for unit in planned_units(chunk, store, split_of, stop_reason)]


def decode_row(
    row: dict[str, bytes], limits: Generate, stop_reason: StopCheck, attempt: Attempt
) -> dict[str, bytes]:
    """`decode_unit` for Ray Data."""
    return to_row(decode_unit(from_row(row), limits, stop_reason, attempt))


def planned_units(
    chunk: Chunk, store: Store, split_of: SplitOf, stop_reason: StopCheck = never
) -> list[UnitRecord]:
    """The units of a chunk with their planned photos; no unit if the run is stopping.

    Where the plan cannot be read, each unit carries the `outage` that leaves it pending.
    """
    if stop_reason():
        return []
    if outage := unseen_output(store):
        return [UnitRecord(unit, outage=outage) for unit in chunk.units]
    try:
        rows = plan_files.read_group(store, chunk.group, chunk.units)
    except StorageError as error:
        return [UnitRecord(unit, outage=str(error)) for unit in chunk.units]
    return units_of(rows, split_of)


def unseen_output(store: Store) -> str:
    """Why this node can neither read nor write an output on a disk; empty if it can."""
    if store.local_path is None or store.exists(SETTINGS):
        return ""
    return (
        f"node {platform.node()} does not see output {store.uri}; "
        "allowed: a bucket, or a disk that all nodes share"
    )


def units_of(planned: pa.Table, split_of: SplitOf) -> list[UnitRecord]:
    """The units in rows of `plan_files.PLAN_SCHEMA`, in the order of their first rows."""
    photos: dict[str, list[PhotoRecord]] = {}
    for row in planned.to_pylist():
        photo = Photo(*(row[name] for name in Photo._fields))
        record = planned_photo(photo, row["id"], split_of(photo.key), row["crop"])
        photos.setdefault(row["unit"], []).append(record)
    return [UnitRecord(unit, tuple(members)) for unit, members in photos.items()]


def planned_photo(photo: Photo, identity: bytes, split: str, crop: int = 0) -> PhotoRecord:
    """A photo's crop as it is planned, not read yet."""
    return PhotoRecord(identity, uri_of(photo), split, crop=crop, **photo._asdict())


def decode_unit(
    unit: UnitRecord, limits: Generate, stop_reason: StopCheck = never, attempt: Attempt = first_attempt
) -> UnitRecord:
    """Fetch and decode the photos of a unit and cut their crops; a bad photo becomes a refused record.

    Sets `photos_read`, `bytes_read` and the seconds that it took, or the `outage` for which the unit stays
    pending. Memory holds no more of the photos' bytes than `read_each` says.
    """
    if unit.pending:
        return unit
    if stop_reason():
        return replace(unit, stopped=True)
    unit = replace(unit, taken=time.time())
    with attempt(f"decode {unit.unit}") as deaths:
        if deaths < MOST_DEATHS:
            return _decode(unit, limits)
    return replace(unit, photos=tuple(photo.refused(given_up(deaths)) for photo in unit.photos))


_Place = tuple[str, int, str]


def _decode(unit: UnitRecord, limits: Generate) -> UnitRecord:
    crops: dict[_Place, list[PhotoRecord]] = {}
    for photo in unit.photos:
        # Crops of one photo share its place.
        crops.setdefault((photo.source, photo.offset or 0, photo.version), []).append(photo)
    places = {_source_of(crops[place][0]): place for place in sorted(crops)}
    decoded: dict[_Place, list[PhotoRecord]] = {}
    bytes_read, decode_seconds, start = 0, 0.0, time.perf_counter()
    for source, data in read_each(list(places), limits.max_bytes):
        if isinstance(data, StorageError):
            return replace(unit, outage=str(data))
        bytes_read += len(data) if isinstance(data, bytes) else 0
        read = time.perf_counter()
        decoded[places[source]] = photo_records(data, crops[places[source]], limits)
        decode_seconds += time.perf_counter() - read
    return replace(
        unit,
        photos=tuple(photo for place in sorted(crops) for photo in decoded[place]),
        photos_read=len(places),
        bytes_read=bytes_read,
        fetch_seconds=time.perf_counter() - start - decode_seconds,
        decode_seconds=decode_seconds,
    )


def _source_of(photo: PhotoRecord) -> Photo:
    return Photo(photo.key, photo.source, photo.version, photo.offset, photo.length)


def photo_records(
    data: bytes | Exception, planned: Sequence[PhotoRecord], limits: Generate
) -> list[PhotoRecord]:
    """The crops of one photo, or the reason why there are none.

    Args:
        data: the photo's file, or the exception raised when it was read.
        planned: its planned crops.
        limits: allowed sizes and the side of the crops.
    """
    if isinstance(data, Exception):
        return [photo.refused(refusal(data)) for photo in planned]
    decoder = decoder_for(
        Limits(limits.min_side, limits.max_bytes, limits.max_pixels, limits.max_seconds, limits.draft)
    )
    try:
        crops = decoder.crops(data, limits.image_size, [(photo.crop, photo.id) for photo in planned])
    except BadImage as error:
        return [photo.refused(refusal(error)) for photo in planned]
    return [replace(photo, status="ok", content=crop) for photo, crop in zip(planned, crops, strict=True)]


def refusal(error: Exception) -> Refusal:
    """The reason for a photo that could not be read or decoded.

    Raises:
        Exception: the error itself, if it does not concern the photo.
    """
    match error:
        case FileNotFoundError():
            return Refusal("failed", VANISHED, "listed, but gone or another one when it was read")
        case PermissionError():
            return Refusal("failed", "forbidden", "no permission to read it")
        case TooLarge():
            return Refusal("rejected", "too_many_bytes", f"{error.size} bytes; allowed: {error.max_bytes}")
        case BadImage():
            return Refusal("rejected", error.reason, error.detail)
        case _:
            raise error


def given_up(deaths: int, what: str = "its unit") -> Refusal:
    """The reason for photos whose unit, or other `what`, has crashed this many workers."""
    return Refusal("failed", DIED, f"{what} has ended {deaths} workers")
