"""decode -> stylize, and write beside it: one sentence of Ray Data, a row a unit, and its callables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from torch import Tensor

from batch_nst.console import log
from batch_nst.data.dataset.plan import Chunk
from batch_nst.data.images import codec
from batch_nst.data.images.style import StyleImage
from batch_nst.data.storage.store import Store
from batch_nst.engine.device import choose_batch, run_in_batches
from batch_nst.engine.slow_transfer import ENGINE
from batch_nst.pipelines.cluster.connect import Workers
from batch_nst.pipelines.generate.tasks import (
    IN_FLIGHT,
    MOST_DEATHS,
    Attempt,
    Closed,
    Row,
    decode_unit,
    first_attempt,
    given_up,
    pack,
    planned_units,
    unpack,
    write_unit,
)
from batch_nst.pipelines.inference import FastModel, ModelFiles
from batch_nst.pipelines.objective import Objectives, optimise_photos, to_tensor
from batch_nst.recipe import Generate, Recipe

_UNITS, _UNITS_AN_ACTOR = 2048, 512
"""Of one execution of Ray Data, at most; the greater of the two."""

_PLANNED = pa.schema({"unit": pa.string(), "photos": pa.binary(), "outage": pa.string()})
"""Of what `planned_units` returns."""


def stylize_units(
    chunks: Sequence[Chunk],
    holdout: Mapping[str, Any],
    store: Store,
    style: StyleImage,
    recipe: Recipe,
    workers: Workers,
    model: ModelFiles | None,
    closed: Closed,
    attempt: Attempt = first_attempt,
    stylizer: type[Stylizer] | None = None,
) -> Iterator[Row]:
    """Make and commit units, in no order.

    Args:
        chunks: units that are written down and not committed.
        holdout: of the dataset's settings.
        store: the output.
        style: the painting.
        recipe: loss, vgg and generate are used.
        workers: what an actor that holds VGG-16 gets.
        model: whose pictures images start from; None: from the photos.
        closed: asked before a unit begins; the rest stays pending.
        attempt: counts the workers that a unit ends; Ray starts new ones for it without end.
        stylizer: what the actors are, `Stylizer` or one in its place.

    Yields:
        For each unit `summary` (see `units.commit_unit`), `losses` of its ok rows, `rows` not ok as
        (uri, status, reason, detail) and device `seconds`; or the `outage` that leaves it pending.
    """
    limits = recipe.generate
    # Ray Data keeps some 4 kB of each unit in the driver until an execution ends: several bound them. Between
    # two, actors start anew, which costs less than a hundredth of what so many units of 10 s take.
    most = max(_UNITS, _UNITS_AN_ACTOR * workers.at_once(limits.actors))
    for some in executions(chunks, most):
        if closed():
            return
        yield from (
            ray.data.from_items([{"group": chunk.group._asdict(), "units": chunk.units} for chunk in some])
            # One operator with the repartition, which Ray fuses with batches of a fixed size only. Each
            # operator costs a task a unit, and a record of it.
            .map_batches(
                _planned,
                fn_args=(store, holdout, closed),
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=0.25,
            )
            .repartition(target_num_rows_per_block=1)
            .map(decode_unit, fn_args=(limits, closed, attempt), num_cpus=0.25)
            .map(
                UnitActor,
                fn_constructor_args=(
                    stylizer or Stylizer,
                    (style, recipe, workers, model, closed, attempt),
                    store,
                    limits,
                ),
                compute=workers.pool(limits.actors, sum(len(chunk.units) for chunk in some), calls=2),
                num_cpus=workers.num_cpus,
                num_gpus=workers.num_gpus or None,
            )
            .iter_rows()
        )


def executions(chunks: Iterable[Chunk], most: int) -> Iterator[list[Chunk]]:
    """Chunks in their order, together of so many units at most, or one that has more."""
    some: list[Chunk] = []
    for chunk in chunks:
        if some and sum(len(each.units) for each in [*some, chunk]) > most:
            yield some
            some = []
        some.append(chunk)
    if some:
        yield some


def _planned(chunk: pa.Table, store: Store, holdout: Row, closed: Closed) -> pa.Table:
    """`planned_units` of a batch that is one chunk."""
    [row] = chunk.to_pylist()
    return pa.Table.from_pylist(planned_units(row, store, holdout, closed), schema=_PLANNED)


class UnitActor:
    """An actor that writes a unit while it stylizes the next one.

    Not in a stage of its own: what is made and not written yet would pile up wherever stores or CPUs are
    slower than devices, and be lost with the driver. Here it is one unit an actor.
    """

    def __init__(
        self, stylizer: type[Stylizer], arguments: tuple[Any, ...], store: Store, settings: Generate
    ) -> None:
        """`arguments` are the stylizer's, `settings` those of `write_unit`."""
        self._stylizer = stylizer(*arguments)
        self._store, self._settings = store, settings
        # Ray calls from two threads. Each would get an OpenMP team of its own, and of more threads than cores
        # OpenMP puts the idle to sleep at every loop; so all that computes is done by one.
        self._thread = ThreadPoolExecutor(max_workers=1)

    def __call__(self, unit: Row) -> Row:
        """What `write_unit` returns. Two calls may be under way."""
        made = self._thread.submit(self._stylizer, unit).result()
        return write_unit(made, self._store, self._settings)


