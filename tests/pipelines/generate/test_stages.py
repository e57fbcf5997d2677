"""Laws of the stages of a unit: where its seconds go, and what an actor does beside its device."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batch_nst.data.dataset.plan import survey
from batch_nst.data.dataset.records import StageSeconds, UnitOutcome, UnitRecord, outcome_from_row, to_row
from batch_nst.data.sources import reader
from batch_nst.data.storage.store import Store
from batch_nst.errors import StorageError
from batch_nst.pipelines.generate import decode
from batch_nst.pipelines.generate.actors import UnitActor
from batch_nst.pipelines.generate.decode import decode_unit, planned_units
from batch_nst.pipelines.generate.write import encode_unit, write_unit
from batch_nst.recipe import Recipe
from tests.support.fake_stylizer import negative
from tests.support.photo_bucket import Bucket, fill

PLANTED = 0.05
"""Seconds by which a stage is held up."""
PATIENCE = 60.0


class Delayed(Store):
    """A store on which a unit waits for `before_put`."""

    before_put: Callable[[], object] = staticmethod(lambda: None)

    def create(self, name: str, data: bytes) -> bool:
        if name.startswith("dataset/data/"):
            self.before_put()
        return super().create(name, data)


@pytest.fixture
def job(tmp_path: Path) -> tuple[Recipe, Delayed, list[UnitRecord]]:
    """A recipe of six photos, its output, and the three planned units."""
    fill(Store(str(tmp_path)), 6)
    recipe = Recipe.model_validate(Bucket(str(tmp_path), 6).recipe("out"))
    store = Delayed(recipe.output)
    plan = survey(recipe, store).write_down(store)
    planned = [unit for chunk in plan.chunks() for unit in planned_units(chunk, store, plan.split_of)]
    return recipe, store, planned


def test_the_seconds_of_all_stages_are_those_from_the_first_fetch_to_the_commit(
    job: tuple[Recipe, Delayed, list[UnitRecord]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, store, (unit, *_) = job

    def slow_read(*arguments: Any) -> Iterator[Any]:
        for each in reader.read_each(*arguments):
            time.sleep(PLANTED)
            yield each

    records = decode.photo_records

    def slow_records(*arguments: Any) -> Any:
        time.sleep(2 * PLANTED)
        return records(*arguments)

    monkeypatch.setattr(decode, "read_each", slow_read)
    monkeypatch.setattr(decode, "photo_records", slow_records)
    store.before_put = lambda: time.sleep(4 * PLANTED)
    decoded = decode_unit(unit, recipe.generate)
    time.sleep(PLANTED)
    outcome = write_unit(negative(decoded, 3 * PLANTED), store, recipe.generate)
    found = outcome.stages
    assert len(outcome.losses) == 2
    assert found.total == pytest.approx(outcome.ended - decoded.taken, abs=1e-5)
    assert found.fetch >= 2 * PLANTED  # two photos
    assert found.decode >= 4 * PLANTED
    assert found.wait >= PLANTED
    assert found.device >= 3 * PLANTED
    assert found.put >= 4 * PLANTED
    assert found.encode > 0


def test_clocks_of_two_nodes_that_differ_make_no_stage_negative(
    job: tuple[Recipe, Delayed, list[UnitRecord]],
) -> None:
    recipe, store, (unit, *_) = job
    decoded = decode_unit(unit, recipe.generate)
    ahead = UnitRecord(**{**vars(decoded), "taken": decoded.taken + 3600})
    assert write_unit(negative(ahead), store, recipe.generate).stages.wait == 0


def test_sums_are_made_stage_by_stage() -> None:
    one, two = StageSeconds(1, 2, 3, 4, 5, 6), StageSeconds(10, 20, 30, 40, 50, 60)
    assert one.plus(two) == StageSeconds(11, 22, 33, 44, 55, 66)
    assert one.plus(two).total == one.total + two.total == 231


def actor_of(
    recipe: Recipe, store: Store, stylizer: Callable[[UnitRecord], UnitRecord]
) -> Callable[[UnitRecord], UnitOutcome]:
    """What an actor does with a unit, without Ray."""
    actor = UnitActor(lambda *_: stylizer, (), store, recipe.generate)
    return lambda unit: outcome_from_row(actor(to_row(unit)))


def test_a_unit_is_encoded_and_put_while_the_next_one_is_on_the_device(
    job: tuple[Recipe, Delayed, list[UnitRecord]],
) -> None:
    recipe, store, planned = job
    decoded = [decode_unit(unit, recipe.generate) for unit in planned]
    begun, next_begun, put = threading.Event(), threading.Event(), threading.Event()

    def before_put() -> None:
        assert next_begun.wait(PATIENCE), "the device waited for the writer"
        put.set()

    def stylize(unit: UnitRecord) -> UnitRecord:
        if not begun.is_set():
            begun.set()
            return negative(unit)
        next_begun.set()
        assert put.wait(PATIENCE), "the writer waited for the device"
        return negative(unit)

    store.before_put = before_put
    act = actor_of(recipe, store, stylize)
    with ThreadPoolExecutor(3) as calls:
        first = calls.submit(act, decoded[0])
        assert begun.wait(PATIENCE)
        rest = [calls.submit(act, unit) for unit in decoded[1:]]
        outcomes = [call.result() for call in (first, *rest)]
    assert [outcome.unit for outcome in outcomes] == [unit.unit for unit in planned]
    assert all(len(outcome.losses) == 2 and outcome.summary for outcome in outcomes)


def test_what_the_writer_raises_reaches_the_caller_and_the_actor_goes_on(
    job: tuple[Recipe, Delayed, list[UnitRecord]],
) -> None:
    recipe, store, planned = job
    faults: list[Exception] = [ZeroDivisionError("a bug"), StorageError("no room")]

    def fail() -> None:
        if faults:
            raise faults.pop(0)

    store.before_put = fail
    act = actor_of(recipe, store, negative)
    decoded = [decode_unit(unit, recipe.generate) for unit in planned]
    with pytest.raises(ZeroDivisionError, match="a bug"):
        act(decoded[0])
    refused = act(decoded[1])
    assert (refused.outage, refused.refused, refused.summary) == ("no room", "no room", "")
    assert act(decoded[2]).summary
    assert act(decoded[0]).summary


def test_a_device_counts_what_it_had_no_work_for(job: tuple[Recipe, Delayed, list[UnitRecord]]) -> None:
    recipe, store, planned = job
    decoded = [decode_unit(unit, recipe.generate) for unit in planned]
    start = time.perf_counter()
    act = actor_of(recipe, store, lambda unit: negative(unit, PLANTED))
    outcomes = []
    for unit in decoded:
        time.sleep(PLANTED)
        outcomes.append(act(unit))
        assert act(UnitRecord("none", outage="away")).idle_seconds == 0
    assert all(outcome.idle_seconds >= PLANTED for outcome in outcomes)
    spent = sum(outcome.idle_seconds + outcome.stages.device for outcome in outcomes)
    assert spent <= time.perf_counter() - start


def test_threads_change_no_byte_of_a_unit(job: tuple[Recipe, Delayed, list[UnitRecord]]) -> None:
    recipe, _, (unit, *_) = job
    made = negative(decode_unit(unit, recipe.generate))
    one, four = (encode_unit(made.unit, made.photos, recipe.generate, threads) for threads in (1, 4))
    assert one == four
