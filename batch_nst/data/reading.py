"""The bytes of photos, wherever they lie, several at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from batch_nst.data.inputs import Photo
from batch_nst.data.storage import TooLarge, fetch
from batch_nst.errors import StorageError

_READERS = 8


def read_photos(photos: Sequence[Photo], max_bytes: int) -> list[bytes | Exception]:
    """The bytes of each photo, or why there are none; in the order given, 8 reads at once.

    Passing faults are retried. What comes instead of bytes is a FileNotFoundError, PermissionError, TooLarge
    (more than `max_bytes`) or StorageError (an outage that outlasts the retries).
    """
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda photo: _read(photo, max_bytes), photos))


def _read(photo: Photo, max_bytes: int) -> bytes | Exception:
    try:
        return fetch(photo.source, max_bytes)
    except (FileNotFoundError, PermissionError, TooLarge, StorageError) as error:
        return error
