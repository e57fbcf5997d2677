"""The Ray Data pipeline of `generate` (one row per unit) and its actors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, takewhile

import numpy as np
import ray.data
from torch import Tensor

from batch_nst.console import log
from batch_nst.data.dataset.plan import Chunk
from batch_nst.data.dataset.records import (
    PhotoRecord,
    UnitOutcome,
    UnitRecord,
    from_row,
    outcome_from_row,
    outcome_to_row,
)
from batch_nst.data.images import codec
from batch_nst.data.images.style import StyleImage
from batch_nst.data.storage.store import Store
from batch_nst.engine.device import choose_batch, run_in_batches
from batch_nst.engine.slow_transfer import ENGINE
from batch_nst.pipelines.cluster.connect import Workers
from batch_nst.pipelines.cluster.rows import a_task_per_row, rows_at_once
from batch_nst.pipelines.generate.decode import (
    MOST_DEATHS,
    Attempt,
    SplitOf,
    StopCheck,
    chunk_row,
    decode_row,
    first_attempt,
    given_up,
    never,
    plan_rows,
)
from batch_nst.pipelines.generate.write import write_unit
from batch_nst.pipelines.inference import FastModel, ModelFiles
from batch_nst.pipelines.objective import Objectives, optimise_photos, to_tensor
from batch_nst.recipe import Generate, Recipe

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
    rest, most = list(chunks), units_of_execution()
    while rest and not stop_reason():
        some = first_chunks(rest, most)
        rest, made, start = rest[len(some) :], 0, time.monotonic()
        with a_task_per_row():
            dataset = (
                ray.data.from_items([chunk_row(chunk) for chunk in some])
                .flat_map(plan_rows, fn_args=(store, split_of, stop_reason), num_cpus=0.25)
                .map(decode_row, fn_args=(limits, stop_reason, attempt), num_cpus=0.25)
                .map(
                    UnitActor,
                    fn_constructor_args=(
                        stylizer or Stylizer,
                        (style, recipe, workers, model, stop_reason, attempt),
                        store,
                        limits,
                        _ENCODERS[workers.device],
                    ),
                    compute=workers.pool(
                        limits.actors, sum(len(chunk.units) for chunk in some), calls=_CALLS
                    ),
                    num_cpus=workers.num_cpus,
                    num_gpus=workers.num_gpus or None,
                )
            )
        for outcome in map(outcome_from_row, rows_at_once(dataset, "generate")):
            made += not outcome.pending
            yield outcome
        most = units_of_execution(made, time.monotonic() - start)


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
        return replace(made, idle_seconds=idle)

    def _written(self, unit: UnitRecord) -> dict[str, str]:
        return outcome_to_row(write_unit(unit, self._store, self._settings, self._encoders))


class Stylizer:
    """Holds VGG-16 and the style's Gram matrices; optimises the ok photos of a unit in batches."""

    def __init__(
        self,
        style: StyleImage,
        recipe: Recipe,
        workers: Workers,
        model: ModelFiles | None = None,
        stop_reason: StopCheck = never,
        attempt: Attempt = first_attempt,
    ) -> None:
        """Loads nothing yet, see `load`. Without a model, images start from their photos."""
        self._style, self._recipe, self._workers = style, recipe, workers
        self._model, self._stop_reason, self._attempt = model, stop_reason, attempt

    def __call__(self, unit: UnitRecord) -> UnitRecord:
        """The unit with its ok photos optimised. An image whose loss is NaN or infinite twice has failed."""
        if unit.pending:
            return unit
        if self._stop_reason():
            return replace(unit, stopped=True)
        with self._attempt(f"stylize {unit.unit}") as deaths:
            if deaths < MOST_DEATHS:
                return self._made(unit)
        why = given_up(deaths)
        photos = tuple(photo.refused(why) if photo.ok else photo for photo in unit.photos)
        return replace(unit, photos=photos, began=time.time(), seconds=0.0)

    def _made(self, unit: UnitRecord) -> UnitRecord:
        start = time.perf_counter()
        self.load()
        began = time.time()
        made = iter(self.stylize([photo for photo in unit.photos if photo.ok]))
        photos = tuple(next(made) if photo.ok else photo for photo in unit.photos)
        return replace(unit, photos=photos, began=began, seconds=time.perf_counter() - start)

    def load(self) -> None:
        """Load the networks, if they are not loaded yet."""
        self._objectives.load()
        if self._model:
            _ = self._fast

    @cached_property
    def batch(self) -> int:
        """Number of images that are optimised together."""
        return choose_batch(self._recipe.generate.image_size, self._objectives.device)

    def stylize(
        self, photos: Sequence[PhotoRecord], iterations: int | None = None, from_model: bool = True
    ) -> list[PhotoRecord]:
        """Decoded photos with their optimised images and losses; those with a NaN or infinite loss fail.

        Args:
            photos: ok ones, with `content`.
            iterations: None: those of the recipe.
            from_model: whether to start from the model's pictures, if there is a model.
        """
        settings = self._recipe.generate
        if iterations is not None:
            settings = settings.model_copy(update={"iterations": iterations})
        model = self._model if from_model else None
        made = list(photos)

        def run(part: slice) -> None:
            made[part] = self._optimised(photos[part], settings, model)

        self.batch = run_in_batches(len(photos), self.batch, run, self._log_halved)
        return made

    def _log_halved(self, batch: int) -> None:
        log(f"out of memory on {self._objectives.device}: continuing with {batch} images at once")

    @cached_property
    def _objectives(self) -> Objectives:
        # Made in the first call, not in the constructor, which another thread runs: see `UnitActor`.
        workers = self._workers
        return Objectives.of_recipe(self._recipe, self._style, workers.device, workers.threads_here())

    @cached_property
    def _fast(self) -> FastModel:
        assert self._model  # only used if there is a model
        return self._model.on(self._objectives.device)

    def _optimised(
        self, photos: Sequence[PhotoRecord], settings: Generate, model: ModelFiles | None
    ) -> list[PhotoRecord]:
        side = settings.image_size
        pixels = np.stack(
            [np.frombuffer(photo.content or b"", np.uint8).reshape(side, side, 3) for photo in photos]
        )
        found = optimise_photos(self._objectives, pixels, settings, self._start(pixels) if model else None)
        made = []
        for index, photo in enumerate(photos):
            if not found.good[index]:
                detail = "the loss is NaN or infinite, also in fp32"
                made.append(replace(photo, status="failed", reason="not_finite", detail=detail))
                continue
            again = index in found.again
            how = f"{self._objectives.device.type} fp32" if again else self._objectives.engine
            made.append(
                replace(
                    photo,
                    stylized=found.pictures[index].tobytes(),
                    content_loss=float(found.losses.content[index]),
                    style_loss=float(found.losses.style[index]),
                    total_loss=float(found.losses.total[index]),
                    init=f"model:{model.name}" if model and not again else "content",
                    engine=f"{ENGINE} {settings.optimizer} {how}",
                )
            )
        return made

    def _start(self, pixels: codec.Pixels) -> Tensor:
        """The fast model's stylized images of photos, uint8 (B, size, size, 3), as tensors to start from."""
        # One by one, and rounded as `apply` stores them: a start has the same bits whatever the batch.
        return to_tensor(np.stack([self._fast(photo) for photo in pixels]), self._objectives.device)
