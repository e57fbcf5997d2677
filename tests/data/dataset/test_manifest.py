"""Laws of `batch_nst.data.dataset.manifest`: what decides pixels is written once."""

import copy
from pathlib import Path
from typing import Any

import pytest

from batch_nst.data.dataset.manifest import SETTINGS, check_settings, read_settings, write_settings
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError

DOCUMENT: dict[str, Any] = {
    "style": {"sha256": "abc", "size": 256},
    "loss": {"style_layers": {"relu1_2": 1.0, "relu2_2": 1.0}, "tv_weight": 0.0},
    "holdout": {"fraction": 0.05, "photos": ["a.jpg"], "at_least": []},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def changed(key: str, value: Any) -> dict[str, Any]:
    """`DOCUMENT` with one dotted key set, or taken away by `...`."""
    document = copy.deepcopy(DOCUMENT)
    *sections, last = key.split(".")
    holder = document
    for section in sections:
        holder = holder[section]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return document


def test_before_anything_is_written_anything_goes(store: Store) -> None:
    assert read_settings(store) is None
    assert check_settings(store, DOCUMENT) is None
    assert store.list() == []


def test_what_was_written_is_read_and_accepted(store: Store) -> None:
    write_settings(store, DOCUMENT)
    assert read_settings(store) == DOCUMENT
    assert check_settings(store, DOCUMENT) == DOCUMENT
    write_settings(store, DOCUMENT)
    assert store.list() == [SETTINGS]


def test_the_same_said_in_another_way_is_the_same(store: Store) -> None:
    write_settings(store, DOCUMENT)
    reordered = {key: DOCUMENT[key] for key in reversed(DOCUMENT)}
    assert check_settings(store, reordered) == DOCUMENT
    assert check_settings(store, changed("holdout.photos", ("a.jpg",))) == DOCUMENT
    assert check_settings(store, changed("loss.tv_weight", 0)) == DOCUMENT


@pytest.mark.parametrize(
    ("key", "value", "old", "new"),
    [
        ("style.size", 512, "256", "512"),
        ("style.sha256", "def", "'abc'", "'def'"),
        ("loss.style_layers.relu2_2", 2.0, "1.0", "2.0"),
        ("loss.style_layers.relu2_2", ..., "1.0", "None"),
        ("loss.style_layers.relu3_3", 1.0, "None", "1.0"),
        ("holdout.photos", [], "['a.jpg']", "[]"),
    ],
)
def test_a_change_is_refused_with_key_old_and_new(
    store: Store, key: str, value: Any, old: str, new: str
) -> None:
    write_settings(store, DOCUMENT)
    for refuse in (check_settings, write_settings):
        with pytest.raises(RecipeError) as caught:
            refuse(store, changed(key, value))
        line = str(caught.value)
        assert line.startswith(f"{key}: ")
        assert f"started with {old}, the recipe says {new}" in line
        assert store.uri in line
        assert line.endswith("choose another output")
    assert caught.value.exit_code == 2
    assert read_settings(store) == DOCUMENT


def test_every_change_is_told_in_one_line(store: Store) -> None:
    write_settings(store, DOCUMENT)
    with pytest.raises(RecipeError) as caught:
        check_settings(store, {**DOCUMENT, "style": {"sha256": "def", "size": 512}})
    told = str(caught.value)
    assert "\n" not in told
    assert [part.split(":")[0] for part in told.split("; ")[:2]] == ["style.sha256", "style.size"]


def test_a_key_may_be_left_to_the_dataset(store: Store) -> None:
    write_settings(store, DOCUMENT)
    later = changed("holdout.at_least", ["b.jpg"])
    assert check_settings(store, later, ignore=("holdout.at_least",)) == DOCUMENT
    with pytest.raises(RecipeError, match=r"holdout\.at_least"):
        check_settings(store, later)
