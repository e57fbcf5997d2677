"""What a listing has that no segment of the plan holds: its rows, each image once, in bounded memory."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from batch_nst.data.dataset.ids import Ids, Index, Mask, halves, repeated
from batch_nst.data.sources.photos import LISTED, photo_ids

_IN_MEMORY = 32 << 20
"""Bytes of new rows that are kept in memory; more go into a file."""


class PlanDiff(NamedTuple):
    """The result of comparing a listing with a plan."""

    found: int
    """Number of different images in the input."""
    present: Mask
    """For each planned row whether the input holds its id now."""
    new: NewRows
    twice: Ids
    """Ids that came more than once."""


class NewRows:
    """Rows of a listing that are in no segment, each id once. Each iteration reads them from the start."""

    def __init__(self) -> None:
        """No rows yet."""
        self.count = 0
        """Number of rows of an iteration, known after `close`."""
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed with its owner
        weakref.finalize(self, self._file.close)
        schema = pa.schema([("id", pa.binary(16)), *LISTED, ("crop", pa.int32())])
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._file, "w"), schema, options=options)
        self._ids: list[Ids] = []
        self._again: Mask | None = None
        self.twice: Ids = np.empty((0, 2), np.uint64)
        """Ids that were added more than once, known after `close`."""

    def add(self, rows: pa.RecordBatch, ids: Ids) -> None:
        """Add rows, whose ids are `ids`."""
        self._writer.write_batch(rows)
        self._ids.append(ids)

    def close(self) -> None:
        """End the adding and find the ids that were added twice."""
        self._writer.close()
        ids = np.concatenate([np.empty((0, 2), np.uint64), *self._ids])
        self._ids.clear()
        again = repeated(ids)
        self.count = len(ids) - int(again.sum())
        self._again, self.twice = again if again.any() else None, ids[again]

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


def diff_with_plan(listing: Iterable[pa.RecordBatch], crops: int, planned: pa.ChunkedArray) -> PlanDiff:
    """Compare a listing with what is planned.

    Args:
        listing: batches of `photos.LISTED`.
        crops: number of crops of each photo.
        planned: ids of all planned rows, oldest first; further attempts repeat an id.
    """
    ids = halves(planned)
    index = Index(ids)
    present = np.zeros(len(ids), np.bool_)
    new, twice = NewRows(), list[Ids]()
    for batch in listing:
        rows = _crops(batch, crops)
        wanted = halves(rows["id"])
        at = index.find(wanted)
        known = wanted[at >= 0]
        twice.append(known[present[at[at >= 0]] | repeated(known)])
        present[at[at >= 0]] = True
        fresh = np.flatnonzero(at < 0)
        if len(fresh):
            new.add(rows.take(pa.array(fresh)), wanted[fresh])
    new.close()
    found = int(present.sum()) + new.count
    # Ids were looked up as their first attempt; this also marks the further ones.
    first = index.find(ids) if len(ids) else np.empty(0, np.int64)
    return PlanDiff(found, present[first], new, np.concatenate([new.twice, *twice]))


def _crops(batch: pa.RecordBatch, crops: int) -> pa.RecordBatch:
    """One row for each crop of each photo, with its id; crops of a photo are neighbours."""
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
