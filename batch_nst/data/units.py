"""The unit of work: planned in an append-only segment, committed as one Parquet object, first writer wins.

What is planned is written down before work begins; what is done is what a listing shows. So retries, lost
nodes, zombies and kill -9 need no coordination.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batch_nst.data.inputs import Photo, photo_id
from batch_nst.data.storage import Store
from batch_nst.errors import LeaseError

DATA = "dataset/data"
PLAN = "dataset/plan"

PLAN_SCHEMA = pa.schema(
    [
        ("id", pa.binary(16)),
        ("key", pa.string()),
        ("source", pa.string()),
        ("version", pa.string()),
        ("crop", pa.int32()),
        ("attempt", pa.int32()),
        ("unit", pa.string()),
    ]
)
"""A row for each crop of each photo and attempt."""

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

_FEATURES = {
    "id": "binary",
    "uri": "string",
    "split": "string",
    "status": "string",
    "reason": "string",
    "detail": "string",
    "content": None,
    "stylized": None,
    "height": "int32",
    "width": "int32",
    "content_loss": "float32",
    "style_loss": "float32",
    "total_loss": "float32",
    "iterations": "int32",
    "init": "string",
    "engine": "string",
}
"""Columns of a unit and their types; None is an encoded image as Hugging Face's `Image` feature stores it."""

_HUGGING_FACE = {
    "info": {
        "features": {
            name: {"_type": "Image"} if kind is None else {"dtype": kind, "_type": "Value"}
            for name, kind in _FEATURES.items()
        }
    }
}

UNIT_SCHEMA = pa.schema(
    [(name, _IMAGE if kind is None else pa.type_for_alias(kind)) for name, kind in _FEATURES.items()],
    metadata={"huggingface": json.dumps(_HUGGING_FACE)},
)
"""A row for each planned id of the unit; `status` is ok, rejected or failed, the last two with a `reason`."""

_METADATA = b"batch_nst"


def cut_units(photos: Iterable[Photo], crops: int, planned: set[bytes], unit_images: int) -> pa.Table:
    """Units for the ids that no segment has yet, `PLAN_SCHEMA`; crops of a photo are neighbours."""
    rows = [
        {"id": identity, "key": photo.key, "source": photo.source, "version": photo.version, "crop": crop}
        for photo in photos
        for crop in range(crops)
        if (identity := photo_id(photo.key, photo.version, crop)) not in planned
    ]
    return _into_units(rows, unit_images, attempt=0)


def retry_units(rows: Sequence[dict[str, Any]], unit_images: int) -> pa.Table:
    """Units for a further attempt at planned rows (of `PLAN_SCHEMA`)."""
    return _into_units(rows, unit_images, attempt=1 + max((row["attempt"] for row in rows), default=0))


def _into_units(rows: Sequence[dict[str, Any]], unit_images: int, attempt: int) -> pa.Table:
    salt = attempt.to_bytes(4)
    planned = []
    for start in range(0, len(rows), unit_images):
        members = rows[start : start + unit_images]
        name = hashlib.blake2b(b"".join(row["id"] for row in members), digest_size=16, salt=salt).hexdigest()
        planned += [{**row, "attempt": attempt, "unit": name} for row in members]
    return pa.Table.from_pylist(planned, schema=PLAN_SCHEMA)


def read_plan(store: Store) -> pa.Table:
    """All segments, `PLAN_SCHEMA`, oldest first."""
    with ThreadPoolExecutor(16) as pool:
        segments = pool.map(lambda name: pq.read_table(io.BytesIO(store.read(name))), store.list(PLAN))
        return pa.concat_tables([PLAN_SCHEMA.empty_table(), *segments])


def append_segment(store: Store, rows: pa.Table) -> None:
    """Write down what is going to be done.

    Raises:
        LeaseError: somebody else wrote a segment at the same time, which the lease forbids.
    """
    name = f"{PLAN}/{len(store.list(PLAN)) + 1:06}.parquet"
    if not store.establish(name, _parquet(rows)):
        raise LeaseError(f"{store.join(name)}: written by another run a moment ago; start again")


def unit_object(unit: str) -> str:
    """Where a unit's Parquet object lies below the output."""
    return f"{DATA}/{unit[:2]}/{unit}.parquet"


def done_units(store: Store) -> set[str]:
    """Names of the committed units."""
    return {name.rsplit("/", 1)[1].removesuffix(".parquet") for name in store.list(DATA)}


class EncodedUnit(NamedTuple):
    """A unit that is ready to be committed."""

    summary: dict[str, Any]
    """See `read_summary`."""
    data: bytes
    """The Parquet object."""


def encode_unit(unit: str, rows: list[dict[str, Any]], digest: str) -> EncodedUnit:
    """The object of a unit.

    Args:
        unit: its name.
        rows: of `UNIT_SCHEMA`.
        digest: of the unit's content, see `row_digest`.
    """
    summary = {"unit": unit, "digest": digest, **count(rows)}
    table = pa.Table.from_pylist(rows, schema=UNIT_SCHEMA)
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), _METADATA: json.dumps(summary, sort_keys=True)}
    )
    return EncodedUnit(summary, _parquet(table))


def commit_encoded(store: Store, encoded: EncodedUnit) -> dict[str, Any]:
    """Write a unit unless another worker has, and return the summary of the one that is there."""
    unit = encoded.summary["unit"]
    return encoded.summary if store.create(unit_object(unit), encoded.data) else read_summary(store, unit)


def commit_unit(store: Store, unit: str, rows: list[dict[str, Any]], digest: str) -> dict[str, Any]:
    """`encode_unit`, then `commit_encoded`."""
    return commit_encoded(store, encode_unit(unit, rows, digest))


def read_summary(store: Store, unit: str) -> dict[str, Any]:
    """The summary that a committed unit carries in its metadata: unit, digest and `count`'s figures."""
    metadata = pq.read_schema(io.BytesIO(store.read(unit_object(unit)))).metadata
    return dict(json.loads(metadata[_METADATA]))


def read_unit(store: Store, unit: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a committed unit."""
    table = pq.read_table(io.BytesIO(store.read(unit_object(unit))), columns=columns)
    return list(table.to_pylist())


def count(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many rows are `ok` to train on, `held_out` (and ok), `rejected`, `failed`."""
    counts = {"ok": 0, "held_out": 0, "rejected": 0, "failed": 0}
    for row in rows:
        held_out = row["status"] == "ok" and row["split"] == "held_out"
        counts["held_out" if held_out else row["status"]] += 1
    return counts


def row_digest(rows: Iterable[tuple[bytes, str, bytes, tuple[float, ...]]]) -> str:
    """A digest over what a unit says (id, status, pixels, losses), blind to how its file is written."""
    digest = hashlib.blake2b(digest_size=16, person=b"batch_nst unit")
    for identity, status, pixels, losses in sorted(rows):
        for part in (identity, status.encode(), pixels, json.dumps(losses).encode()):
            digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=True)
    return buffer.getvalue()
