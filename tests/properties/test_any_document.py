"""Whatever lies in an output: it is what it should be, or is refused by its name."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from mutations import damaged, texts
from nights import begin, make_model, make_pairs

from batch_nst.data import forgotten, lease, models, segments, summaries, units
from batch_nst.data.settings import SETTINGS, read_settings
from batch_nst.data.snapshot import SNAPSHOTS, latest_snapshot, unit_pairs
from batch_nst.data.storage import Store
from batch_nst.errors import BatchNSTError
from batch_nst.pipelines.inspection import _runs
from batch_nst.pipelines.rates import last_rates
from batch_nst.recipe import load_recipe

VERSION = "000001-aa"
RUN = "runs/20261122T0200Z-000001-generate/summary.json"
FIGURES = {
    "run": "r",
    "started": "2026-11-22T02:00:00Z",
    "made": 3,
    "tried": 3,
    "photos_read": 3,
    "devices": 1,
    "device": "cpu",
    "device_seconds": 1.0,
    "span_seconds": 1.0,
    "bytes_read": 9,
    "bytes_written": 9,
}


class Home(NamedTuple):
    """An output with one of everything."""

    store: Store
    unit: str


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    recipe = load_recipe(begin(tmp_path_factory.mktemp("home")))
    store = Store(recipe.output)
    snapshot = make_pairs(recipe)
    make_model(store, VERSION, {"a": 1.0})
    models.point(store, VERSION, {}, 1)
    forgotten.write_request(store, {"ids": ["00" * 16], "pairs": []})
    store.replace(RUN, json.dumps(FIGURES).encode())
    with lease.acquire(store, "generate"):
        pass
    return Home(store, str(snapshot.units[0]["unit"]))


Read = Callable[[Home], object]

DOCUMENTS: dict[str, Read] = {
    SETTINGS: lambda home: read_settings(home.store),
    f"{SNAPSHOTS}/000001.json": lambda home: latest_snapshot(home.store),
    models.CURRENT: lambda home: models.current(home.store),
    models.model_object(VERSION, models.CARD): lambda home: models.read_card(home.store, VERSION),
    f"{forgotten.FORGOTTEN}/000001.json": lambda home: forgotten.forgotten_ids(home.store),
    "lease/000001.json": lambda home: (held := lease._read(home.store, 1)) and held.is_free(),
    RUN: lambda home: (last_rates(home.store), _runs(home.store)),
}


def check(home: Home, name: str, data: bytes, read: Read) -> None:
    """Put it there, and read it: no error, or one that names it."""
    home.store.replace(name, data)
    try:
        read(home)
    except BatchNSTError as error:
        assert str(error).startswith(home.store.join(name))
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_whole_or_named(home: Home, name: str) -> None:
    good = home.store.read(name)
    DOCUMENTS[name](home)

    @given(data=texts(json.loads(good)))
    def tried(data: bytes) -> None:
        check(home, name, data, DOCUMENTS[name])

    tried()
    home.store.replace(name, good)


def _plan(home: Home) -> object:
    written = segments.read_written(home.store)
    return [segments.read_group(home.store, group) for group in written.groups]


def test_a_table_is_whole_or_named(home: Home) -> None:
    tables: dict[str, Read] = {
        "dataset/plan/000001.parquet": _plan,
        units.unit_object(home.unit): lambda home: (
            units.read_summary(home.store, home.unit),
            units.read_unit(home.store, home.unit),
        ),
        summaries.SUMMARIES: lambda home: summaries.read(home.store),
    }
    for name, read in tables.items():
        good = home.store.read(name)
        read(home)

        @given(data=damaged([good]))
        def tried(data: bytes, name: str = name, read: Read = read) -> None:
            check(home, name, data, read)

        tried()
        home.store.replace(name, good)


def rows_of(store: Store) -> list[dict[str, Any]]:
    snapshot = latest_snapshot(store)
    assert snapshot
    return [row for unit in snapshot.units for row in unit_pairs(store, snapshot, unit["unit"], "train")]
