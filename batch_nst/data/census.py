"""The input against the plan: which planned photos it still holds, and which of it are new.

One pass over the listing, in bounded memory: of each image stays an id of 16 bytes; the rows of new ones
wait in a temporary file that dies with the process.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from batch_nst.data.ids import Ids, Index, Mask, halves, repeated
from batch_nst.data.inputs import LISTED, photo_ids

_IN_MEMORY = 32 << 20
"""Bytes of new rows that need no file."""


class Census(NamedTuple):
    """What a listing says about a plan."""

    found: int
    """Different images in the input."""
    present: Mask
    """For each planned row whether the input holds its id now."""
    new: NewRows


class NewRows:
    """Rows of a listing that no segment has, each id once; iterating reads them again each time."""

    def __init__(self) -> None:
        """Nothing is new yet."""
        self.count = 0
        """Of the rows that iterating gives, once it is closed."""
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed with its owner
        weakref.finalize(self, self._file.close)
        schema = pa.schema([("id", pa.binary(16)), *LISTED, ("crop", pa.int32())])
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._file, "w"), schema, options=options)
        self._ids: list[Ids] = []
        self._again: Mask | None = None

    def add(self, rows: pa.RecordBatch, ids: Ids) -> None:
        """Take some more rows, whose ids are `ids`."""
        self._writer.write_batch(rows)
        self._ids.append(ids)

    def close(self) -> None:
        """No more rows follow: find the ids that came twice."""
        self._writer.close()
        ids = np.concatenate([np.empty((0, 2), np.uint64), *self._ids])
        self._ids.clear()
        again = repeated(ids)
        self.count = len(ids) - int(again.sum())
        self._again = again if again.any() else None

    def __iter__(self) -> Iterator[pa.Table]:
        """Tables of the rows, in the order of the listing."""
        self._file.seek(0)
        first = 0
        with pa.ipc.open_stream(pa.PythonFile(self._file, "r")) as reader:
            for batch in reader:
                table = pa.Table.from_batches([batch])
                if self._again is not None:
                    table = table.filter(pa.array(~self._again[first : first + len(batch)]))
                first += len(batch)
                yield table


def take_census(listing: Iterable[pa.RecordBatch], crops: int, planned: pa.ChunkedArray) -> Census:
    """Compare a listing with what is planned.

    Args:
        listing: batches of `inputs.LISTED`.
        crops: of each photo.
        planned: ids of all planned rows, oldest first; further attempts repeat an id.
    """
    ids = halves(planned)
    index = Index(ids)
    present = np.zeros(len(ids), np.bool_)
    new = NewRows()
    for batch in listing:
        rows = _crops(batch, crops)
        wanted = halves(rows["id"])
        at = index.find(wanted)
        present[at[at >= 0]] = True
        fresh = np.flatnonzero(at < 0)
        if len(fresh):
            new.add(rows.take(pa.array(fresh)), wanted[fresh])
    new.close()
    found = int(present.sum()) + new.count
    # An id was looked up as its first attempt; the others are as present as that.
    first = index.find(ids) if len(ids) else np.empty(0, np.int64)
    return Census(found, present[first], new)


def _crops(batch: pa.RecordBatch, crops: int) -> pa.RecordBatch:
    """A row for each crop of each photo, with its id; crops of a photo are neighbours."""
    photos = len(batch)
    by_crop = [photo_ids(batch, crop) for crop in range(crops)]
    if crops == 1:
        ids, rows, numbers = by_crop[0], batch, np.zeros(photos, np.int32)
    else:
        places = np.arange(crops * photos).reshape(crops, photos).T.flatten()
        ids = pa.concat_arrays(by_crop).take(pa.array(places))
        rows = batch.take(pa.array(np.repeat(np.arange(photos), crops)))
        numbers = np.tile(np.arange(crops, dtype=np.int32), photos)
    names = ["id", *LISTED.names, "crop"]
    return pa.RecordBatch.from_arrays([ids, *rows.columns, pa.array(numbers)], names=names)
