"""Laws of `batch_nst.data.dataset.audit`: every planned id has one outcome, or nothing is sealed."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batch_nst.data.dataset import units
from batch_nst.data.dataset.audit import COUNTED, Outcomes, audit
from batch_nst.data.storage.store import Store
from batch_nst.errors import AuditError
from batch_nst.recipe import Quality

OFF = Quality(max_deviation=None, min_change=None)
STATUSES = ("ok", "held_out", "rejected", "failed")

Planned = tuple[bytes, int, str, bool]
"""Id, attempt, unit, present."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def table(planned: list[Planned]) -> pa.Table:
    schema = pa.schema(
        [("id", pa.binary(16)), ("attempt", pa.int32()), ("unit", pa.string()), ("present", pa.bool_())]
    )
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in planned], schema=schema)


def commit(store: Store, unit: str, outcomes: dict[bytes, str]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "id": identity,
            "split": "held_out" if outcome == "held_out" else "train",
            "status": "ok" if outcome == "held_out" else outcome,
        }
        for identity, outcome in outcomes.items()
    ]
    units.commit_unit(store, unit, rows, "00" * 16)


def settled(store: Store, planned: list[Planned]) -> Outcomes:
    return audit(store, table(planned), {}, set(), OFF)


def random_dataset(store: Store, seed: int) -> tuple[list[Planned], dict[str, dict[bytes, str]]]:
    """Photos, some of them gone, tried up to three times in units of up to five, most of these done.

    Ids share their first half with others, as 16 random bytes do not.
    """
    chance = random.Random(seed)
    ids = [bytes([0, chance.randrange(4)]) * 4 + chance.randbytes(8) for _ in range(150)]
    present = {identity: chance.random() < 0.8 for identity in ids}
    planned, made = [], {}
    for attempt in range(3):
        tried = ids if attempt == 0 else chance.sample(ids, 40)
        for start in range(0, len(tried), 5):
            unit = f"{chance.getrandbits(128):032x}"
            members = tried[start : start + 5]
            planned += [(identity, attempt, unit, present[identity]) for identity in members]
            if chance.random() < 0.7:
                chance.shuffle(members)
                made[unit] = {identity: chance.choice(STATUSES) for identity in members}
                commit(store, unit, made[unit])
    chance.shuffle(planned)
    return planned, made


@pytest.mark.parametrize("seed", range(3))
def test_arrays_find_what_looking_at_one_id_after_another_finds(store: Store, seed: int) -> None:
    planned, made = random_dataset(store, seed)
    in_force = {identity: (unit, present) for identity, _, unit, present in sorted(planned)}
    expected: Counter[str] = Counter()
    by_unit = {unit: Counter[str]() for unit in made}
    gone = set()
    for identity, (unit, present) in in_force.items():
        if unit not in made:
            expected["pending" if present else "withdrawn"] += 1
        elif not present:
            gone.add(identity.hex())
        else:
            by_unit[unit][made[unit][identity]] += 1
    outcomes = settled(store, planned)
    for status in STATUSES:
        assert outcomes.counts[status] == sum(counts[status] for counts in by_unit.values())
    assert outcomes.counts["pending"] == expected["pending"]
    assert outcomes.gone == sorted(gone)
    assert [unit["unit"] for unit in outcomes.units] == sorted(made)
    for unit in outcomes.units:
        assert {status: unit[status] for status in STATUSES} == {
            status: by_unit[unit["unit"]][status] for status in STATUSES
        }
        assert sum(unit[name] for name in (*COUNTED, "left_out")) == len(made[unit["unit"]])
    done = sum(map(Counter.total, by_unit.values()))
    assert outcomes.audit == {
        "planned": 150,
        "done": done,
        "pending": expected["pending"],
        "gone": len(gone) + expected["withdrawn"],
    }
    assert sum(outcomes.audit.values()) == 2 * 150


def test_how_a_plan_is_laid_out_in_memory_changes_nothing(store: Store) -> None:
    planned, _ = random_dataset(store, 7)
    whole = table(planned)
    parts = [whole.slice(start, 33) for start in range(0, whole.num_rows, 33)]
    encoded = pa.concat_tables(
        [part.set_column(2, "unit", part["unit"].combine_chunks().dictionary_encode()) for part in parts]
    )
    outcomes = [
        audit(store, each, {}, set(), OFF)._replace(summaries=None)
        for each in (whole, pa.concat_tables(parts), encoded)
    ]
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_an_empty_plan_has_no_outcome(store: Store) -> None:
    assert settled(store, []).audit == {"planned": 0, "done": 0, "pending": 0, "gone": 0}


# --- the audit

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))
UNIT = "ab" * 16


@pytest.mark.parametrize(
    ("held", "example"),
    [({A: "ok"}, B), ({A: "ok", B: "ok", C: "ok"}, C), ({A: "ok", C: "rejected"}, B), ({}, A)],
    ids=["one is missing", "one is too many", "one is another", "none"],
)
def test_a_unit_that_does_not_hold_what_was_planned_is_named(
    store: Store, held: dict[bytes, str], example: bytes
) -> None:
    commit(store, UNIT, held)
    planned = [(A, 0, UNIT, True), (B, 0, UNIT, True)]
    with pytest.raises(AuditError) as caught:
        settled(store, planned)
    assert f"{UNIT} holds {len(held)} images, 2 were planned; {example.hex()} is one" in str(caught.value)


def test_a_unit_that_holds_an_image_twice_is_named(store: Store) -> None:
    rows = [{"id": A, "split": "train", "status": "ok"}] * 2
    units.commit_unit(store, UNIT, rows, "00" * 16)
    with pytest.raises(AuditError, match=f"{B.hex()} is one that differs"):
        settled(store, [(A, 0, UNIT, True), (B, 0, UNIT, True)])


def test_an_image_that_is_planned_twice_in_an_attempt_is_named(store: Store) -> None:
    twice = [(A, 1, UNIT, True), (B, 0, UNIT, True), (A, 1, "cd" * 16, True), (A, 0, "ef" * 16, True)]
    with pytest.raises(AuditError, match=f"1 images are planned twice in one attempt, such as {A.hex()}"):
        settled(store, twice)
