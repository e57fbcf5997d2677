"""The tasks of `apply` around the fast model: read, decode, encode and write pictures. Without torch and Ray.

`decode_row` and `write_row` are the callables of Ray Data, `decode_photos` and `write_picture` what they do.
A row between the stages holds a few pictures, see `rows_of`: each row is a task, which costs as much as
painting a small picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from batch_nst.data.dataset.records import Refusal
from batch_nst.data.images import codec
from batch_nst.data.images.blend import Blend
from batch_nst.data.images.codec import Pixels
from batch_nst.data.images.picture import LIMITS
from batch_nst.data.images.reasons import BadImage
from batch_nst.data.images.sandbox import decoder_for
from batch_nst.data.sources.photos import Photo, uri_of
from batch_nst.data.sources.reader import read_photos
from batch_nst.data.storage.fetch import split_uri
from batch_nst.data.storage.store import Store
from batch_nst.errors import OutageError, StorageError
from batch_nst.pipelines.generate.decode import MOST_DEATHS, Attempt, first_attempt, given_up, refusal

ENCODINGS: dict[str, Literal["webp", "png", "jpeg"]] = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".webp": "webp",
}
"""Encoding by the suffix of the target; a photo of another kind becomes PNG."""

_MOST_SIDE = {"webp": 16_383, "jpeg": 65_500}
"""Maximum side in pixels that a format, or its library, can write."""
_MOST_KEY = 1024
"""Bytes of the longest key in S3's, Google's and Azure's stores."""
_MOST_FOLDERS = 255
"""Folders in one another that a picture is written into; Python makes and lists them by recursion."""
_NAME_TAKEN = (FileExistsError, IsADirectoryError, NotADirectoryError)
"""A folder has the name of the picture, or a file that of one of its folders."""
_TOGETHER = 8
"""Photos that are read at once."""
_ROW_BYTES = 8 << 20
"""Bytes of pixels with which a row is full."""


class PictureRow(TypedDict):
    """A row of Ray Data."""

    pictures: list[dict[str, Any]]
    """The fields of several `PictureRecord`s, at the end of `Outcome`s."""


class PictureTask(NamedTuple):
    """A photo to stylize, and the name of the result below the target."""

    photo: Photo
    name: str


@dataclass(frozen=True)
class PictureRecord:
    """One picture between the stages: the decoded photo, then the stylized image; or why there is neither."""

    uri: str
    """The photo's name in messages."""
    name: str
    """Name of the stylized image below the target."""
    status: str = "ok"
    """`ok`, `rejected`, `failed`, or `pending` after an outage."""
    reason: str = ""
    detail: str = ""
    pixels: bytes = b""
    """Raw uint8 (height, width, 3); empty unless the status is `ok`."""
    height: int = 0
    width: int = 0

    def refused(self, why: Refusal) -> PictureRecord:
        """The same picture without pixels, and the reason."""
        return PictureRecord(self.uri, self.name, why.status, why.reason, why.detail)

    @property
    def picture(self) -> Pixels:
        """Its pixels, uint8 (H, W, 3)."""
        return np.frombuffer(self.pixels, np.uint8).reshape(self.height, self.width, 3)


@dataclass(frozen=True)
class Outcome:
    """The result for one photo after the attempt to write its stylized image."""

    uri: str
    name: str
    status: str
    """`ok`, `rejected`, `failed` or `pending`."""
    reason: str = ""
    detail: str = ""
    refused: str = ""
    """Why nothing can be written to the target at all (disk full, no permission); empty otherwise."""


def chunks_of(tasks: Iterable[PictureTask]) -> list[list[PictureTask]]:
    """Tasks in groups whose photos are read at once."""
    remaining = iter(tasks)
    return list(iter(lambda: list(islice(remaining, _TOGETHER)), []))


def chunk_row(chunk: Sequence[PictureTask]) -> dict[str, str]:
    """A chunk as a row of Ray Data, which `decode_row` takes."""
    return {"tasks": json.dumps(chunk)}


def rows_of(records: Iterable[PictureRecord]) -> Iterator[PictureRow]:
    """Records in rows: as many small pictures as fill one, or one that is larger."""
    few, size = list[PictureRecord](), 0
    for record in records:
        few.append(record)
        size += len(record.pixels)
        if size >= _ROW_BYTES:
            yield as_row(few)
            few, size = [], 0
    if few:
        yield as_row(few)


def as_row(each: Iterable[PictureRecord] | Iterable[Outcome]) -> PictureRow:
    """Pictures as a row of Ray Data."""
    return {"pictures": [asdict(one) for one in each]}


def records_in(row: PictureRow) -> list[PictureRecord]:
    """The records of a row."""
    return [PictureRecord(**picture) for picture in row["pictures"]]


def decode_row(row: dict[str, str], attempt: Attempt) -> Iterator[PictureRow]:
    """`decode_photos` for Ray Data: a row of `chunk_row` to rows of `PictureRecord`s."""
    chunk = [PictureTask(Photo(*photo), name) for photo, name in json.loads(row["tasks"])]
    yield from rows_of(decode_photos(chunk, attempt))


def write_row(row: PictureRow, target: Store) -> PictureRow:
    """`write_picture` for Ray Data: a row of `PictureRecord`s to one of their `Outcome`s."""
    return as_row(write_picture(record, target) for record in records_in(row))


