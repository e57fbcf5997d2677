"""Laws of `batch_nst.data.dataset.units`: a unit has one writer, others read it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from batch_nst.data.dataset import units
from batch_nst.data.dataset.summaries import count
from batch_nst.data.images.codec import encode
from batch_nst.data.sources.photos import photo_id
from batch_nst.data.storage.store import Store

DIGEST = "0" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def picture(shade: int) -> dict[str, Any]:
    return {"bytes": encode(np.full((8, 8, 3), shade, np.uint8), "webp"), "path": None}


MADE = {
    "content": picture(10),
    "stylized": picture(200),
    "height": 8,
    "width": 8,
    "content_loss": 1.5,
    "style_loss": 0.25,
    "total_loss": 32.5,
    "iterations": 300,
    "init": "content",
    "engine": "1",
}
REFUSED = {"reason": "truncated", "detail": "it ends early"}


def row(name: str, status: str = "ok", split: str = "train") -> dict[str, Any]:
    told = {"id": photo_id(name, "1", 0), "uri": name, "split": split, "status": status}
    return dict.fromkeys(units.UNIT_SCHEMA.names) | told | (MADE if status == "ok" else REFUSED)


ROWS = [row("a"), row("b", split="held_out"), row("c", "rejected"), row("d", "failed", "held_out"), row("e")]


def test_the_first_writer_wins_and_its_summary_is_what_all_get(store: Store) -> None:
    names = [f"{index:032x}" for index in range(8)]
    barrier = threading.Barrier(len(names))

    def commit(digest: str) -> dict[str, Any]:
        barrier.wait()
        return units.commit_unit(store, "ab" * 16, ROWS, digest)

    with ThreadPoolExecutor(len(names)) as pool:
        summaries = list(pool.map(commit, names))
    assert summaries == [summaries[0]] * len(names)
    assert units.read_summary(store, "ab" * 16) == summaries[0]
    assert units.commit_unit(store, "ab" * 16, ROWS[:1], DIGEST) == summaries[0]
    assert store.list("dataset/data") == ["dataset/data/ab/" + "ab" * 16 + ".parquet"]
    assert units.done_units(store) == {"ab" * 16}


def test_a_summary_counts_every_row_once(store: Store) -> None:
    summary = units.commit_unit(store, "ab" * 16, ROWS, DIGEST)
    counts = {"ok": 2, "held_out": 1, "rejected": 1, "failed": 1, "forgotten": 0}
    assert summary == {"unit": "ab" * 16, "digest": DIGEST, **counts} | summary
    assert count(ROWS) == counts
    with pytest.raises(KeyError):
        count([row("x", "vanished")])


def test_rows_come_back_as_they_went_in(store: Store) -> None:
    units.commit_unit(store, "ab" * 16, ROWS, DIGEST)
    assert units.read_unit(store, "ab" * 16) == ROWS
    assert units.read_unit(store, "ab" * 16, columns=["id", "status"]) == [
        {"id": row["id"], "status": row["status"]} for row in ROWS
    ]


def test_a_unit_written_twice_is_the_same_bytes(tmp_path: Path) -> None:
    stores = [Store(str(tmp_path / name)) for name in ("one", "two")]
    for store in stores:
        units.commit_unit(store, "ab" * 16, ROWS, DIGEST)
    assert len({store.read(units.unit_object("ab" * 16)) for store in stores}) == 1


# --- its digest


ROW = (b"a", "ok", b"pixels", (1.0, 2.0))
OTHERS = [(b"b", "rejected", b"", ()), (b"c", "ok", b"x", (0.1,))]


def test_a_digest_is_blind_to_the_order_of_rows() -> None:
    assert units.row_digest([ROW, *OTHERS]) == units.row_digest([*OTHERS[::-1], ROW])


def test_a_digest_sees_every_field_and_where_it_ends() -> None:
    changed = [
        (b"A", "ok", b"pixels", (1.0, 2.0)),
        (b"a", "failed", b"pixels", (1.0, 2.0)),
        (b"a", "ok", b"pixelz", (1.0, 2.0)),
        (b"a", "ok", b"pixels", (1.0, 2.0000002)),
        (b"ao", "k", b"pixels", (1.0, 2.0)),
    ]
    variants = [[], [ROW], *([row, *OTHERS] for row in (ROW, *changed))]
    assert len({units.row_digest(variant) for variant in variants}) == len(variants)


# --- other tools


def test_plain_parquet_tools_read_a_folder_of_units(store: Store) -> None:
    units.commit_unit(store, "ab" * 16, ROWS, DIGEST)
    units.commit_unit(store, "cd" * 16, [row("z", "rejected")], DIGEST)
    table = pq.read_table(store.join("dataset/data"), columns=[*units.UNIT_SCHEMA.names])
    assert table.num_rows == len(ROWS) + 1
    assert table.schema.equals(units.UNIT_SCHEMA)
