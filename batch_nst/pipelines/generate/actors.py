"""The Ray Data pipeline of `generate` (one row per unit) and its actors; without torch."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING

import ray.data

from batch_nst.data.dataset.plan import Chunk
from batch_nst.data.dataset.records import (
    UnitOutcome,
    UnitRecord,
    from_row,
    outcome_from_row,
    outcome_to_row,
)
from batch_nst.data.images.style import StyleImage
from batch_nst.data.storage.store import Store
from batch_nst.pipelines.cluster.connect import Workers
from batch_nst.pipelines.cluster.rows import a_task_per_row, rows_at_once
from batch_nst.pipelines.generate.decode import (
    Attempt,
    SplitOf,
    StopCheck,
    chunk_row,
    decode_row,
    first_attempt,
    plan_rows,
)
from batch_nst.pipelines.generate.write import write_row, write_unit
from batch_nst.recipe import Generate, Recipe

if TYPE_CHECKING:
    from batch_nst.data.models.files import ModelFiles

_SHORTEST = 20 * 60.0
"""Seconds that an execution of Ray Data takes at least, if there is so much to do."""

_FASTEST = 20
"""Units that a driver hands out in a second, until more are seen; `make overhead` measures some 16."""

_CALLS = 3
"""Units that an actor holds at the same time."""

_ENCODERS = {"cpu": 1, "cuda": 2}
"""Threads that encode pictures beside a device. A CPU's own threads are at work on the next unit."""


def stylize_units(
    chunks: Sequence[Chunk],
    split_of: SplitOf,
    store: Store,
    style: StyleImage,
    recipe: Recipe,
    workers: Workers,
    model: ModelFiles | None,
    stop_reason: StopCheck,
    attempt: Attempt = first_attempt,
    stylizer: Callable[..., Callable[[UnitRecord], UnitRecord]] | None = None,
) -> Iterator[UnitOutcome]:
    """Make and commit units, in no order.

    Args:
        chunks: units that are written down and not committed.
        split_of: the side of the split of a photo's key.
        store: the output.
        style: the style image.
        recipe: its sections loss, vgg and generate are used.
        workers: resources of an actor that holds VGG-16.
        model: images start from its pictures; None: from the photos.
        stop_reason: checked before a unit starts; the remaining units stay pending.
        attempt: counts the workers that a unit crashes; Ray replaces them without limit.
        stylizer: class of the actors, `Stylizer` or a substitute with the same arguments.
    """
    limits = recipe.generate
    arguments = (style, recipe, workers, model, stop_reason, attempt)

    def made(decoded: ray.data.Dataset, units: int) -> ray.data.Dataset:
        return decoded.map(
            UnitActor,
            fn_constructor_args=(
                stylizer or _stylizer(),
                arguments,
                store,
                limits,
                _ENCODERS[workers.device],
            ),
            compute=workers.pool(limits.actors, units, calls=_CALLS),
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus or None,
        )

    def kept(decoded: ray.data.Dataset, _units: int) -> ray.data.Dataset:
        return decoded.map(write_row, fn_args=(store, limits, stop_reason, attempt), num_cpus=1)

    def decoded(some: Sequence[Chunk]) -> ray.data.Dataset:
        return (
            ray.data.from_items([chunk_row(chunk) for chunk in some])
            .flat_map(plan_rows, fn_args=(store, split_of, stop_reason), num_cpus=0.25)
            .map(decode_row, fn_args=(limits, stop_reason, attempt), **workers.decoding)
        )

    # Photos without pairs need no device, so they come last, when nodes with GPUs may go.
    for last, paired in ((made, True), (kept, False)):
        rest = [chunk for chunk in (chunk.only(paired) for chunk in chunks) if chunk.units]
        yield from _in_executions(rest, decoded, last, stop_reason)


def _in_executions(
    rest: list[Chunk],
    first: Callable[[Sequence[Chunk]], ray.data.Dataset],
    last: Callable[[ray.data.Dataset, int], ray.data.Dataset],
    stop_reason: StopCheck,
) -> Iterator[UnitOutcome]:
    """The outcomes of all units; `last` is given the number of those that an execution has."""
    most = units_of_execution()
    while rest and not stop_reason():
        some = first_chunks(rest, most)
        rest, done, start = rest[len(some) :], 0, time.monotonic()
        with a_task_per_row():
            dataset = last(first(some), sum(len(chunk.units) for chunk in some))
        for outcome in map(outcome_from_row, rows_at_once(dataset, "generate")):
            done += not outcome.pending
            yield outcome
        most = units_of_execution(done, time.monotonic() - start)


def units_of_execution(made: int = 0, seconds: float = 1.0) -> int:
    """Maximum number of units in an execution, after one that made this many in `seconds`.

    Ray Data keeps about 4 kB per unit in the driver until an execution ends; several executions bound that.
    Between two of them actors restart. So one has as many units as a driver can hand out in `_SHORTEST`.
    """
    return int(max(_FASTEST, made / seconds) * _SHORTEST)


def first_chunks(chunks: Sequence[Chunk], most: int) -> list[Chunk]:
    """The first chunks, with at most `most` units together, or one chunk that has more."""
    ends = accumulate(len(chunk.units) for chunk in chunks)
    return list(chunks[: max(1, sum(1 for _ in takewhile(lambda end: end <= most, ends)))])


def _stylizer() -> Callable[..., Callable[[UnitRecord], UnitRecord]]:
    from batch_nst.pipelines.generate.stylizer import Stylizer

    return Stylizer


class UnitActor:
    """An actor that encodes and writes a unit while the next one is on its device.

    Writing has no stage of its own: finished units would pile up wherever stores or CPUs are slower than
    devices, and be lost with the driver. Here one unit is on the device, one is written, and at most one
    waits for either.
    """

    def __init__(
        self,
        stylizer: Callable[..., Callable[[UnitRecord], UnitRecord]],
        arguments: tuple[object, ...],
        store: Store,
        settings: Generate,
        encoders: int = 1,
    ) -> None:
        """`arguments` are passed to `stylizer`, `settings` and the number of `encoders` to `write_unit`."""
        self._stylizer = stylizer(*arguments)
        self._store, self._settings, self._encoders = store, settings, encoders
        # Ray calls from several threads. Each would get its own OpenMP team, and with more threads than cores
        # OpenMP puts idle threads to sleep at every loop. So one thread does all computation.
        self._device = ThreadPoolExecutor(max_workers=1)
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._free_since = time.perf_counter()
        self._id = uuid.uuid4().hex  # not Ray's, which an actor keeps when it starts again on another node

    def __call__(self, row: dict[str, bytes]) -> dict[str, str]:
        """Stylize and write the unit of a row; the row of its outcome. `_CALLS` may run at the same time."""
        made = self._device.submit(self._stylized, from_row(row)).result()
        return self._writer.submit(self._written, made).result()

    def _stylized(self, unit: UnitRecord) -> UnitRecord:
        idle = time.perf_counter() - self._free_since
        made = self._stylizer(unit)
        if made.pending:
            return made
        self._free_since = time.perf_counter()
        return replace(made, idle_seconds=idle, actor=self._id)

    def _written(self, unit: UnitRecord) -> dict[str, str]:
        return outcome_to_row(write_unit(unit, self._store, self._settings, self._encoders))
