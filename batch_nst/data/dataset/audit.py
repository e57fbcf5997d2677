"""The audit before a snapshot: every planned id has exactly one outcome, else an error. Works on arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, NotRequired, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import TypedDict

from batch_nst.data.dataset import summaries, units
from batch_nst.data.dataset.forgotten import digest_without
from batch_nst.data.dataset.ids import halves
from batch_nst.data.dataset.quality import RULES, QualityReport, Rule, judge
from batch_nst.data.storage.store import Store
from batch_nst.errors import AuditError
from batch_nst.recipe import Quality

Counted = summaries.Outcome | Literal["filtered"]

COUNTED: tuple[Counted, ...] = (*summaries.OUTCOMES, "filtered")
"""The outcomes of images that are done."""

_OK, _FORGOTTEN = COUNTED.index("ok"), COUNTED.index("forgotten")
_FILTERED, _LEFT_OUT = COUNTED.index("filtered"), len(COUNTED)

Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.intp]


class UnitEntry(TypedDict):
    """A unit in a snapshot's list, with how many images have which outcome."""

    unit: str
    digest: str
    ok: int
    """To train on."""
    held_out: int
    rejected: int
    failed: int
    forgotten: NotRequired[int]
    """Missing in snapshots of version 0.1.0, as is `filtered`."""
    unpaired: NotRequired[int]
    """Photos without pairs; missing in snapshots from before there were any."""
    filtered: NotRequired[int]
    left_out: int
    """Gone from the input, or superseded by a later attempt."""


class AuditCounts(TypedDict, total=False):
    """`planned` ids = `done` + `pending` + `gone`; empty in snapshots of version 0.1.0."""

    planned: int
    done: int
    pending: int
    gone: int


class Outcomes(NamedTuple):
    """The outcomes of a plan, in the form of a snapshot."""

    units: list[UnitEntry]
    """Done units, sorted by name."""
    counts: dict[str, int]
    """Number of images with each of `COUNTED`, and of those `pending` and `gone`."""
    gone: list[str]
    """Ids (hex) of done images that the input no longer holds, sorted."""
    quality: QualityReport
    audit: AuditCounts
    to_forget: dict[str, set[bytes]]
    """For each unit the ids to be forgotten that it still holds."""
    summaries: pa.Table
    """Summaries of the done units."""
    gathered: bool
    """Whether exactly these summaries were gathered before."""


class _Rows(NamedTuple):
    """Planned rows, sorted by unit and id."""

    first: Words
    """The first eight bytes of each id."""
    second: Words
    """The last eight bytes of each id."""
    unit: Indices
    """Number of the unit in the order of names."""
    latest: Bools
    """Whether the row is the latest attempt at its id."""
    present: Bools
    """Whether the input holds the photo now."""

    def at(self, chosen: Bools | Indices) -> _Rows:
        """The chosen rows, in this order."""
        return _Rows(
            self.first[chosen],
            self.second[chosen],
            self.unit[chosen],
            self.latest[chosen],
            self.present[chosen],
        )

    def ids(self, chosen: Bools) -> list[str]:
        """The chosen ids in hex, sorted."""
        pairs = zip(self.first[chosen].tolist(), self.second[chosen].tolist(), strict=True)
        return sorted(f"{first:016x}{second:016x}" for first, second in pairs)


