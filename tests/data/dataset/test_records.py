"""Laws of the records between stages: what Ray Data moves comes back as it was."""

import pyarrow as pa

from batch_nst.data.dataset.records import (
    PHOTO_SCHEMA,
    BadPhoto,
    PhotoRecord,
    Refusal,
    StageSeconds,
    UnitOutcome,
    UnitRecord,
    from_row,
    outcome_from_row,
    outcome_to_row,
    to_row,
)

PLANNED = PhotoRecord(
    bytes(range(16)), "tar://é.png::s3://b/a.tar", "train", "é.png", "s3://b/a.tar", "v", 0, 9, 3
)
MADE = PhotoRecord(
    bytes(16),
    "s3://b/1.jpg",
    "held_out",
    status="ok",
    content=b"\x00\x01\xff",
    stylized=b"\xff\x00",
    content_loss=0.5,
    style_loss=0.25,
    total_loss=1.5,
    init="content",
    engine="lbfgs cpu fp32",
)


def test_a_unit_comes_back_from_a_row_of_ray_data_as_it_was() -> None:
    bad = PLANNED.refused(Refusal("rejected", "too_small", "20 pixels"))
    for unit in (
        UnitRecord("u"),
        UnitRecord("u", outage="cannot read s3://b/1.jpg"),
        UnitRecord("u", (PLANNED, MADE, bad), stopped=True),
        UnitRecord("u", (MADE,), photos_read=1, bytes_read=12, taken=0.5, began=1.5, seconds=0.25),
    ):
        row = to_row(unit)
        assert from_row(row) == unit
        (through_arrow,) = pa.Table.from_pylist([row], schema=pa.schema([("unit", pa.binary())])).to_pylist()
        assert from_row(through_arrow) == unit


def test_the_stream_of_a_unit_has_a_column_for_each_field_of_a_photo() -> None:
    assert set(PHOTO_SCHEMA.names) == set(PhotoRecord.__dataclass_fields__)


def test_an_outcome_comes_back_as_it_was() -> None:
    bad = (BadPhoto("s3://b/é.jpg", "rejected", "too_small", "20 pixels", "u"),)
    for outcome in (
        UnitOutcome("u", stopped=True),
        UnitOutcome("u", outage="no room", refused="no room"),
        UnitOutcome(
            "u",
            summary='{"unit": "u"}',
            losses=(0.1, 1e30),
            bad=bad,
            stages=StageSeconds(1, device=2),
            bytes_written=7,
        ),
    ):
        assert outcome_from_row(outcome_to_row(outcome)) == outcome


def test_a_refused_photo_keeps_its_name_and_loses_its_pictures() -> None:
    found = MADE.refused(Refusal("failed", "worker_died", "its unit has ended 3 workers"))
    assert (found.id, found.uri, found.status, found.reason) == (MADE.id, MADE.uri, "failed", "worker_died")
    assert (found.content, found.stylized, found.ok) == (None, None, False)
