"""The unit of work: a few planned images, committed as one Parquet object by the first writer.

The plan is on disk before work starts, see `plan_files`; a listing shows which units are done. So retries,
lost nodes, zombies and kill -9 need no coordination.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from batch_nst.data.dataset.quality import change
from batch_nst.data.dataset.records import BadPhoto, UnitRow
from batch_nst.data.dataset.summaries import Summary, check_summary, summarise
from batch_nst.data.images.sandbox import stored_picture
from batch_nst.data.storage.documents import intact
from batch_nst.data.storage.store import Store

DATA = "dataset/data"
UNPAIRED = "-unpaired"
"""Ending of the names of units that hold photos without pairs."""

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
"""One row for each planned id of the unit. `status` is ok, rejected, failed or forgotten. Rejected and failed
rows have a `reason`; a forgotten row keeps nothing but `id` and `split`. A photo without a pair is ok, of the
split `unpaired`, and has a `content` alone."""

_METADATA = b"batch_nst"

_MANY, _LISTERS = 20_000, 16


def unit_object(unit: str) -> str:
    """Where a unit's Parquet object lies below the output."""
    return f"{DATA}/{unit[:2]}/{unit}.parquet"


def done_units(store: Store, planned: int = 0) -> set[str]:
    """Names of the committed units; where many are planned, folders are listed in parallel."""
    with ThreadPoolExecutor(_LISTERS) as pool:
        return {
            name.rsplit("/", 1)[1].removesuffix(".parquet")
            for names in pool.map(store.list, listed_folders(planned))
            for name in names
        }


def listed_folders(planned: int) -> list[str]:
    """The folders that `done_units` lists for this number of planned units."""
    return [DATA] if planned < _MANY else [f"{DATA}/{number:02x}" for number in range(256)]


class EncodedUnit(NamedTuple):
    """A unit that is ready to be committed."""

    summary: Summary
    """See `read_summary`."""
    data: bytes
    """The Parquet object."""


def encode_unit(unit: str, rows: Sequence[UnitRow], digest: str) -> EncodedUnit:
    """The object of a unit.

    Args:
        unit: its name.
        rows: the columns of `UNIT_SCHEMA`, and `change` of rows that are ok.
        digest: the digest of its content, see `row_digest`.
    """
    summary = summarise(unit, digest, rows)
    table = pa.Table.from_pylist(list(rows), schema=UNIT_SCHEMA)
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), _METADATA: json.dumps(summary, sort_keys=True)}
    )
    return EncodedUnit(summary, _parquet(table))


def commit_encoded(store: Store, encoded: EncodedUnit) -> Summary:
    """Write a unit unless another worker has, and return the summary of the committed one."""
    unit = encoded.summary["unit"]
    return encoded.summary if store.create(unit_object(unit), encoded.data) else read_summary(store, unit)


def commit_unit(store: Store, unit: str, rows: Sequence[UnitRow], digest: str) -> Summary:
    """`encode_unit`, then `commit_encoded`."""
    return commit_encoded(store, encode_unit(unit, rows, digest))


def read_summary(store: Store, unit: str) -> Summary:
    """The summary that a committed unit carries in its metadata, see `summarise`.

    Units of version 0.1.0 carry less; their summary is made from rows and pictures.

    Raises:
        StorageError: the unit is damaged, or the object holds another one.
    """
    data = store.read(unit_object(unit))
    with intact(store, unit_object(unit)):
        summary = dict(json.loads(pq.read_schema(io.BytesIO(data)).metadata[_METADATA]))
        if "outcomes" not in summary:
            rows: list[UnitRow] = _table(data, UNIT_SCHEMA.names).to_pylist()
            return summarise(unit, summary["digest"], [{**row, "change": _change(row)} for row in rows])
        found = cast(Summary, summary)
        check_summary(unit, found)
    return found


def read_unit(store: Store, unit: str, columns: list[str] | None = None) -> list[UnitRow]:
    """The rows of a committed unit.

    Raises:
        StorageError: it is damaged.
    """
    data = store.read(unit_object(unit))
    with intact(store, unit_object(unit)):
        return list(_table(data, columns or UNIT_SCHEMA.names).to_pylist())


def read_rows(store: Store, unit: str) -> tuple[list[UnitRow], str]:
    """The rows of a committed unit and the digest that it carries.

    Raises:
        StorageError: it is damaged.
    """
    data = store.read(unit_object(unit))
    with intact(store, unit_object(unit)):
        table = _table(data, UNIT_SCHEMA.names)
        return list(table.to_pylist()), str(json.loads((table.schema.metadata or {})[_METADATA])["digest"])


def _table(data: bytes, columns: list[str]) -> pa.Table:
    table = pq.read_table(io.BytesIO(data), columns=columns, page_checksum_verification=True)
    schema = pa.schema([UNIT_SCHEMA.field(name) for name in columns], table.schema.metadata)
    return table.select(columns).cast(schema)


def bad_photos(store: Store, unit: str, hidden: Collection[bytes]) -> list[BadPhoto]:
    """Rejected and failed photos of a unit, without those whose ids are hidden."""
    rows = read_unit(store, unit, columns=["id", "uri", "status", "reason", "detail"])
    bad = (row for row in rows if row["status"] in ("rejected", "failed") and row["id"] not in hidden)
    return [BadPhoto.of_row(row, unit) for row in bad]


def row_digest(rows: Iterable[tuple[bytes, str, bytes, tuple[float, ...]]]) -> str:
    """A digest of a unit's content: id, status, pixels and losses, whatever the encoding of its file."""
    digest = hashlib.blake2b(digest_size=16, person=b"batch_nst unit")
    for identity, status, pixels, losses in sorted(rows):
        for part in (identity, status.encode(), pixels, json.dumps(losses).encode()):
            digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


def _change(row: UnitRow) -> float | None:
    content, stylized = row["content"], row["stylized"]
    if content is None or stylized is None:
        return None
    return change(stored_picture(content["bytes"]), stored_picture(stylized["bytes"]))


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=True, write_page_checksum=True)
    return buffer.getvalue()
