"""The dataset's card: front matter that the Hub takes, figures of the snapshot, and no name of a photo."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from batch_nst.data.dataset import plan_files, units
from batch_nst.data.dataset.card import CARD, card, write_card
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.images.codec import encode
from batch_nst.data.storage.store import Store

SETTINGS = {
    "style": {"sha256": "5f" * 32, "size": 256},
    "loss": {"content_weight": 5.0},
    "holdout": {"fraction": 0.05, "photos": ["private/anna.jpg"], "at_least": []},
}
COUNTS = {"ok": 1200, "held_out": 60, "rejected": 3, "failed": 2, "forgotten": 1, "filtered": 4, "pending": 5}
QUALITY = {
    "max_deviation": 6.0,
    "min_change": 1.0,
    "losses": {"min": 5000.0, "p5": 6000.0, "median": 9000.0, "p95": 15000.0, "max": 123400.0},
    "deviation": 0.25,
    "max_loss": 40339.4,
    "pairs": 1204,
    "left_out": {"barely_changed": ["00" * 16], "blew_up": ["01" * 16, "02" * 16, "03" * 16]},
}
SNAPSHOT = Snapshot(3, 7, "ab" * 16, {**COUNTS, "gone": 9}, [], [], QUALITY)


def front_matter(text: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
    assert found
    return dict(yaml.safe_load(found[1]))


def test_the_front_matter_is_what_the_hub_takes() -> None:
    assert front_matter(card(SNAPSHOT, SETTINGS, "cc-by-4.0")) == {
        "license": "cc-by-4.0",
        "task_categories": ["image-to-image"],
        "tags": ["style-transfer", "neural-style-transfer"],
        "size_categories": ["1K<n<10K"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/**/*.parquet"}]}
        ],
    }


def test_it_tells_counts_losses_filter_style_and_settings() -> None:
    text = card(SNAPSHOT, SETTINGS, "unknown")
    for line in (
        "| ok | 1,200 | pairs to train on |",
        "| forgotten | 1 | photos that were forgotten on request; nothing is left of them |",
        "filter: median 9,000, 90 % between 6,000 and 15,000, all from 5,000 to 123,400.",
        "- `barely_changed`: differs from its photo by less than 1.0 grey levels; 1 left out",
        "- `blew_up`: loss above 40,339, which is 6.0 deviations above the median; 3 left out",
        "SHA-256 `" + "5f" * 32,
        "content_weight: 5.0",
        "snapshots/000003.json",
    ):
        assert line in text
    assert "anna" not in text


def test_rules_that_do_not_apply_are_said_not_to() -> None:
    few = {**QUALITY, "max_loss": None, "min_change": None, "left_out": {"barely_changed": [], "blew_up": []}}
    text = card(Snapshot(1, 1, "ab" * 16, SNAPSHOT.counts, [], [], few), SETTINGS, "mit")
    assert text.count("not applied; 0 left out") == 2
    assert "None was applied." in card(Snapshot(1, 1, "ab" * 16, {"ok": 1}, [], []), SETTINGS, "mit")


def test_a_licence_stays_until_another_is_given(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for given, told in ((None, "unknown"), ("cc-by-4.0", "cc-by-4.0"), (None, "cc-by-4.0"), ("mit", "mit")):
        write_card(store, SNAPSHOT, SETTINGS, given)
        assert front_matter(store.read(CARD).decode())["license"] == told


def test_hugging_face_loads_the_folder_by_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    store = Store(str(tmp_path / "out"))
    flat = {"bytes": encode(np.full((8, 8, 3), 90, np.uint8), "webp"), "path": None}
    good = {"status": "ok", "content": flat, "stylized": flat, "total_loss": 32.5}
    for number, outcome in enumerate((good, {"status": "rejected"})):  # no picture in the whole of the second
        row = {"id": bytes([number] * 16), "uri": "a", "split": "train", **outcome}
        units.commit_unit(store, f"{number:032}", [row], "00" * 16)
    pq.write_table(plan_files.PLAN_SCHEMA.empty_table(), plan := io.BytesIO())
    store.create("dataset/plan/000001.parquet", plan.getvalue())  # another Parquet file, of other columns
    write_card(store, SNAPSHOT, SETTINGS)
    found = datasets.load_dataset(store.join("dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(found.features["stylized"], datasets.Image)
    made, refused = found
    assert (made["id"], made["status"], made["total_loss"]) == (bytes(16), "ok", 32.5)
    for picture in (made["content"], made["stylized"]):
        assert (picture.size, picture.getpixel((0, 0))) == ((8, 8), (90, 90, 90))
    assert (refused["status"], refused["content"], refused["stylized"]) == ("rejected", None, None)
