"""The plan on disk, written before work starts: append-only segments of rows, cut into units.

Every row is an image to make in one attempt, and belongs to the same unit permanently. A segment is written
by exclusive create. Its row groups hold whole units, so that a worker reads one group for some units.
Millions of rows are handled as Arrow tables: no row becomes a Python object here.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch_nst.data.dataset.ids import joined
from batch_nst.data.storage.documents import intact
from batch_nst.data.storage.store import Store
from batch_nst.errors import LeaseError

PLAN = "dataset/plan"

PLAN_SCHEMA = pa.schema(
    [
        ("id", pa.binary(16)),
        ("key", pa.string()),
        ("source", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("version", pa.string()),
        ("crop", pa.int32()),
        ("attempt", pa.int32()),
        ("unit", pa.string()),
    ]
)
"""One row for each crop of each photo and attempt; the place of the photo is as in `photos.LISTED`."""

GROUP_UNITS = 256
"""Units in a row group."""
SEGMENT_ROWS = 1 << 19
"""Number of rows at which a segment is full; it ends with the row group that reaches it."""

_OUTLINE = pa.schema(
    [("id", pa.binary(16)), ("attempt", pa.int32()), ("unit", pa.dictionary(pa.int32(), pa.string()))]
)
_METADATA = "batch_nst"
_READERS = 4  # whole segments in memory at a time


class Group(NamedTuple):
    """A row group of a segment, which holds the rows of some units."""

    segment: str
    """Name of the segment's object."""
    number: int
    """Number of the group in it, from 0."""
    rows: int
    """Number of rows."""


class Written(NamedTuple):
    """The outline of all segments, oldest first."""

    rows: pa.Table
    """`id`, `attempt` and `unit` (one dictionary for all chunks) of each row."""
    groups: list[Group]
    """The row groups, in the order of the rows."""
    segments: int
    """Number of segments."""
    listing: str
    """Digest of the input that held exactly these ids when the last segment was written; may be empty."""


def cut(rows: pa.Table, unit_images: int, attempt: int, ending: str = "") -> pa.Table:
    """Rows as `PLAN_SCHEMA`, cut into units whose names depend only on their ids and the attempt.

    Args:
        rows: the columns of `PLAN_SCHEMA`; `attempt` and `unit` are ignored and may be missing.
        unit_images: rows of a unit; the last one may have fewer.
        attempt: number of the attempt, from 0.
        ending: of the units' names.
    """
    ids = joined(rows["id"])
    salt, step = attempt.to_bytes(4), 16 * unit_images
    names = [
        hashlib.blake2b(ids[start : start + step], digest_size=16, salt=salt).hexdigest() + ending
        for start in range(0, len(ids), step)
    ]
    numbers = np.arange(rows.num_rows, dtype=np.int32) // unit_images
    unit = pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(names, pa.string()))
    columns = [rows[name] for name in PLAN_SCHEMA.names[:-2]]
    attempts = pa.array(np.full(rows.num_rows, attempt, np.int32))
    return pa.table([*columns, attempts, unit.cast(pa.string())], schema=PLAN_SCHEMA)


def cut_groups(
    rows: Iterable[pa.Table], unit_images: int, attempt: int, ending: str = ""
) -> Iterator[pa.Table]:
    """`cut` for a stream of rows: tables of `GROUP_UNITS` units each, the last one with the rest."""
    size = GROUP_UNITS * unit_images
    waiting, count = [], 0
    for table in rows:
        waiting.append(table)
        count += table.num_rows
        while count >= size:
            whole = pa.concat_tables(waiting)
            yield cut(whole.slice(0, size), unit_images, attempt, ending)
            waiting, count = [whole.slice(size)], count - size
    if count:
        yield cut(pa.concat_tables(waiting), unit_images, attempt, ending)


