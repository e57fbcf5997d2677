"""A unit between the stages, and the stages that need no tensors: their workers never import torch."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from batch_nst.data.dataset import plan_files, units
from batch_nst.data.dataset.manifest import SETTINGS, split_of
from batch_nst.data.dataset.quality import change
from batch_nst.data.dataset.records import Refusal
from batch_nst.data.images import codec
from batch_nst.data.images.reasons import BadImage
from batch_nst.data.images.sandbox import Limits, decoder_for
from batch_nst.data.sources.photos import Photo, uri_of
from batch_nst.data.sources.reader import read_each
from batch_nst.data.storage.fetch import TooLarge
from batch_nst.data.storage.store import Store
from batch_nst.errors import OutageError, StorageError
from batch_nst.recipe import Generate

Row = dict[str, Any]

IN_FLIGHT = pa.schema(
    [
        *((name, pa.binary()) for name in ("id", "content", "stylized")),
        *((name, pa.string()) for name in ("uri", "split", "status", "reason", "detail", "init", "engine")),
        *((name, pa.float32()) for name in ("content_loss", "style_loss", "total_loss")),
    ]
)
"""A photo between stages; pictures are raw pixels (size, size, 3)."""


Closed = Callable[[], str]
"""Why no further unit may begin; empty while it may."""

Attempt = Callable[[str], AbstractContextManager[int]]
"""Entered for a step of a unit, by its name; gives how many workers that has ended before."""

MOST_DEATHS = 3
"""After so many dead workers a unit is given up."""

DIED = "worker_died"
"""The reason of its photos."""


def first_attempt(_: str) -> AbstractContextManager[int]:
    """An `Attempt` where nobody counts."""
    return nullcontext(0)


def planned_units(chunk: Row, store: Store, holdout: Row, closed: Closed) -> list[Row]:
    """`unit_rows` of a chunk: the `units` of a `group` (its fields), read where they are written down.

    Where that cannot be read, each is a row with the `outage` that leaves it pending.
    """
    if closed():
        return []
    if reason := _blind(store):
        return [{"unit": unit, "photos": b"", "outage": reason} for unit in chunk["units"]]
    try:
        rows = plan_files.read_group(store, plan_files.Group(**chunk["group"]), chunk["units"])
    except OutageError as error:
        return [{"unit": unit, "photos": b"", "outage": str(error)} for unit in chunk["units"]]
    return unit_rows(rows, partial(split_of, holdout=holdout))


def _blind(store: Store) -> str:
    """Why this node can neither read nor write an output on a disk; empty where it can."""
    if store.local_path is None or store.exists(SETTINGS):
        return ""
    return (
        f"node {platform.node()} does not see output {store.uri}; "
        "allowed: a bucket, or a disk that all nodes share"
    )


def unit_rows(pending: pa.Table, split_of: Callable[[str], str]) -> list[Row]:
    """One row a unit: its name and its photos."""
    by_unit: dict[str, list[Row]] = {}
    for row in pending.to_pylist():
        by_unit.setdefault(row["unit"], []).append({**row, "split": split_of(row["key"])})
    return [{"unit": unit, "photos": pack(rows), "outage": ""} for unit, rows in by_unit.items()]


def decode_unit(unit: Row, limits: Generate, closed: Closed = str, attempt: Attempt = first_attempt) -> Row:
    """Fetch and decode the photos of a unit and cut their crops; a bad photo is a row with a reason.

    Adds `photos_read` and `bytes_read` of this unit's photos; or the `outage` for which it is left pending.
    Of the photos' bytes no more are in memory than `read_each` says.
    """
    if reason := unit["outage"] or closed():
        return {**unit, "outage": reason}
    planned = unpack(unit["photos"])
    with attempt(f"decode {unit['unit']}") as deaths:
        if deaths < MOST_DEATHS:
            return _decode(unit, planned, limits)
    rows = [{"id": row["id"], "uri": uri_of(_photo(row)), "split": row["split"]} for row in planned]
    return {
        "unit": unit["unit"],
        "photos": pack([row | asdict(given_up(deaths)) for row in rows], IN_FLIGHT),
        "outage": "",
        "photos_read": 0,
        "bytes_read": 0,
    }


def _decode(unit: Row, planned: list[Row], limits: Generate) -> Row:
    crops: dict[_Place, list[Row]] = {}
    for row in planned:
        crops.setdefault(_place(row), []).append(row)
    places = {_photo(crops[place][0]): place for place in sorted(crops)}
    rows: dict[_Place, list[Row]] = {}
    bytes_read = 0
    for photo, data in read_each(list(places), limits.max_bytes):
        if isinstance(data, StorageError):
            return {**unit, "outage": str(data)}
        bytes_read += len(data) if isinstance(data, bytes) else 0
        rows[places[photo]] = photo_rows(uri_of(photo), data, crops[places[photo]], limits)
    return {
        "unit": unit["unit"],
        "photos": pack([row for place in sorted(crops) for row in rows[place]], IN_FLIGHT),
        "outage": "",
        "photos_read": len(places),
        "bytes_read": bytes_read,
    }


def write_unit(unit: Row, store: Store, settings: Generate) -> Row:
    """Encode a unit's pictures and commit it, unless another worker has; an outage leaves it pending.

    `refused` says why no unit can be written at all: no room, or no permission.
    """
    if unit["outage"]:
        return {"outage": unit["outage"], "unit": unit["unit"]}
    if reason := _blind(store):
        return {"outage": reason, "refused": reason, "unit": unit["unit"]}
    rows = unpack(unit["photos"])
    encoded = encode_unit(unit["unit"], rows, settings)
    try:
        summary = units.commit_encoded(store, encoded)
    except StorageError as error:
        refused = "" if isinstance(error, OutageError) else str(error)
        return {"outage": str(error), "refused": refused, "unit": unit["unit"]}
    return {
        "outage": "",
        "unit": unit["unit"],
        "summary": summary,
        "losses": [row["total_loss"] for row in rows if row["status"] == "ok"],
        "bad": [
            {name: row[name] or "" for name in ("uri", "status", "reason", "detail")}
            for row in rows
            if row["status"] != "ok"
        ],
        "seconds": unit["seconds"],
        "began": unit["began"],
        "ended": time.time(),
        "photos_read": unit["photos_read"],
        "bytes_read": unit["bytes_read"],
        "bytes_written": len(encoded.data),
    }


def encode_unit(unit: str, rows: list[Row], settings: Generate) -> units.EncodedUnit:
    """The object of a unit; `rows` are those of `IN_FLIGHT`."""
    digest = units.row_digest(
        (
            row["id"],
            row["status"],
            (row["content"] or b"") + (row["stylized"] or b""),
            (row["content_loss"] or 0.0, row["style_loss"] or 0.0, row["total_loss"] or 0.0),
        )
        for row in rows
    )
    return units.encode_unit(unit, [_stored(row, settings) for row in rows], digest)


def _stored(row: Row, settings: Generate) -> Row:
    """A row as `units.encode_unit` takes it."""
    side = settings.image_size
    row = {name: row.get(name) for name in units.UNIT_SCHEMA.names}
    if row["status"] != "ok":
        return row | {"content": None, "stylized": None}
    moved = change(*(_pixels(row[name], side) for name in ("content", "stylized")))
    for name in ("content", "stylized"):
        row[name] = {"bytes": encode_picture(row[name], settings), "path": None}
    return row | {"height": side, "width": side, "iterations": settings.iterations, "change": moved}


def encode_picture(pixels: bytes, settings: Generate) -> bytes:
    """A raw picture of a row as it is stored."""
    return codec.encode(_pixels(pixels, settings.image_size), settings.encoding)


def _pixels(raw: bytes, side: int) -> codec.Pixels:
    return np.frombuffer(raw, np.uint8).reshape(side, side, 3)


_Place = tuple[str, int, str]


def _place(row: Row) -> _Place:
    """Where the photo of a planned row is; its crops share it."""
    return row["source"], row.get("offset") or 0, row["version"]


def _photo(row: Row) -> Photo:
    return Photo(row["key"], row["source"], row["version"], row.get("offset"), row.get("length"))


def photo_rows(uri: str, data: bytes | Exception, planned: list[Row], limits: Generate) -> list[Row]:
    """The rows of one photo, of `IN_FLIGHT`: a crop each, or why there is none.

    Args:
        uri: the photo's name to people.
        data: its file, or what was raised when it was read.
        planned: its planned rows.
        limits: what a photo may be.
    """
    outcomes = _outcomes(data, planned, limits)
    return [
        {"id": row["id"], "uri": uri, "split": row["split"], **outcome}
        for row, outcome in zip(planned, outcomes, strict=True)
    ]


def _outcomes(data: bytes | Exception, planned: list[Row], limits: Generate) -> list[Row]:
    if isinstance(data, Exception):
        return [asdict(refusal(data))] * len(planned)
    decoder = decoder_for(Limits(limits.min_side, limits.max_bytes, limits.max_pixels, limits.max_seconds))
    try:
        crops = decoder.crops(data, limits.image_size, [(row["crop"], row["id"]) for row in planned])
    except BadImage as error:
        return [asdict(refusal(error))] * len(planned)
    return [{"status": "ok", "content": crop} for crop in crops]


def refusal(error: Exception) -> Refusal:
    """What becomes of a photo that could not be read or decoded: status, reason and detail.

    Raises:
        Exception: the error itself, where it is no property of a photo.
    """
    match error:
        case FileNotFoundError():
            return Refusal("failed", "vanished", "listed, but gone or another one when it was read")
        case PermissionError():
            return Refusal("failed", "forbidden", "no permission to read it")
        case TooLarge():
            return Refusal("rejected", "too_many_bytes", f"{error.size} bytes; allowed: {error.max_bytes}")
        case BadImage():
            return Refusal("rejected", error.reason, error.detail)
        case _:
            raise error


def given_up(deaths: int, what: str = "its unit") -> Refusal:
    """What becomes of the photos of what has ended so many workers."""
    return Refusal("failed", DIED, f"{what} has ended {deaths} workers")


def pack(rows: list[Row], schema: pa.Schema | None = None) -> bytes:
    """Rows as the bytes of an Arrow stream, one value of a row of Ray Data."""
    table = pa.Table.from_pylist(rows, schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def unpack(data: bytes) -> list[Row]:
    """The rows that `pack` was given."""
    with pa.ipc.open_stream(data) as reader:
        return list(reader.read_all().to_pylist())