def decode_photos(chunk: Sequence[PictureTask], attempt: Attempt = first_attempt) -> Iterator[PictureRecord]:
    """Fetch and decode the photos of a chunk by the rules of `generate`.

    Args:
        chunk: photos that are read at once.
        attempt: counts the workers that died while decoding; a photo that killed several is given up.

    Yields:
        A record for each photo; its status is `pending` where an outage kept it from being read.
    """
    read = read_photos([task.photo for task in chunk], LIMITS.max_bytes)
    with attempt(f"decode from {chunk[0].name} on") as died:
        each = attempt if died else first_attempt  # only after a death does it matter which photo it was
        for index, task in enumerate(chunk):
            record = PictureRecord(uri_of(task.photo), task.name)
            data, read[index] = read[index], b""  # a file is not kept for longer than it is needed
            with each(f"decode {task.name}") as deaths:
                decoded = _decode(record, data) if deaths < MOST_DEATHS else None
            yield decoded or record.refused(given_up(deaths, "it"))


def stylize_picture(
    record: PictureRecord,
    model: Callable[[], Callable[[Pixels], Pixels]],
    blend: Blend,
    attempt: Attempt = first_attempt,
) -> PictureRecord:
    """A record of `decode_photos` with the stylized image in place of the photo.

    Args:
        record: returned as it is unless its status is `ok`.
        model: returns the fast model; called within the attempt.
        blend: how photo and stylized image are mixed.
        attempt: counts the workers that died at this picture.
    """
    if record.status != "ok":
        return record
    with attempt(f"stylize {record.name}") as deaths:
        if deaths < MOST_DEATHS:
            photo = record.picture
            try:
                return replace(record, pixels=blend.paint(photo, model()).tobytes())
            except MemoryError as error:
                return record.refused(Refusal("failed", "out_of_memory", str(error)))
    return record.refused(given_up(deaths, "it"))


def stylize_pictures(
    records: Sequence[PictureRecord],
    stylize: Callable[[PictureRecord, Attempt], PictureRecord],
    attempt: Attempt,
) -> list[PictureRecord]:
    """`stylize_picture` for the records of a row; they are one attempt until a worker has died at them."""
    with attempt(f"stylize from {records[0].name} on") as died:
        return [stylize(record, attempt if died else first_attempt) for record in records]


def write_picture(record: PictureRecord, target: Store) -> Outcome:
    """Encode and write the picture of a record, whole or not at all, over any earlier one.

    Of several runs that write it at once any may be the last: all pictures of a target are made alike.
    """
    outcome = Outcome(record.uri, record.name, record.status, record.reason, record.detail)
    if record.status != "ok":
        return outcome
    unusable = replace(outcome, status="rejected", reason="unusable_name")
    if detail := _too_long(record.name, target):
        return replace(unusable, detail=detail)
    encoded = codec.encode(record.picture, _encoding(record.name))
    try:
        target.replace(record.name, encoded)
    except FileNotFoundError as error:  # no disk can have such a name
        return replace(unusable, detail=str(error))
    except OutageError as error:
        return replace(outcome, status="pending", detail=str(error))
    except StorageError as error:
        if isinstance(error.__cause__, _NAME_TAKEN):
            return replace(unusable, detail=str(error))
        return replace(outcome, status="pending", refused=str(error))
    return outcome


def _too_long(name: str, target: Store) -> str:
    """Why a name is too long to be tried; empty if it is not."""
    if target.local_path:
        return f"in more than {_MOST_FOLDERS} folders" if name.count("/") > _MOST_FOLDERS else ""
    _, _, key = split_uri(target.join(name))[1].partition("/")
    return f"a key of more than {_MOST_KEY} bytes" if len(key.encode()) > _MOST_KEY else ""


def target_name(key: str) -> str:
    """The name of a stylized image below the target: the photo's own, plus `.png` if it cannot be written.

    Never one above or beside the target: the names in a list or a tar may begin with `/` and hold `..`.

    target_name("a/b.jpg")  # "a/b.jpg"
    target_name("../c.gif")  # "c.gif.png"
    """
    name = "/".join(part for part in key.split("/") if part not in ("", ".", "..")) or "_"
    return name if PurePosixPath(name).suffix.lower() in ENCODINGS else f"{name}.png"


def _decode(record: PictureRecord, data: bytes | Exception) -> PictureRecord:
    """The record with the decoded photo, or refused with the reason."""
    if isinstance(data, StorageError):
        return record.refused(Refusal("pending", "", str(data)))
    if isinstance(data, Exception):
        return record.refused(refusal(data))
    try:
        photo = decoder_for(LIMITS).picture(data)
    except BadImage as error:
        return record.refused(refusal(error))
    height, width, _ = photo.shape
    encoding = _encoding(record.name)
    most = _MOST_SIDE.get(encoding, max(height, width))
    if max(height, width) > most:
        detail = f"{width} x {height} pixels; a {encoding} file has at most {most} a side"
        return record.refused(Refusal("rejected", "too_large_for_format", detail))
    return replace(record, pixels=photo.tobytes(), height=height, width=width)


def _encoding(name: str) -> Literal["webp", "png", "jpeg"]:
    return ENCODINGS[PurePosixPath(name).suffix.lower()]
