"""Pictures on their way: read and decoded, painted, written under their own names; without torch and Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from batch_nst.data.images import codec
from batch_nst.data.images.blend import Blend
from batch_nst.data.images.codec import Pixels
from batch_nst.data.images.reasons import BadImage
from batch_nst.data.images.sandbox import Limits, decoder_for
from batch_nst.data.sources.photos import Photo, uri_of
from batch_nst.data.sources.reader import read_photos
from batch_nst.data.storage.store import Store
from batch_nst.errors import OutageError, StorageError
from batch_nst.pipelines.generate.tasks import MOST_DEATHS, Attempt, first_attempt, given_up, refusal

Row = dict[str, Any]

ENCODINGS: dict[str, Literal["webp", "png", "jpeg"]] = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".webp": "webp",
}
"""By the suffix of the target; a source of another kind becomes PNG."""

LIMITS = Limits(min_side=16, max_bytes=64 << 20, max_pixels=100_000_000, max_seconds=30)
"""Those of a recipe's defaults, but for the side: the net reaches so far."""

_MOST_SIDE = {"webp": 16_383, "jpeg": 65_500}
"""Pixels a side that a format, or its library, can write."""
_TOGETHER = 8
"""Photos that are read at once."""


def chunks_of(photos: Iterable[tuple[Photo, str]]) -> list[Row]:
    """Photos and the names of their targets, packed and counted, as `decode_photos` takes them."""
    rows = ({**photo._asdict(), "name": name} for photo, name in photos)
    chunks = iter(lambda: list(islice(rows, _TOGETHER)), [])
    return [{"photos": _pack(chunk), "count": len(chunk)} for chunk in chunks]


def decode_photos(chunk: Row, attempt: Attempt = first_attempt) -> Iterator[Row]:
    """Fetch and decode the photos of a chunk, by the rules of generation.

    Args:
        chunk: of `chunks_of`.
        attempt: counts the workers that decoding a photo ends.

    Yields:
        For each photo `uri`, `name` of its target, `status`, `reason`, `detail`; `pixels` (height, width, 3)
        where it is ok. One that an outage kept back is `pending`.
    """
    rows = _unpack(chunk["photos"])
    photos = [Photo(**{field: row[field] for field in Photo._fields}) for row in rows]
    read = read_photos(photos, LIMITS.max_bytes)
    with attempt(f"decode from {rows[0]['name']} on") as ended:
        each = attempt if ended else first_attempt  # which photo it was, is only asked where there was one
        for index, (row, photo) in enumerate(zip(rows, photos, strict=True)):
            data, read[index] = read[index], b""  # a file is not kept for longer than it is needed
            with each(f"decode {row['name']}") as deaths:
                decoded = _decode(row["name"], photo, data) if deaths < MOST_DEATHS else None
            yield decoded or _undecoded(row["name"], photo) | asdict(given_up(deaths, "it"))


def paint(
    row: Row, model: Callable[[], Callable[[Pixels], Pixels]], look: Blend, attempt: Attempt = first_attempt
) -> Row:
    """A row of `decode_photos` with its picture painted, where it has one.

    Args:
        row: of `decode_photos`.
        model: gives what paints; asked for within the attempt.
        look: of the result.
        attempt: counts the workers that painting a picture ends.
    """
    if row["status"] != "ok":
        return row
    with attempt(f"paint {row['name']}") as deaths:
        if deaths < MOST_DEATHS:
            photo = _pixels(row)
            try:
                return row | {"pixels": look.of(photo, model()(photo)).tobytes()}
            except MemoryError as error:
                return row | {"status": "failed", "reason": "out_of_memory", "detail": str(error)}
    return row | asdict(given_up(deaths, "it"))


def write_painting(row: Row, target: Store, overwrite: bool) -> Row:
    """Encode and write the picture of a row, whole or not at all; what has become of its photo.

    `refused` says why nothing can be written at all: no room, or no permission.
    """
    outcome = {name: row[name] for name in ("uri", "name", "status", "reason", "detail")} | {"refused": ""}
    if row["status"] != "ok":
        return outcome
    encoded = codec.encode(_pixels(row), _encoding(row["name"]))
    try:
        if overwrite:
            target.replace(row["name"], encoded)
        else:
            target.create(row["name"], encoded)  # where another run was first, its picture is the same
    except FileNotFoundError as error:  # no disk can have such a name
        return outcome | {"status": "rejected", "reason": "unusable_name", "detail": str(error)}
    except OutageError as error:
        return outcome | {"status": "pending", "detail": str(error)}
    except StorageError as error:
        return outcome | {"status": "pending", "refused": str(error)}
    return outcome


def target_name(key: str) -> str:
    """The name that a picture gets below the target: its own, with `.png` added to what cannot be written.

    Never one above or beside the target: the names in a list or a tar may begin with `/` and hold `..`.
    """
    name = "/".join(part for part in key.split("/") if part not in ("", ".", "..")) or "_"
    return name if PurePosixPath(name).suffix.lower() in ENCODINGS else f"{name}.png"


def _pack(rows: list[Row]) -> bytes:
    table = pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _unpack(data: bytes) -> list[Row]:
    with pa.ipc.open_stream(data) as reader:
        return list(reader.read_all().to_pylist())


def _decode(name: str, photo: Photo, data: bytes | Exception) -> Row:
    row = _undecoded(name, photo)
    if isinstance(data, StorageError):
        return row | {"status": "pending", "detail": str(data)}
    if isinstance(data, Exception):
        return row | asdict(refusal(data))
    try:
        picture = decoder_for(LIMITS).picture(data)
    except BadImage as error:
        return row | asdict(refusal(error))
    height, width, _ = picture.shape
    encoding = _encoding(name)
    most = _MOST_SIDE.get(encoding, max(height, width))
    if max(height, width) > most:
        detail = f"{width} x {height} pixels; a {encoding} file has at most {most} a side"
        return row | {"status": "rejected", "reason": "too_large_for_format", "detail": detail}
    return row | {"pixels": picture.tobytes(), "height": height, "width": width}


def _undecoded(name: str, photo: Photo) -> Row:
    row: Row = {"uri": uri_of(photo), "name": name, "status": "ok", "reason": "", "detail": ""}
    return row | {"pixels": b"", "height": 0, "width": 0}


def _pixels(row: Row) -> Pixels:
    return np.frombuffer(row["pixels"], np.uint8).reshape(row["height"], row["width"], 3)


def _encoding(name: str) -> Literal["webp", "png", "jpeg"]:
    return ENCODINGS[PurePosixPath(name).suffix.lower()]
