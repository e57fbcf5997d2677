"""Reads the bytes of photos from any place, several at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from batch_nst.data.sources.allowlist import refused
from batch_nst.data.sources.archives import read_member, read_rows
from batch_nst.data.sources.photos import Photo
from batch_nst.data.storage.fetch import Content, TooLarge, fetch
from batch_nst.errors import StorageError

_READERS = 8


def read_photos(photos: Sequence[Photo], max_bytes: int) -> list[bytes | Exception]:
    """The bytes of each photo, or the error of reading it, in the given order; see `read_each`."""
    read = dict(read_each(photos, max_bytes))
    return [read[photo] for photo in photos]


def read_each(photos: Sequence[Photo], max_bytes: int) -> Iterator[tuple[Photo, bytes | Exception]]:
    """Photos and their bytes, or the errors of reading them; 8 reads in parallel, the same order every time.

    A photo that is an object or a member of a tar takes one read; those of a Parquet file are read together.
    At any time memory holds at most the bytes of 8 photos of the maximum size, or of 8 rows. Transient faults
    are
    retried. Instead of bytes a photo may have:

    - FileNotFoundError: it is missing, or has changed since it was listed;
    - PermissionError;
    - TooLarge: it has more than `max_bytes`;
    - BadImage: it may not be read, see `allowlist`;
    - StorageError: an outage outlasted the retries.
    """
    files: dict[tuple[str, str], list[Photo]] = {}
    for photo in filter(_is_row, photos):
        files.setdefault((photo.source, photo.version), []).append(photo)
    pool = ThreadPoolExecutor(_READERS)
    try:
        for group in _groups((photo for photo in photos if not _is_row(photo)), max_bytes):
            yield from zip(group, pool.map(lambda photo: _read(photo, max_bytes), group), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)  # a caller that stops early has met an outage
    for rows in files.values():
        yield from _read_rows(rows, max_bytes)


def _is_row(photo: Photo) -> bool:
    return photo.offset is not None and photo.length is None


def _groups(photos: Iterable[Photo], max_bytes: int) -> Iterator[list[Photo]]:
    """Groups of neighbours whose bytes fit into memory together."""
    group: list[Photo] = []
    room = _READERS * max_bytes
    for photo in photos:
        size = min(photo.length or max_bytes, max_bytes)
        if size > room:
            yield group
            group, room = [], _READERS * max_bytes
        group.append(photo)
        room -= size
    if group:
        yield group


def _read(photo: Photo, max_bytes: int) -> bytes | Exception:
    if bad := refused(photo.version):
        return bad
    try:
        if photo.offset is not None and photo.length is not None:
            return read_member(photo.source, photo.offset, photo.length, photo.version, max_bytes)
        listed = None if photo.length is None else Content(photo.version, photo.length)
        return fetch(photo.source, max_bytes, listed=listed)
    except (FileNotFoundError, PermissionError, TooLarge, StorageError) as error:
        return error


def _read_rows(photos: list[Photo], max_bytes: int) -> Iterator[tuple[Photo, bytes | Exception]]:
    """Rows of one Parquet file; a fault becomes the error of all rows that were not read before it."""
    source, version = photos[0].source, photos[0].version
    waiting: dict[int, list[Photo]] = {}
    for photo in photos:
        waiting.setdefault(photo.offset or 0, []).append(photo)
    error: Exception
    try:
        for number, data in read_rows(source, version, list(waiting), max_bytes):
            for photo in waiting.pop(number):
                yield photo, data
        return
    except (FileNotFoundError, PermissionError, StorageError) as fault:
        error = fault
    except (OSError, pa.ArrowException) as fault:
        # Arrow raises OSError without an errno for broken pages; their rows count as missing.
        broken = not isinstance(fault, OSError) or fault.errno is None
        error = (FileNotFoundError if broken else StorageError)(f"{source}: cannot be read: {fault}")
    for photo in (photo for unread in waiting.values() for photo in unread):
        yield photo, error
