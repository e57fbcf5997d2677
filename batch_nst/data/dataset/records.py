"""The records between the stages of `generate`: a unit, and the photos in it.

A `UnitRecord` is one row of Ray Data. `to_row` and `from_row` are the only place where it becomes Ray's
mapping of column values and comes back: photos as one Arrow stream, pictures as raw pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import pyarrow as pa


@dataclass(frozen=True)
class Refusal:
    """Why there is no pair of a photo: `status` is `rejected` or `failed`."""

    status: str
    reason: str
    detail: str


@dataclass(frozen=True)
class PhotoRecord:
    """One planned image, from the plan to its row in a unit."""

    id: bytes
    """16 bytes."""
    uri: str
    """The photo's name to people."""
    split: str
    """`train` or `held_out`."""
    key: str = ""
    source: str = ""
    """Where its bytes lie."""
    version: str = ""
    offset: int | None = None
    """Offset of its bytes within the source; None: the photo is the whole source."""
    length: int | None = None
    crop: int = 0
    """Number of the crop."""
    status: str = ""
    """`ok`, `rejected` or `failed`; empty before it was read."""
    reason: str | None = None
    detail: str | None = None
    content: bytes | None = None
    """The square cut from the photo, raw uint8 (size, size, 3)."""
    stylized: bytes | None = None
    """The optimised image, in the same form."""
    content_loss: float | None = None
    style_loss: float | None = None
    total_loss: float | None = None
    init: str | None = None
    """What the optimisation started from."""
    engine: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it is, so far, a pair."""
        return self.status == "ok"

    def refused(self, why: Refusal) -> PhotoRecord:
        """The same image without pictures, and the reason."""
        return replace(
            self, status=why.status, reason=why.reason, detail=why.detail, content=None, stylized=None
        )


@dataclass(frozen=True)
class UnitRecord:
    """A unit of work between the stages."""

    unit: str
    photos: tuple[PhotoRecord, ...] = ()
    outage: str = ""
    """Why it is left pending; empty: it is not."""
    photos_read: int = 0
    """Photos that were read for it, whose crops share a read."""
    bytes_read: int = 0
    began: float = 0.0
    """Seconds since the epoch when its optimisation began, the network loaded."""
    seconds: float = 0.0
    """That its device worked on it."""


class StoredImage(TypedDict):
    """An encoded picture as Hugging Face's `Image` feature stores it."""

    bytes: bytes
    path: str | None


class UnitRow(TypedDict, total=False):
    """A row of a unit's Parquet object, see `units.UNIT_SCHEMA`; columns that were not read are missing."""

    id: bytes
    uri: str
    split: str
    """`train` or `held_out`."""
    status: str
    """`ok`, `rejected`, `failed` or `forgotten`."""
    reason: str | None
    detail: str | None
    content: StoredImage | None
    stylized: StoredImage | None
    height: int | None
    width: int | None
    content_loss: float | None
    style_loss: float | None
    total_loss: float | None
    iterations: int | None
    init: str | None
    engine: str | None
    change: float | None
    """Distance to the photo in grey levels. It goes into the unit's summary and is not a column."""


PHOTO_SCHEMA = pa.schema(
    [
        ("id", pa.binary()),
        *((name, pa.string()) for name in ("uri", "split", "key", "source", "version")),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("crop", pa.int32()),
        *((name, pa.string()) for name in ("status", "reason", "detail")),
        ("content", pa.binary()),
        ("stylized", pa.binary()),
        *((name, pa.float32()) for name in ("content_loss", "style_loss", "total_loss")),
        ("init", pa.string()),
        ("engine", pa.string()),
    ]
)
"""The columns of `PhotoRecord` in the Arrow stream of a unit."""

UNIT_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("photos", pa.binary()),
        ("outage", pa.string()),
        ("photos_read", pa.int64()),
        ("bytes_read", pa.int64()),
        ("began", pa.float64()),
        ("seconds", pa.float64()),
    ]
)
"""The columns of a row of Ray Data that is a `UnitRecord`."""


def to_row(unit: UnitRecord) -> dict[str, Any]:
    """A unit as a row of Ray Data, of `UNIT_SCHEMA`; the inverse of `from_row`."""
    row = {each.name: getattr(unit, each.name) for each in fields(unit)}
    return row | {"photos": _pack(unit.photos)}


def from_row(row: dict[str, Any]) -> UnitRecord:
    """The unit of a row that `to_row` made."""
    return UnitRecord(**{**row, "photos": _unpack(row["photos"])})


def _pack(photos: Sequence[PhotoRecord]) -> bytes:
    columns = [pa.array([getattr(photo, each.name) for photo in photos], each.type) for each in PHOTO_SCHEMA]
    batch = pa.record_batch(columns, schema=PHOTO_SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, PHOTO_SCHEMA) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _unpack(data: bytes) -> tuple[PhotoRecord, ...]:
    with pa.ipc.open_stream(data) as reader:
        return tuple(PhotoRecord(**row) for row in reader.read_all().to_pylist())