class Stylizer:
    """Holds VGG-16 and the style's Gram matrices; optimises the ok photos of a unit, a batch at a time."""

    def __init__(
        self,
        style: StyleImage,
        recipe: Recipe,
        workers: Workers,
        model: ModelFiles | None = None,
        closed: Closed = str,
        attempt: Attempt = first_attempt,
    ) -> None:
        """Nothing is loaded yet, see `_objectives`. Without a model images start from their photos."""
        self._style, self._recipe, self._workers = style, recipe, workers
        self._settings, self._model = recipe.generate, model
        self._closed, self._attempt = closed, attempt

    @cached_property
    def _objectives(self) -> Objectives:
        # Made in the first call, not in the constructor, which another thread runs: see `Device`.
        return Objectives.on(
            self._style,
            self._recipe.loss,
            self._recipe.vgg,
            self._workers.device,
            self._settings.precision,
            self._workers.threads,
        )

    @cached_property
    def _fast(self) -> FastModel:
        assert self._model  # only asked for where there is one
        return self._model.on(self._objectives.device)

    @cached_property
    def _batch(self) -> int:
        """Images optimised together."""
        return choose_batch(self._settings.image_size, self._objectives.device)

    def _say_halved(self, batch: int) -> None:
        log(f"out of memory on {self._objectives.device}: going on with {batch} images at once")

    def __call__(self, unit: Row) -> Row:
        """Add `stylized`, losses, `init` and `engine` to the ok rows; not a number twice is a failed one."""
        if outage := unit["outage"] or self._closed():
            return {**unit, "outage": outage, "seconds": 0.0, "began": 0.0}
        with self._attempt(f"stylize {unit['unit']}") as deaths:
            if deaths < MOST_DEATHS:
                return self._made(unit)
        rows = unpack(unit["photos"])
        for row in rows:
            if row["status"] == "ok":
                row.update(asdict(given_up(deaths)), content=None)
        return {**unit, "photos": pack(rows, IN_FLIGHT), "began": time.time(), "seconds": 0.0}

    def _made(self, unit: Row) -> Row:
        start = time.perf_counter()
        self._objectives.load()
        if self._model:
            _ = self._fast
        began = time.time()
        rows = unpack(unit["photos"])
        good = [row for row in rows if row["status"] == "ok"]
        self._batch = run_in_batches(
            len(good), self._batch, lambda batch: self._stylize(good[batch]), self._say_halved
        )
        timing = {"began": began, "seconds": time.perf_counter() - start}
        return {**unit, "photos": pack(rows, IN_FLIGHT), **timing}

    def _stylize(self, rows: list[Row]) -> None:
        side = self._settings.image_size
        pixels = np.stack([np.frombuffer(row["content"], np.uint8).reshape(side, side, 3) for row in rows])
        found = optimise_photos(self._objectives, pixels, self._settings, self._painted(pixels))
        for index, row in enumerate(rows):
            if not found.good[index]:
                row.update(status="failed", reason="not_finite", detail="no number, in fp32 too")
                continue
            again = index in found.again
            how = f"{self._objectives.device.type} fp32" if again else self._objectives.engine
            row.update(
                stylized=found.pictures[index].tobytes(),
                content_loss=float(found.losses.content[index]),
                style_loss=float(found.losses.style[index]),
                total_loss=float(found.losses.total[index]),
                init=f"model:{self._model.name}" if self._model and not again else "content",
                engine=f"{ENGINE} {self._settings.optimizer} {how}",
            )

    def _painted(self, pixels: codec.Pixels) -> Tensor | None:
        """What the fast model makes of the photos, uint8 (B, size, size, 3), as tensors to start from."""
        if self._model is None:
            return None
        # One by one, and rounded as `apply` stores them: a start has the same bits whatever the batch.
        return to_tensor(np.stack([self._fast(photo) for photo in pixels]), self._objectives.device)
