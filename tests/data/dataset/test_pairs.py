"""Laws of `read_pairs`: the pairs of the newest snapshot, as its Parquet files have them, and no others."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import batch_nst
from batch_nst.data.dataset.snapshot import SNAPSHOTS, latest_snapshot
from batch_nst.data.dataset.units import unit_object
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError, RecipeError, StorageError
from tests.support.places import ROOT

MADE = ROOT / "tests" / "compatibility" / "made_by_580efb4" / "output"
"""A dataset of ten pairs, of an older version."""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    shutil.copytree(MADE / "dataset", tmp_path / "output" / "dataset")
    return tmp_path / "output"


def test_all_pairs_of_both_sides_are_as_the_parquet_files_have_them(output: Path) -> None:
    snapshot = latest_snapshot(Store(str(output)))
    assert snapshot
    rows = [
        row
        for unit in snapshot.units
        for row in pq.read_table(output / unit_object(unit["unit"])).to_pylist()
        if row["status"] == "ok" and row["id"] not in snapshot.skipped_ids
    ]
    pairs = list(batch_nst.read_pairs(output))
    assert [pair.id for pair in pairs] == [row["id"].hex() for row in rows]
    assert {pair.split for pair in pairs} == {"train", "held_out"}
    assert len(pairs) == snapshot.counts["ok"] + snapshot.counts["held_out"]
    for pair, row in zip(pairs, rows, strict=True):
        assert isinstance(pair, batch_nst.Pair)
        assert (pair.uri, pair.split) == (row["uri"], row["split"])
        losses = (pair.losses.content, pair.losses.style, pair.losses.total)
        assert losses == (row["content_loss"], row["style_loss"], row["total_loss"])
        for pixels, stored in ((pair.content, row["content"]), (pair.stylized, row["stylized"])):
            with Image.open(io.BytesIO(stored["bytes"])) as picture:
                np.testing.assert_array_equal(pixels, np.asarray(picture))
            assert (pixels.dtype, pixels.shape) == (np.uint8, (row["height"], row["width"], 3))


def test_what_no_snapshot_lists_is_not_read(output: Path) -> None:
    units = {unit["unit"] for unit in latest_snapshot(Store(str(output))).units}
    name = unit_object(units.pop())
    (output / name).with_name("ffffffffffffffff.parquet").write_bytes((output / name).read_bytes())
    assert len(list(batch_nst.read_pairs(str(output)))) == len(list(batch_nst.read_pairs(MADE)))


def test_a_unit_that_is_not_the_one_that_was_sealed_is_refused_by_its_name(output: Path) -> None:
    first, second, *_ = (
        output / unit_object(unit["unit"]) for unit in latest_snapshot(Store(str(output))).units
    )
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(StorageError, match=rf"{first.name}: its digest is \w+, but snapshot \d+ says"):
        list(batch_nst.read_pairs(output))
    middle = len(data) // 2
    first.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(StorageError, match=rf"{first.name}: is damaged"):
        list(batch_nst.read_pairs(output))


def test_faults_of_the_whole_are_told_by_the_call_itself(output: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="no sealed dataset here"):
        batch_nst.read_pairs(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="ftp"):
        batch_nst.read_pairs("ftp://photos/output")
    newest = max((output / SNAPSHOTS).iterdir())
    newest.write_text(json.dumps({**json.loads(newest.read_text()), "digest": "0" * 32}))
    with pytest.raises(StorageError, match=rf"{newest.name}: is damaged"):
        batch_nst.read_pairs(output)