def segments_for(groups: int, unit_images: int) -> int:
    """The number of segments that this number of new row groups fills."""
    in_one = -(-SEGMENT_ROWS // (GROUP_UNITS * unit_images))
    return -(-groups // in_one)


def append_segments(store: Store, groups: Iterable[pa.Table], written: Written, listing: str = "") -> Written:
    """Write new rows of the plan as segments.

    Args:
        store: the output.
        groups: tables of `PLAN_SCHEMA` with whole units; each becomes a row group.
        written: the segments on disk.
        listing: see `Written`; goes into the last of the new segments.

    Returns:
        The outline of all segments.

    Raises:
        LeaseError: another run wrote a segment at the same time, which the lease forbids.
    """
    stream = iter(groups)
    group = next(stream, None)
    tables, places = [written.rows], list(written.groups)
    number = first = max((_number(place.segment) for place in places), default=0)
    while group is not None:
        number += 1
        name = f"{PLAN}/{number:06}.parquet"
        buffer, rows, index = io.BytesIO(), 0, 0
        with pq.ParquetWriter(buffer, PLAN_SCHEMA, compression="zstd") as writer:
            while group is not None and rows < SEGMENT_ROWS:
                writer.write_table(group, row_group_size=group.num_rows)
                tables.append(_outline(group))
                places.append(Group(name, index, group.num_rows))
                rows, index = rows + group.num_rows, index + 1
                group = next(stream, None)
            about = {"listing": listing if group is None else ""}
            writer.add_key_value_metadata({_METADATA: json.dumps(about)})
        if not store.establish(name, buffer.getvalue()):
            raise LeaseError(f"{store.join(name)}: written by another run a moment ago; start again")
    return Written(_joined(tables), places, written.segments + number - first, listing)


def _number(segment: str) -> int:
    return int(PurePosixPath(segment).stem)


def read_written(store: Store) -> Written:
    """The outline of all segments; each is read once, completely."""
    names = list(store.numbered(PLAN, ".parquet").values())
    with ThreadPoolExecutor(_READERS) as pool:
        outlines = list(pool.map(lambda name: _read_outline(store, name), names))
    groups = [
        Group(name, place, rows)
        for name, (_, sizes, _) in zip(names, outlines, strict=True)
        for place, rows in enumerate(sizes)
    ]
    tables = [_OUTLINE.empty_table(), *(table for table, _, _ in outlines)]
    return Written(_joined(tables), groups, len(names), outlines[-1][2] if outlines else "")


def read_group(
    store: Store, group: Group, units: Collection[str] | None = None, columns: list[str] | None = None
) -> pa.Table:
    """The rows of a group, or of some of its units. Only the group's bytes are transferred from a bucket."""
    columns = columns or PLAN_SCHEMA.names
    with intact(store, group.segment):
        table = store.view(
            group.segment,
            lambda file: pq.ParquetFile(file, pre_buffer=True).read_row_group(group.number, columns=columns),
        )
        table = table.select(columns).cast(pa.schema([PLAN_SCHEMA.field(name) for name in columns]))
    if units is None:
        return table
    return table.filter(pc.is_in(table["unit"], value_set=pa.array(units, pa.string())))


def _read_outline(store: Store, name: str) -> tuple[pa.Table, list[int], str]:
    data = store.read(name)
    with intact(store, name):
        file = pq.ParquetFile(io.BytesIO(data), read_dictionary=["unit"])
        about = (file.metadata.metadata or {}).get(_METADATA.encode())
        sizes = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
        listing = str(json.loads(about)["listing"]) if about else ""
        return _outline(file.read(columns=_OUTLINE.names)), sizes, listing


def _outline(rows: pa.Table) -> pa.Table:
    columns = [rows[name] for name in _OUTLINE.names]
    if not pa.types.is_dictionary(columns[-1].type):
        columns[-1] = columns[-1].dictionary_encode()
    return pa.table(columns, schema=_OUTLINE)


def _joined(outlines: list[pa.Table]) -> pa.Table:
    """One table with one dictionary of unit names. It stays in chunks, since combining them copies."""
    return pa.concat_tables(outlines).unify_dictionaries()