def audit(
    store: Store,
    planned: pa.Table,
    known: Mapping[str, str],
    forgotten: set[bytes],
    rules: Quality,
) -> Outcomes:
    """Look up the outcome of each planned id; see `snapshot.seal` for the other arguments and the errors.

    `forgotten` are ids of photos to be forgotten, `rules` those of the quality filter.
    """
    names, rows = _rows(planned)
    is_done = pc.is_in(names, pa.array(units.done_units(store, len(names)), pa.string()))
    done_names, done_units = names.filter(is_done), is_done.to_numpy(zero_copy_only=False)
    done = done_units[rows.unit]
    waiting = rows.latest & ~done
    pending, withdrawn = _number(waiting & rows.present), _number(waiting & ~rows.present)
    planned_ids = _number(rows.latest)

    number = np.cumsum(done_units) - 1  # of a done unit among the done ones
    rows = rows.at(done)
    rows = rows._replace(unit=number[rows.unit])
    table, gathered = summaries.gather(store, done_names, known, lambda unit: units.read_summary(store, unit))
    _check_units(store, rows, table)

    status = _statuses(table)
    named = _is_named(rows, forgotten)
    to_forget = named & (status != _FORGOTTEN)
    status[named] = _FORGOTTEN
    gone = rows.latest & ~rows.present
    status[~(rows.latest & rows.present)] = _LEFT_OUT
    quality = _filter(rows, status, table, rules)

    kinds = _LEFT_OUT + 1
    by_unit = np.bincount(rows.unit * kinds + status, minlength=len(done_names) * kinds)
    by_unit = by_unit.reshape(len(done_names), kinds)
    counts = dict(zip(COUNTED, by_unit.sum(0).tolist(), strict=False))
    finished, went = sum(counts.values()), _number(gone)
    audit: AuditCounts = {
        "planned": planned_ids,
        "done": finished,
        "pending": pending,
        "gone": went + withdrawn,
    }
    if planned_ids != finished + pending + went + withdrawn:
        raise AuditError(f"{store.uri}: outcomes of {planned_ids} planned images do not add up: {audit}")
    still = _by_unit(rows, to_forget)
    return Outcomes(
        units=_entries(table, by_unit, still),
        counts={**counts, "pending": pending, "gone": went},
        gone=rows.ids(gone),
        quality=quality,
        audit=audit,
        to_forget={done_names[unit].as_py(): ids for unit, ids in still.items()},
        summaries=table,
        gathered=gathered,
    )


def _number(chosen: Bools) -> int:
    return int(np.count_nonzero(chosen))


def _rows(planned: pa.Table) -> tuple[pa.Array, _Rows]:
    """Names of all planned units, sorted; and the rows."""
    # Big-endian numbers sort as the ids do.
    first, second = (half.astype(np.uint64) for half in halves(planned["id"]).view(">u8").T)
    attempt = planned["attempt"].to_numpy()
    latest = _latest(first, second, attempt)
    column = planned["unit"]
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.combine_chunks()
    codes, names = column.indices.to_numpy(), column.dictionary.cast(pa.string())
    by_name = pc.sort_indices(names).to_numpy()
    by_name = by_name[np.bincount(codes, minlength=len(names))[by_name] > 0]
    position = np.empty(len(names), np.intp)
    position[by_name] = np.arange(len(by_name))
    unit = position[codes]
    order = np.lexsort((second, first, unit))
    rows = _Rows(first, second, unit, latest, planned["present"].to_numpy())
    return names.take(pa.array(by_name)), rows.at(order)


def _latest(first: Words, second: Words, attempt: npt.NDArray[np.int32]) -> Bools:
    """Whether a row is the latest attempt at its id.

    Raises:
        AuditError: an id is planned twice in one attempt.
    """
    latest = np.ones(len(first), bool)
    ordered = np.sort(first)
    shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not shared.size:
        return latest
    rows = np.flatnonzero(np.isin(first, shared))
    rows = rows[np.lexsort((attempt[rows], second[rows], first[rows]))]
    before, after = rows[:-1], rows[1:]
    again = (first[before] == first[after]) & (second[before] == second[after])
    twice = before[again & (attempt[before] == attempt[after])]
    if twice.size:
        example = f"{first[twice[0]]:016x}{second[twice[0]]:016x}"
        raise AuditError(
            f"{twice.size} images are planned twice in one attempt, such as {example}; nothing is sealed"
        )
    latest[before[again]] = False
    return latest


