"""Which photos there are: stable ids, a place to read each, and the side of the split that it is on.

Listing pulls names and versions, never bytes of a photo.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from batch_nst.data.listing import list_files, version_of
from batch_nst.data.storage import fetch
from batch_nst.errors import RecipeError

T = TypeVar("T")

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".avif")
"""What a folder is searched for. Other files in it are not photos; these are, even where they are broken."""

LISTED = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("version", pa.string()),
    ]
)
"""A photo of the input, a row each; the columns are the fields of `Photo`."""

BATCH = 1 << 16
"""Most rows in a batch of a listing."""

_PERSON = b"batch_nst photo"
_MAX_LIST_BYTES = 1 << 30
_LOOKING = 16
"""Objects that are looked at at once."""


class Photo(NamedTuple):
    """One photo of the input."""

    key: str
    """Its path below the input root; in a list of URIs the URI itself."""
    source: str
    """The URI or path of the object that it is, or that it lies in."""
    version: str
    """ETag, or size and modification time: the same key with new content is a new photo."""
    offset: int | None = None
    """Where it begins in its source (a member of a tar), or its row (Parquet); None: it is the source."""
    length: int | None = None
    """Bytes from the offset on; None: it is no part of a tar."""


def list_photos(source: str | list[str]) -> list[Photo]:
    """All photos of an input, sorted by key; see `stream_photos`. For inputs that fit in memory."""
    batches = [batch.select(Photo._fields).to_pydict().values() for batch in stream_photos(source)]
    return sorted({Photo(*row) for columns in batches for row in zip(*columns, strict=True)})


def stream_photos(source: str | list[str]) -> Iterator[pa.RecordBatch]:
    """All photos of an input, `LISTED`, at most `BATCH` in a batch; the same order every time.

    Args:
        source: a folder, a glob, a `.txt` file of URIs (one a line, relative ones to its folder), or a list
            of URIs; on any file system that fsspec knows. A listed URI that does not exist is kept, and
            will fail as a row. Hidden files, and what lies in hidden folders, are passed over. A photo
            that is named twice comes twice.

    Raises:
        RecipeError: there is no such folder, or no photo in it.
    """
    empty = True
    for batch in _stream(source):
        empty = empty and not batch.num_rows
        yield batch
    if empty:
        raise RecipeError(f"generate.input: no photos in {source}; looked for {' '.join(SUFFIXES)}")


def input_version(source: str | list[str]) -> str | None:
    """A digest of the files that make up an input; while it stays, `stream_photos` gives the same.

    None where there are no such files: each photo must be looked at.
    """
    return None


def is_uri_list(source: str | list[str]) -> bool:
    """Whether an input names each photo, so that every one of them is looked at; else it is listed."""
    return not isinstance(source, str) or source.endswith(".txt")


def photo_id(key: str, version: str, crop: int) -> bytes:
    """The 16 bytes that name a crop of a photo for ever."""
    digest = hashlib.blake2b(digest_size=16, person=_PERSON)
    for part in (key.encode(errors="surrogateescape"), version.encode()):
        digest.update(struct.pack("<Q", len(part)) + part)
    digest.update(struct.pack("<I", crop))
    return digest.digest()


def photo_ids(batch: pa.RecordBatch, crop: int) -> pa.FixedSizeBinaryArray:
    """`photo_id` of every row of `LISTED`, in 10 s for 10 million."""
    keys, versions = (batch[name].cast(pa.binary()).to_pylist() for name in ("key", "version"))
    packed = {size: struct.pack("<Q", size) for size in {*map(len, keys), *map(len, versions)}}
    begun, end = hashlib.blake2b(digest_size=16, person=_PERSON), struct.pack("<I", crop)
    ids = []
    for key, version in zip(keys, versions, strict=True):
        digest = begun.copy()
        digest.update(packed[len(key)] + key + packed[len(version)] + version + end)
        ids.append(digest.digest())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(b"".join(ids))])


def key_hash(key: str) -> float:
    """A number in [0, 1) drawn from a photo's key alone; held-out photos are those with the lowest."""
    data = key.encode(errors="surrogateescape")
    digest = hashlib.blake2b(data, digest_size=8, person=b"batch_nst split").digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # all 53 bits of a float, and never 1


def is_held_out(key: str, holdout: float, always: Collection[str] = ()) -> bool:
    """Whether all crops and versions of a photo are kept away from training."""
    return key in always or key_hash(key) < holdout


def _stream(source: str | list[str]) -> Iterator[pa.RecordBatch]:
    if not isinstance(source, str):
        return _batches(_look_at(source))
    if source.endswith(".txt"):
        return _batches(_look_at(_read_text(source)))
    return _batches(_list_folder(source))


def _batches(photos: Iterator[Photo]) -> Iterator[pa.RecordBatch]:
    while rows := list(islice(photos, BATCH)):
        columns = zip(*rows, strict=True)
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(column, LISTED.field(name).type)
                for name, column in zip(Photo._fields, columns, strict=True)
            ],
            Photo._fields,
        ).select(LISTED.names)


def _read_text(source: str) -> Iterator[str]:
    try:
        text = fetch(source, _MAX_LIST_BYTES).decode("utf-8-sig")
    except (FileNotFoundError, PermissionError, ValueError) as error:
        raise RecipeError(f"generate.input: {source}: cannot be read as a list of URIs: {error}") from error
    folder = source.rpartition("/")[0]
    for line in text.split("\n"):  # not splitlines, which breaks at characters that names may have
        if uri := line.strip():
            yield uri if "://" in uri else os.path.join(folder, uri)


def _look_at(uris: Iterable[str]) -> Iterator[Photo]:
    def look(uri: str) -> Photo:
        return Photo(uri, uri, version_of(uri))

    return _map_ahead(look, uris)


def _list_folder(root: str) -> Iterator[Photo]:
    for file in list_files(root):
        if file.key.lower().endswith(SUFFIXES):
            yield Photo(file.key, file.uri, file.version)


def _map_ahead(function: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
    """`map` by threads, in order, that takes no more items than it needs to keep them busy."""
    with ThreadPoolExecutor(_LOOKING) as pool:
        ahead: deque[Future[T]] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 4 * _LOOKING:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
