"""The records between the stages of `generate`: a unit, the photos in it, and the outcome of the unit.

Ray Data moves rows of columns. The functions at the end are the only place where a record becomes a row and
comes back: a unit as one Arrow stream with pictures as raw pixels, an outcome as JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import TypedDict

import pyarrow as pa


@dataclass(frozen=True)
class Refusal:
    """Why a photo has no pair."""

    status: str
    """`rejected` or `failed`."""
    reason: str
    detail: str


@dataclass(frozen=True)
class PhotoRecord:
    """One planned image, from the plan to its row in a unit."""

    id: bytes
    """16 bytes."""
    uri: str = ""
    """Name of the photo in messages."""
    split: str = ""
    """`train`, `held_out` or `unpaired`."""
    key: str = ""
    source: str = ""
    """Object that holds the photo's bytes."""
    version: str = ""
    offset: int | None = None
    """First byte within the source, or number of the Parquet row; None: the photo is the whole source."""
    length: int | None = None
    """Number of bytes, or None."""
    crop: int = 0
    """Number of the crop, from 0."""
    status: str = ""
    """`ok`, `rejected` or `failed`; empty before the photo is read."""
    reason: str | None = None
    detail: str | None = None
    content: bytes | None = None
    """Square cut from the photo, raw uint8 (size, size, 3)."""
    stylized: bytes | None = None
    """Optimised image, raw uint8 (size, size, 3)."""
    content_loss: float | None = None
    style_loss: float | None = None
    total_loss: float | None = None
    init: str | None = None
    """Start of the optimisation: `content` or `model:NAME`."""
    engine: str | None = None
    """Program, optimiser, device and precision."""

    @property
    def ok(self) -> bool:
        """Whether the image is good so far."""
        return self.status == "ok"

    @property
    def is_pair(self) -> bool:
        """Whether it is, or becomes, a pair."""
        return self.ok and self.split != "unpaired"

    def refused(self, why: Refusal) -> PhotoRecord:
        """The same image without pictures, and with the reason."""
        return replace(
            self, status=why.status, reason=why.reason, detail=why.detail, content=None, stylized=None
        )


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of a unit in each stage; together they are its time from the first fetch to the commit."""

    fetch: float = 0.0
    """Until the bytes of its photos were there, without what was read while others were decoded."""
    decode: float = 0.0
    wait: float = 0.0
    """Between two stages: in queues, on the wire, and until the device and the writer were free."""
    device: float = 0.0
    encode: float = 0.0
    put: float = 0.0

    @property
    def total(self) -> float:
        """Seconds in all stages."""
        return self.fetch + self.decode + self.wait + self.device + self.encode + self.put

    def plus(self, other: StageSeconds) -> StageSeconds:
        """The sum, stage by stage."""
        return StageSeconds(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


@dataclass(frozen=True)
class UnitRecord:
    """A unit of work between the stages."""

    unit: str
    """Name of the unit."""
    photos: tuple[PhotoRecord, ...] = ()
    outage: str = ""
    """Fault that leaves the unit pending; empty if there was none."""
    stopped: bool = False
    """Whether the unit stays pending because the run starts no further unit."""
    photos_read: int = 0
    """Number of photos read for the unit; crops of one photo share a read."""
    bytes_read: int = 0
    taken: float = 0.0
    """When the first photo was asked for, in seconds since the epoch."""
    fetch_seconds: float = 0.0
    decode_seconds: float = 0.0
    idle_seconds: float = 0.0
    """Time that the device had no work before this unit."""
    began: float = 0.0
    """Start of the optimisation with the network loaded, in seconds since the epoch."""
    seconds: float = 0.0
    """Time that a device spent on the unit."""
    actor: str = ""
    """ID of the actor that holds this device."""

    @property
    def pending(self) -> bool:
        """Whether the unit stays pending, so that later stages do nothing."""
        return self.stopped or bool(self.outage)


@dataclass(frozen=True)
class BadPhoto:
    """A photo of a unit that has no pair, for messages and pages."""

    uri: str
    status: str
    reason: str
    detail: str
    unit: str

    @classmethod
    def of_row(cls, row: UnitRow, unit: str) -> BadPhoto:
        """The photo of a row of a unit."""
        return cls(row["uri"], row["status"], row["reason"] or "", row["detail"] or "", unit)


@dataclass(frozen=True)
class UnitOutcome:
    """What became of a unit: committed, or pending because of an outage or a stopped run."""

    unit: str
    outage: str = ""
    """Fault that leaves the unit pending; empty if there was none."""
    refused: str = ""
    """Why no unit can be written at all, such as a full disk; empty otherwise."""
    stopped: bool = False
    """Whether the unit stays pending because the run starts no further unit."""
    summary: str = ""
    """Summary of the committed unit, in JSON; empty if the unit is pending."""
    losses: tuple[float, ...] = ()
    """Total losses of its pairs."""
    unpaired: int = 0
    """Number of its photos without pairs."""
    bad: tuple[BadPhoto, ...] = ()
    stages: StageSeconds = StageSeconds()
    idle_seconds: float = 0.0
    """Time that the device had no work before this unit."""
    began: float = 0.0
    """Start of the optimisation, in seconds since the epoch."""
    ended: float = 0.0
    """Time of the commit, in seconds since the epoch."""
    actor: str = ""
    """ID of the actor that made the unit; empty if it needed none."""
    photos_read: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def pending(self) -> bool:
        """Whether the unit was not committed."""
        return self.stopped or bool(self.outage)


class StoredImage(TypedDict):
    """An encoded picture as Hugging Face's `Image` feature stores it."""

    bytes: bytes
    path: str | None


class UnitRow(TypedDict, total=False):
    """A row of a unit's Parquet object, see `units.UNIT_SCHEMA`; columns that were not read are missing."""

    id: bytes
    uri: str
    split: str
    """`train`, `held_out` or `unpaired`."""
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
"""Columns of `PhotoRecord` in the Arrow stream of a unit."""

_METADATA = b"unit"


def to_row(unit: UnitRecord) -> dict[str, bytes]:
    """A unit as a row of Ray Data: an Arrow stream of its photos, with the other fields in its metadata."""
    about = {each.name: getattr(unit, each.name) for each in fields(unit) if each.name != "photos"}
    schema = PHOTO_SCHEMA.with_metadata({_METADATA: json.dumps(about)})
    columns = [pa.array([getattr(photo, each.name) for photo in unit.photos], each.type) for each in schema]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return {"unit": bytes(sink.getvalue())}


def from_row(row: dict[str, bytes]) -> UnitRecord:
    """The unit of a row that `to_row` made."""
    with pa.ipc.open_stream(row["unit"]) as reader:
        about = json.loads(reader.schema.metadata[_METADATA])
        photos = tuple(PhotoRecord(**photo) for photo in reader.read_all().to_pylist())
    return UnitRecord(**about, photos=photos)


def outcome_to_row(outcome: UnitOutcome) -> dict[str, str]:
    """An outcome as a row of Ray Data; the inverse of `outcome_from_row`."""
    return {"outcome": json.dumps(asdict(outcome))}


def outcome_from_row(row: dict[str, str]) -> UnitOutcome:
    """The outcome of a row that `outcome_to_row` made."""
    document = json.loads(row["outcome"])
    document["losses"] = tuple(document["losses"])
    document["bad"] = tuple(BadPhoto(**each) for each in document["bad"])
    document["stages"] = StageSeconds(**document["stages"])
    return UnitOutcome(**document)
