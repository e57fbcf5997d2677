"""Whatever lies in an output: it is what it should be, or is refused by its name."""

import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_nst.data.dataset import forgotten, plan_files, summaries, units
from batch_nst.data.dataset.manifest import SETTINGS, read_settings
from batch_nst.data.dataset.snapshot import SNAPSHOTS, latest_snapshot
from batch_nst.data.models import registry
from batch_nst.data.storage import fetch, lease
from batch_nst.data.storage.store import Store
from batch_nst.errors import BatchNSTError
from batch_nst.pipelines.cost.unit_costs import last_unit_costs
from batch_nst.pipelines.reports.dataset import _runs
from batch_nst.recipe_file import load_recipe
from tests.support.fake_night import begin, make_model, make_pairs
from tests.support.mutations import damaged, outcome, texts

VERSION = "000001-aa"
RUN = "runs/20261122T0200Z-000001-generate/summary.json"
FIGURES = {
    "run": "r",
    "started": "2026-11-22T02:00:00Z",
    "device": "cpu",
    **dict.fromkeys(("made", "tried", "photos_read", "devices", "bytes_read", "bytes_written"), 3),
    **dict.fromkeys(("device_seconds", "span_seconds"), 1.5),
}


PLAN = "dataset/plan/000001.parquet"


class Home(NamedTuple):
    """An output with one of everything."""

    store: Store
    unit: str
    good: dict[str, bytes]
    """All its objects, as they were."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    recipe = load_recipe(begin(tmp_path_factory.mktemp("home")))
    store = Store(recipe.output)
    snapshot = make_pairs(recipe)
    make_model(store, VERSION, {"a": 1.0})
    registry.point(store, VERSION, {}, 1)
    forgotten.write_request(store, {"ids": ["00" * 16], "pairs": []})
    store.replace(RUN, json.dumps(FIGURES).encode())
    with lease.acquire(store, "generate"):
        pass
    return Home(store, str(snapshot.units[0]["unit"]), {name: store.read(name) for name in store.list()})


@pytest.fixture
def home(made: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """It, for tests to change."""
    # Arrow's complaint about a page looks like a fault of the store that may pass.
    monkeypatch.setattr(fetch, "MAX_DELAY", 0.0)
    yield made
    for name, data in made.good.items():
        made.store.replace(name, data)


Read = Callable[[Home], object]


def check(home: Home, name: str, data: bytes, read: Read) -> None:
    """Put it there, and read it: no error, or one that names it."""
    home.store.replace(name, data)
    _, told = outcome(lambda: read(home), BatchNSTError)
    named = home.store.join(name)
    assert not told or told.startswith((named, f"cannot read {named}: "))
    assert "\n" not in told


def _lease(home: Home) -> object:
    held = lease._read(home.store, 1)
    return held and (held.is_free(), str(held.owner))


def _plan(home: Home) -> object:
    written = plan_files.read_written(home.store)
    return [plan_files.read_group(home.store, group) for group in written.groups]


def _unit(home: Home) -> object:
    ways = (units.read_summary, units.read_unit, units.read_rows)
    return [read(home.store, home.unit) for read in ways]


DOCUMENTS: dict[str, Read] = {
    SETTINGS: lambda home: read_settings(home.store),
    f"{SNAPSHOTS}/000001.json": lambda home: latest_snapshot(home.store),
    registry.CURRENT: lambda home: registry.current(home.store),
    registry.model_object(VERSION, registry.CARD): lambda home: registry.read_card(home.store, VERSION),
    f"{forgotten.FORGOTTEN}/000001.json": lambda home: forgotten.forgotten_ids(home.store),
    "lease/000001.json": _lease,
    RUN: lambda home: (last_unit_costs(home.store), _runs(home.store)),
}
TABLES: dict[str, Read] = {
    PLAN: _plan,
    summaries.SUMMARIES: lambda home: summaries.read(home.store),
    "a unit": _unit,
}


def test_what_is_whole_is_read(made: Home) -> None:
    assert [name for name, read in (DOCUMENTS | TABLES).items() if not read(made)] == []


@pytest.mark.parametrize("name", DOCUMENTS)
@given(data=st.data())
def test_a_document_is_whole_or_named(home: Home, name: str, data: st.DataObject) -> None:
    check(home, name, data.draw(texts(json.loads(home.good[name]))), DOCUMENTS[name])


@pytest.mark.parametrize("kind", TABLES)
@given(data=st.data())
def test_a_table_is_whole_or_named(home: Home, kind: str, data: st.DataObject) -> None:
    name = units.unit_object(home.unit) if kind == "a unit" else kind
    check(home, name, data.draw(damaged([home.good[name]])), TABLES[kind])
