"""The bytes of photos, wherever they lie, several at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from batch_nst.data.inputs import Photo
from batch_nst.data.parquet_images import read_rows
from batch_nst.data.storage import TooLarge, fetch
from batch_nst.data.tars import read_member
from batch_nst.errors import StorageError

_READERS = 8


def read_photos(photos: Sequence[Photo], max_bytes: int) -> list[bytes | Exception]:
    """The bytes of each photo, or why there are none; in the order given, 8 reads at once.

    A photo that is an object or a member of a tar is one read; those of a Parquet file are read together.
    Passing faults are retried. What comes instead of bytes is a FileNotFoundError, PermissionError, TooLarge
    (more than `max_bytes`) or StorageError (an outage that outlasts the retries).
    """
    singles = [photo for photo in photos if not _is_row(photo)]
    files: dict[tuple[str, str], list[Photo]] = {}
    for photo in photos:
        if _is_row(photo):
            files.setdefault((photo.source, photo.version), []).append(photo)
    with ThreadPoolExecutor(_READERS) as pool:
        of_files = pool.map(lambda rows: _read_rows(rows, max_bytes), files.values())
        read = dict(zip(singles, pool.map(lambda photo: _read(photo, max_bytes), singles), strict=True))
        for outcomes in of_files:
            read |= outcomes
    return [read[photo] for photo in photos]


def _is_row(photo: Photo) -> bool:
    return photo.offset is not None and photo.length is None


def _read(photo: Photo, max_bytes: int) -> bytes | Exception:
    try:
        if photo.offset is None or photo.length is None:
            return fetch(photo.source, max_bytes)
        return read_member(photo.source, photo.offset, photo.length, photo.version, max_bytes)
    except (FileNotFoundError, PermissionError, TooLarge, StorageError) as error:
        return error


def _read_rows(photos: list[Photo], max_bytes: int) -> dict[Photo, bytes | Exception]:
    """Rows of one Parquet file."""
    source, version = photos[0].source, photos[0].version
    numbers = {photo: photo.offset or 0 for photo in photos}
    error: Exception
    try:
        read = read_rows(source, version, numbers.values(), max_bytes)
        return {photo: read[number] for photo, number in numbers.items()}
    except (FileNotFoundError, PermissionError, StorageError) as fault:
        error = fault
    except (OSError, pa.ArrowException) as fault:
        # Arrow says OSError, without a number, of broken pages: these are as good as gone.
        broken = not isinstance(fault, OSError) or fault.errno is None
        error = (FileNotFoundError if broken else StorageError)(f"{source}: cannot be read: {fault}")
    return dict.fromkeys(photos, error)
