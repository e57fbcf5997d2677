"""decode -> paint -> encode and write: one sentence of Ray Data, a row a picture, and its callable."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import ray.data
import torch

from batch_nst.data.images.blend import Blend
from batch_nst.data.storage.store import Store
from batch_nst.engine.device import Precision, choose_device, keep_freed_memory
from batch_nst.pipelines.apply.tasks import Row, decode_photos, paint, write_painting
from batch_nst.pipelines.cluster.connect import Workers
from batch_nst.pipelines.cluster.crash_counter import CrashCounter
from batch_nst.pipelines.generate.tasks import Attempt, first_attempt
from batch_nst.pipelines.inference import FastModel, ModelFiles


def paint_photos(
    model: ModelFiles,
    chunks: list[Row],
    target: Store,
    look: Blend,
    precision: Precision,
    workers: Workers,
    overwrite: bool,
    painter: type[FastModelActor] | None = None,
) -> Iterator[Row]:
    """Paint the photos of `paint.chunks_of` into a target; for each its outcome, in no order.

    Args:
        model: what paints.
        chunks: photos and their names.
        target: where pictures are written.
        look: of the pictures.
        precision: of the convolutions.
        workers: what an actor that holds the model gets.
        overwrite: whether a picture takes the place of one of its name.
        painter: what the actors are, `Painter` or one in its place.
    """
    attempt = CrashCounter()  # Ray starts new workers without end
    return iter(
        ray.data.from_items(chunks)
        .repartition(target_num_rows_per_block=1)
        .flat_map(decode_photos, fn_args=(attempt,), num_cpus=0.25)
        .map(
            painter or FastModelActor,
            fn_constructor_args=(model, look, precision, workers, attempt),
            compute=workers.pool([1, workers.most], len(chunks)),
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus or None,
        )
        .map(write_painting, fn_args=(target, overwrite), num_cpus=0.25)
        .iter_rows()
    )


class FastModelActor:
    """Holds the fast model."""

    def __init__(
        self,
        model: ModelFiles,
        look: Blend,
        precision: Precision,
        workers: Workers,
        attempt: Attempt = first_attempt,
    ) -> None:
        """Nothing is loaded yet."""
        self._files, self._look = model, look
        self._precision, self._workers, self._attempt = precision, workers, attempt

    @cached_property
    def _model(self) -> FastModel:
        # In the first call, not in the constructor: for the reason, see `Stylizer`.
        torch.set_num_threads(self._workers.threads)
        keep_freed_memory()
        return self._files.painter(choose_device(self._workers.device), self._precision)

    def __call__(self, row: Row) -> Row:
        """See `paint`."""
        return paint(row, lambda: self._model, self._look, self._attempt)
