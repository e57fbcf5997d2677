"""A short summary of each unit's rows: enough to seal a snapshot without reading a picture.

A unit carries its own summary in its metadata. `dataset/summaries.parquet` gathers those of sealed units. It
is only a cache: where it is missing, it is made again from the units.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NotRequired, TypedDict, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch_nst.data.dataset.records import UnitRow
from batch_nst.data.storage.documents import intact
from batch_nst.data.storage.store import Store

SUMMARIES = "dataset/summaries.parquet"

Outcome = Literal["ok", "held_out", "rejected", "failed", "forgotten", "unpaired"]

OUTCOMES: tuple[Outcome, ...] = ("ok", "held_out", "rejected", "failed", "forgotten", "unpaired")
"""The outcome of a row: ok (a pair to train on), held_out or unpaired (and ok), or its status."""

LETTERS = "ohrfxu"
"""A letter for each of `OUTCOMES`, in their order."""

SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("digest", pa.string()),
        ("ids", pa.string()),
        ("outcomes", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("loss", pa.list_(pa.float32())),
        ("change", pa.list_(pa.float32())),
    ]
)
"""One row per unit. `ids` is the digest of its ids, see `sum_of_ids`. The other columns are in the order of
ids: `outcomes` has a letter per row, `reasons` those of rejected and failed rows, `loss` the total losses.
`change` is the distance of each optimised image to its photo in grey levels."""


class OutcomeCounts(TypedDict):
    """How many rows have each of `OUTCOMES`."""

    ok: int
    held_out: int
    rejected: int
    failed: int
    forgotten: int
    unpaired: NotRequired[int]
    """Missing in units from before there were photos without pairs."""


class Summary(OutcomeCounts):
    """The summary of a unit: the columns of `SCHEMA` and the counts of outcomes."""

    unit: str
    digest: str
    ids: str
    outcomes: str
    reasons: list[str]
    loss: str
    """Big-endian float32 numbers as hex digits, so that a summary consists of few Python objects."""
    change: str
    """Encoded as `loss` is."""


_HALF = 1 << 64
_READERS = 16
_AT_ONCE = 4096  # summaries that are Python objects at the same time


def outcome(row: UnitRow) -> Outcome:
    """The outcome of a row, from its `status` and `split`."""
    apart = row["status"] == "ok" and row["split"] in ("held_out", "unpaired")
    return cast(Outcome, row["split"] if apart else row["status"])


def count(rows: Iterable[UnitRow]) -> OutcomeCounts:
    """How many rows have each outcome."""
    found: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
    for row in rows:
        found[outcome(row)] += 1
    if not found["unpaired"]:  # units of pairs are what they were before there were others
        del found["unpaired"]
    return cast(OutcomeCounts, found)


def summarise(unit: str, digest: str, rows: Sequence[UnitRow]) -> Summary:
    """The summary of a unit.

    Args:
        unit: its name.
        digest: the digest of its content.
        rows: with `id`, `status` and `split`; `reason`, `total_loss` and `change` may be missing.
    """
    rows = sorted(rows, key=lambda row: bytes(row["id"]))
    return {
        "unit": unit,
        "digest": digest,
        **count(rows),
        "ids": sum_of_ids([row["id"] for row in rows]),
        "outcomes": "".join(LETTERS[OUTCOMES.index(outcome(row))] for row in rows),
        "reasons": [row.get("reason") or "" for row in rows if row["status"] in ("rejected", "failed")],
        "loss": _hex(row.get("total_loss") for row in rows),
        "change": _hex(row.get("change") for row in rows),
    }


def check_summary(unit: str, summary: Summary) -> None:
    """Check that `summarise` can have made a summary of a unit.

    Raises:
        ValueError, TypeError or LookupError: it cannot.
    """
    if summary["unit"] != unit:
        raise ValueError(f"it is the unit {summary['unit']}")
    outcomes = summary["outcomes"]
    counts = [summary.get(name, 0) for name in OUTCOMES]
    if counts != [outcomes.count(letter) for letter in LETTERS] or sum(counts) != len(outcomes):
        raise ValueError(f"it counts {counts}, and its outcomes are {outcomes}")
    sizes = [len(bytes.fromhex(digits)) for digits in (summary["loss"], summary["change"])]
    bad = summary["rejected"] + summary["failed"]
    if sizes != [4 * len(outcomes)] * 2 or len(summary["reasons"]) != bad:
        raise ValueError(f"it has {len(outcomes)} outcomes, and not as many losses, changes or reasons")
    _table([summary])


def changes_of(summary: Summary, rows: Iterable[UnitRow]) -> dict[bytes, float]:
    """The `change` of each row of a unit by its id, NaN where unknown."""
    values = np.frombuffer(bytes.fromhex(summary["change"]), ">f4").tolist()
    return dict(zip(sorted(row["id"] for row in rows), values, strict=True))


def sum_of_ids(ids: Sequence[bytes]) -> str:
    """A digest of ids that their order does not change: both halves (8 bytes), each summed modulo 2^64."""
    sums = (sum(int.from_bytes(identity[half]) for identity in ids) for half in (slice(8), slice(8, 16)))
    return "".join(f"{total % _HALF:016x}" for total in sums)


def gather(
    store: Store,
    done: pa.Array,
    known: Mapping[str, str],
    read_one: Callable[[str], Summary],
) -> tuple[pa.Table, bool]:
    """The summaries of units, a table of `SCHEMA` sorted by name; and whether all were gathered before.

    Args:
        store: the output.
        done: names of committed units.
        known: summaries in JSON that the caller has; they are newer than those gathered before.
        read_one: reads the summary of a unit that is in neither.
    """
    before = read(store)
    stale = pa.array(known, pa.string())
    kept = before.filter(pc.and_(pc.is_in(before["unit"], done), pc.invert(pc.is_in(before["unit"], stale))))
    missing = done.filter(pc.invert(pc.is_in(done, kept["unit"].combine_chunks()))).to_pylist()

    def summary(unit: str) -> Summary:
        return cast(Summary, json.loads(known[unit])) if unit in known else read_one(unit)

    tables = [kept]
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(missing), _AT_ONCE):
            tables.append(_table(list(pool.map(summary, missing[start : start + _AT_ONCE]))))
    table = pa.concat_tables(tables).sort_by("unit").combine_chunks()
    return table, not missing and kept.num_rows == before.num_rows


def gathered_units(store: Store) -> set[str]:
    """Names of the units whose summaries are gathered."""
    return set(read(store, ["unit"])["unit"].to_pylist())


def updated(gathered: pa.Table, fresh: Mapping[str, Summary]) -> pa.Table:
    """Gathered summaries with those of some units replaced."""
    kept = gathered.filter(pc.invert(pc.is_in(gathered["unit"], pa.array(fresh, pa.string()))))
    return pa.concat_tables([kept, _table(list(fresh.values()))]).sort_by("unit").combine_chunks()


def write(store: Store, summaries: pa.Table) -> None:
    """Replace the summaries that were gathered before."""
    buffer = io.BytesIO()
    pq.write_table(summaries, buffer, compression="zstd")
    store.replace(SUMMARIES, buffer.getvalue())


def numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """The numbers in a column `loss` or `change`, those of all units concatenated; NaN where unknown."""
    flat = pa.concat_arrays([chunk.flatten() for chunk in column.chunks] or [pa.array([], pa.float32())])
    found: npt.NDArray[np.float32] = flat.to_numpy(zero_copy_only=False)
    return found


def read(store: Store, columns: list[str] | None = None) -> pa.Table:
    """The gathered summaries: all columns of `SCHEMA`, or some.

    Raises:
        StorageError: the file is damaged. Deleting it is safe: it is made again.
    """
    columns = columns or SCHEMA.names
    try:
        with intact(store, SUMMARIES):
            table = pq.read_table(io.BytesIO(store.read(SUMMARIES)), columns=columns)
            return table.select(columns).cast(pa.schema([SCHEMA.field(name) for name in columns]))
    except FileNotFoundError:
        return SCHEMA.empty_table().select(columns)


def _table(summaries: Sequence[Summary]) -> pa.Table:
    """Summaries as a table of `SCHEMA`."""
    outcomes = [summary["outcomes"] for summary in summaries]
    ends = np.cumsum([0, *map(len, outcomes)], dtype=np.int32)

    def numbers(digits: Iterable[str]) -> pa.Array:
        values = np.frombuffer(bytes.fromhex("".join(digits)), ">f4")
        return pa.ListArray.from_arrays(ends, pa.array(values.astype(np.float32)))

    columns = [
        pa.array([summary["unit"] for summary in summaries], pa.string()),
        pa.array([summary["digest"] for summary in summaries], pa.string()),
        pa.array([summary["ids"] for summary in summaries], pa.string()),
        pa.array(outcomes, pa.string()),
        pa.array([summary["reasons"] for summary in summaries], SCHEMA.field("reasons").type),
        numbers(summary["loss"] for summary in summaries),
        numbers(summary["change"] for summary in summaries),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _hex(values: Iterable[float | None]) -> str:
    return np.array([np.nan if value is None else value for value in values], ">f4").tobytes().hex()
