"""What must hold of every dataset, whatever befell the runs that made it, of all that a reader sees."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from batch_nst.data.dataset import plan_files, summaries, units
from batch_nst.data.storage.store import Store

Seen = Mapping[str, bytes]

_TABLES = {
    plan_files.PLAN: plan_files.PLAN_SCHEMA,
    summaries.SUMMARIES: summaries.SCHEMA,
    units.DATA: units.UNIT_SCHEMA,
}


def look(store: Store) -> dict[str, bytes]:
    """Every object of an output."""
    return {name: store.read(name) for name in store.list()}


def below(seen: Seen, prefix: str) -> dict[str, bytes]:
    """The objects of a folder."""
    return {name: data for name, data in seen.items() if name.startswith(f"{prefix}/")}


def assert_whole(seen: Seen) -> None:
    """Each object is one to its last byte: tables with all their columns, documents, and text."""
    for name, data in seen.items():
        if name.endswith(".parquet"):
            (schema,) = (schema for start, schema in _TABLES.items() if name.startswith(start))
            assert pq.read_table(io.BytesIO(data)).schema.equals(schema), name
        elif name.endswith(".json"):
            assert json.loads(data), name
        else:
            assert data.decode().endswith("\n"), name


def assert_each_planned_id_once(seen: Seen) -> None:
    """Ids in = ids out, none lost and none double, each in the unit that it was planned into."""
    planned = Counter(
        (unit, identity)
        for data in below(seen, plan_files.PLAN).values()
        for unit, identity in zip(*_columns(data, "unit", "id"), strict=True)
    )
    made = Counter(
        (name.rsplit("/", 1)[1].removesuffix(".parquet"), identity)
        for name, data in below(seen, units.DATA).items()
        for (identity,) in zip(*_columns(data, "id"), strict=True)
    )
    assert made == planned
    assert set(made.values()) == {1}
    assert len({identity for _, identity in made}) == len(made)


def _columns(data: bytes, *names: str) -> list[list[str]]:
    table: pa.Table = pq.read_table(io.BytesIO(data), columns=[*names])
    return [table[name].to_pylist() for name in names]
