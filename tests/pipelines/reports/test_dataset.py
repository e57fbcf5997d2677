"""Laws of `batch-nst inspect`: exact figures, few reads, nothing that is to stay hidden, one file."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch_nst.data.dataset import units
from batch_nst.data.dataset.forgotten import FORGOTTEN
from batch_nst.data.dataset.manifest import write_settings
from batch_nst.data.dataset.snapshot import seal
from batch_nst.data.images.codec import encode
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError
from batch_nst.figures import as_json
from batch_nst.pipelines.reports import dataset as reports_dataset
from batch_nst.pipelines.reports.dataset import inspect
from tests.support.browser import Browser

EVIL = '<script>alert("1")</script>&'
SETTINGS = {"style": {"sha256": "5f" * 32}, "holdout": {"fraction": 0.1, "photos": [EVIL], "at_least": []}}


def flat(shade: int) -> dict[str, Any]:
    return {"bytes": encode(np.full((8, 8, 3), shade, np.uint8), "png"), "path": None}


class Dataset:
    """Pairs in units of two, whose losses are told; `None` is a photo that was rejected."""

    def __init__(self, root: Path) -> None:
        self.store, self.page = Store(str(root / "out")), root / "page.html"
        self.rows: list[dict[str, Any]] = []
        write_settings(self.store, SETTINGS)

    def make(self, *losses: float | None, prefix: str = "") -> None:
        for start in range(0, len(losses), 2):
            unit = f"{len(self.rows):032x}"
            made = []
            for loss in losses[start : start + 2]:
                number = len(self.rows)
                about = {"id": number.to_bytes(16), "uri": f"s3://photos/{prefix}{number}.jpg", "unit": unit}
                outcome: dict[str, Any] = {"status": "rejected", "reason": "truncated", "detail": EVIL}
                if loss is not None:
                    outcome = {"status": "ok", "total_loss": loss, "change": 20.0}
                    outcome |= {"content": flat(number % 200), "stylized": flat(number % 200 + 20)}
                made.append(about | outcome | {"split": "train"})
                self.rows.append(made[-1])
            units.commit_unit(self.store, unit, made, "00" * 16)

    def seal(self, gone: int | None = None) -> None:
        """One of them may be gone from the input."""
        planned = [
            {"id": row["id"], "attempt": 0, "unit": row["unit"], "present": number != gone}
            for number, row in enumerate(self.rows)
        ]
        columns = [
            *(("id", pa.binary(16)), ("attempt", pa.int32())),
            *(("unit", pa.string()), ("present", pa.bool_())),
        ]
        seal(self.store, 1, pa.Table.from_pylist(planned, schema=pa.schema(columns)), {})

    def run(self, name: str, **figures: Any) -> None:
        summary = {"run": name, "started": "2026-11-24T01:02:03Z", **figures}
        self.store.replace(f"runs/{name}/summary.json", json.dumps(summary).encode())

    def inspect(self) -> dict[str, Any]:
        return as_json(inspect(self.store.uri, str(self.page)))

    def inspect_sealed(self, *losses: float | None) -> dict[str, Any]:
        self.make(*losses)
        self.seal()
        return self.inspect()

    def shown(self, kind: str) -> list[int]:
        """Numbers of the photos on the page, in order."""
        part = re.search(rf"<h3>{kind} .*?(?=<h3>|</section>)", self.page.read_text(), re.DOTALL)
        return [int(number) for number in re.findall(r"(\d+)\.jpg: photo", part[0])] if part else []


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


THIRTY = [100.0 + number for number in range(30)]
MADE = {"made": 40, "tried": 40, "device": "cpu", "devices": 2, "span_seconds": 80.0, "device_seconds": 150.0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Good and bad pairs, with runs and names that nobody should trust."""
    dataset = Dataset(tmp_path_factory.mktemp("whole"))
    dataset.make(*THIRTY, None, 1e6, prefix=EVIL)
    dataset.seal()
    dataset.run("1-generate", **MADE)
    dataset.run("2-nightly", dataset={**MADE, "span_seconds": 40.0}, version="a")
    dataset.run("3-generate", **{**MADE, "made": 0})
    dataset.run("4-generate", error="stopped by SIGTERM")
    return dataset


def test_figures_are_those_of_the_snapshot_and_the_runs(whole: Dataset) -> None:
    figures = whole.inspect()
    assert figures == {
        "output": whole.store.uri,
        "units": {"done": 16, "looked_at": 16},
        "snapshot": 1,
        "counts": {
            "ok": 30,
            "held_out": 0,
            "unpaired": 0,
            "rejected": 1,
            "failed": 0,
            "forgotten": 0,
            "filtered": 1,
            "pending": 0,
            "gone": 0,
        },
        "reasons": {"rejected": {"truncated": 1}, "failed": {}},
        "losses": {"min": 100.0, "p5": 101.5, "median": 115.0, "p95": 128.5, "max": 1e6},
        "changes": dict.fromkeys(("min", "p5", "median", "p95", "max"), 20.0),
        "quality": figures["quality"],
        "runs": 2,
        "made": 80,
        "device_seconds": 300.0,
        "images_per_hour": 3600.0,
        "file": str(whole.page),
    }
    assert figures["quality"]["left_out"] == {"barely_changed": 0, "blew_up": 1}