def _check_units(store: Store, rows: _Rows, table: pa.Table) -> None:
    """Check that each done unit holds exactly the ids that were planned for it."""
    planned = np.bincount(rows.unit, minlength=table.num_rows)
    starts = np.cumsum(planned) - planned
    sums = [np.add.reduceat(half, starts) if half.size else half for half in (rows.first, rows.second)]
    held = np.frombuffer(bytes.fromhex("".join(table["ids"].to_pylist())), ">u8").reshape(-1, 2)
    wrong = planned != pc.binary_length(table["outcomes"]).to_numpy()
    wrong |= (sums[0] != held[:, 0]) | (sums[1] != held[:, 1])
    if not wrong.any():
        return
    index = int(np.flatnonzero(wrong)[0])
    unit = table["unit"][index].as_py()
    ids = set(rows.ids(rows.unit == index))
    found = [row["id"].hex() for row in units.read_unit(store, unit, columns=["id"])]
    example = min(ids.symmetric_difference(found), default="none")
    raise AuditError(
        f"{store.uri}: {np.count_nonzero(wrong)} units do not hold what was planned: {unit} holds "
        f"{len(found)} images, {len(ids)} were planned; {example} is one that differs; nothing is sealed"
    )


def _statuses(table: pa.Table) -> Indices:
    """The outcome of each row, as a position in `COUNTED`."""
    letters = np.frombuffer("".join(table["outcomes"].to_pylist()).encode(), np.uint8)
    position = np.full(256, _LEFT_OUT + 1, np.intp)
    position[np.frombuffer(summaries.LETTERS.encode(), np.uint8)] = np.arange(len(summaries.LETTERS))
    return position[letters]


def _is_named(rows: _Rows, forgotten: set[bytes]) -> Bools:
    named = np.zeros(len(rows.first), bool)
    if forgotten:
        words = np.frombuffer(b"".join(forgotten), ">u8").reshape(-1, 2)
        for index in np.flatnonzero(np.isin(rows.first, words[:, 0].astype(np.uint64))).tolist():
            identity = int(rows.first[index]).to_bytes(8) + int(rows.second[index]).to_bytes(8)
            named[index] = identity in forgotten
    return named


def _filter(rows: _Rows, status: Indices, table: pa.Table, rules: Quality) -> QualityReport:
    """Mark pairs that break a rule as filtered, and report it for the snapshot."""
    pairs = np.flatnonzero(status == _OK)
    loss, change = (summaries.numbers(table[name])[pairs] for name in ("loss", "change"))
    broken, figures = judge(loss, change, rules)
    left_out: dict[Rule, list[str]] = {}
    for rule in RULES:
        chosen = np.zeros(len(status), bool)
        chosen[pairs[broken[rule]]] = True
        status[chosen] = _FILTERED
        left_out[rule] = rows.ids(chosen)
    return {**figures, "pairs": _number(np.isfinite(loss)), "left_out": left_out}


def _by_unit(rows: _Rows, chosen: Bools) -> dict[int, set[bytes]]:
    found: dict[int, set[bytes]] = {}
    for index in np.flatnonzero(chosen).tolist():
        identity = int(rows.first[index]).to_bytes(8) + int(rows.second[index]).to_bytes(8)
        found.setdefault(int(rows.unit[index]), set()).add(identity)
    return found


def _entries(
    table: pa.Table, by_unit: npt.NDArray[np.int64], still: Mapping[int, set[bytes]]
) -> list[UnitEntry]:
    """The units as a snapshot lists them; digests are those after forgetting."""
    digests = table["digest"].to_pylist()
    for unit, ids in still.items():
        digests[unit] = digest_without(digests[unit], ids)
    columns = [table["unit"].to_pylist(), digests, *by_unit.T.tolist()]
    names = ("unit", "digest", *COUNTED, "left_out")
    rows = zip(*columns, strict=True)
    return [cast(UnitEntry, dict(zip(names, row, strict=True))) for row in rows]