def test_the_sheet_shows_the_best_the_worst_some_others_and_what_is_left_out(dataset: Dataset) -> None:
    dataset.inspect_sealed(*THIRTY, 1e6, 1e7)
    assert dataset.shown("Best") == list(range(8))
    assert dataset.shown("Worst") == list(range(29, 21, -1))
    assert dataset.shown("Left out") == [30, 31]
    drawn = dataset.shown("Random")
    assert len(set(drawn)) == 8
    assert set(drawn) <= set(range(30))
    dataset.inspect()
    assert dataset.shown("Random") == drawn


def test_what_is_gone_or_to_be_forgotten_is_not_shown(dataset: Dataset) -> None:
    dataset.make(*THIRTY)
    dataset.seal(gone=0)
    # As after a kill, before the unit was rewritten.
    request = {"ids": [dataset.rows[1]["id"].hex()], "pairs": []}
    dataset.store.create(f"{FORGOTTEN}/000001.json", json.dumps(request).encode())
    dataset.inspect()
    assert dataset.shown("Best") == list(range(2, 10))


def test_bad_photos_are_listed_but_for_those_that_are_gone(dataset: Dataset) -> None:
    dataset.make(1.0, None, None, 2.0, None, None)
    dataset.seal(gone=4)
    dataset.inspect()
    listed = re.findall(r'<th scope="row">.*?(\d+)\.jpg</th>\s*<td>(.*?)<small>', dataset.page.read_text())
    assert listed == [(number, "rejected, truncated") for number in "125"]


def test_of_many_bad_photos_some_are_listed(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports_dataset, "_BAD_UNITS", 2)
    assert dataset.inspect_sealed(*[None] * 20)["reasons"]["rejected"] == {"truncated": 20}
    assert "Which photos: 4 of them" in dataset.page.read_text()


def test_a_dataset_under_way_is_shown_without_a_snapshot(dataset: Dataset) -> None:
    dataset.make(3.0, 2.0, 5.0, None)
    figures = dataset.inspect()
    assert (figures["snapshot"], figures["quality"]) == (None, {})
    assert figures["counts"] == {
        "ok": 3,
        "held_out": 0,
        "rejected": 1,
        "failed": 0,
        "forgotten": 0,
        "unpaired": 0,
    }
    assert dataset.shown("Best") == [1, 0, 2]
    assert "No snapshot has been sealed yet" in dataset.page.read_text()
    assert dataset.store.list("dataset/snapshots") == []


def test_a_dataset_that_has_just_begun_is_no_error(dataset: Dataset) -> None:
    figures = dataset.inspect()
    assert (figures["units"]["done"], figures["counts"]["ok"], figures["losses"]) == (0, 0, {})


def test_units_made_since_the_snapshot_are_looked_at_but_not_all_of_many(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports_dataset, "_SUMMARIES", 3)
    dataset.make(100.0, 101.0)
    dataset.seal()
    dataset.make(*(200.0 + number for number in range(20)))
    figures = dataset.inspect()
    assert figures["units"] == {"done": 11, "looked_at": 4}
    assert (figures["counts"]["ok"], figures["losses"]["max"]) == (2, 205.0)
    assert "Of 11 units that are done, 4 were looked at" in " ".join(dataset.page.read_text().split())


def test_of_many_units_few_are_read(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.make(*(100.0 + number for number in range(300)))
    dataset.seal()
    read: list[str] = []
    whole = Store.read

    def count(store: Store, name: str) -> bytes:
        read.append(name)
        return whole(store, name)

    monkeypatch.setattr(Store, "read", count)
    dataset.inspect()
    assert 0 < len([name for name in read if name.startswith(units.DATA)]) <= 3 * 8


def test_it_writes_nothing_into_the_output_and_fetches_nothing(whole: Dataset) -> None:
    before = whole.store.list()
    whole.inspect()
    assert whole.store.list() == before
    page = whole.page.read_text()
    assert "<script" not in page
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    sources = re.findall(r'(?:src|href)="(.{0,5})', page)
    assert set(sources) <= {"data:", "#"} | {source for source in sources if source.startswith("#")}
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("file", ["nowhere/page.html", ""])
def test_a_file_that_cannot_be_written_is_named(dataset: Dataset, tmp_path: Path, file: str) -> None:
    with pytest.raises(RecipeError, match=r"--out .*: (there is no folder|cannot be written)"):
        inspect(dataset.store.uri, str(tmp_path / file))


def test_where_no_dataset_is_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"OUTPUT .*: no dataset here"):
        inspect(str(tmp_path), str(tmp_path / "page.html"))
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_is_looked_at_as_well(s3: str, tmp_path: Path) -> None:
    dataset = Dataset(tmp_path)
    dataset.store = Store(f"{s3}/{tmp_path.name}/out")
    write_settings(dataset.store, SETTINGS)
    assert dataset.inspect_sealed(*THIRTY[:6])["counts"]["ok"] == 6
    assert dataset.shown("Best") == list(range(6))


def test_nothing_keeps_anyone_from_reading_it(whole: Dataset, browser: Browser, axe: str) -> None:
    whole.inspect()
    browser.look(whole.page, 390)
    assert browser.faults(axe) == []
