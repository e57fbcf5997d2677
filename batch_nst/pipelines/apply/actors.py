"""The Ray Data pipeline of `apply` (decode, stylize, write; a row holds a few pictures) and its actor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import ray.data

from batch_nst.data.images.blend import Blend
from batch_nst.data.models.files import ModelFiles
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.compiled import Backend
from batch_nst.pipelines.apply.painters import Paint, by_openvino, by_torch, checked_weights
from batch_nst.pipelines.apply.tasks import (
    Outcome,
    PictureRecord,
    PictureRow,
    PictureTask,
    as_row,
    chunk_row,
    decode_row,
    records_in,
    stylize_picture,
    stylize_pictures,
    write_row,
)
from batch_nst.pipelines.cluster.connect import Workers
from batch_nst.pipelines.cluster.crash_counter import CrashCounter
from batch_nst.pipelines.cluster.rows import a_task_per_row, rows_at_once
from batch_nst.pipelines.generate.decode import Attempt, first_attempt

if TYPE_CHECKING:
    from batch_nst.engine.device import Precision

_ACTORS = [1, 64]
"""The fewest and the most, as nodes come: a recipe's default."""


def stylize_photos(
    model: ModelFiles,
    chunks: Sequence[Sequence[PictureTask]],
    target: Store,
    blend: Blend,
    precision: Precision,
    backend: Backend,
    workers: Workers,
    actor: type[FastModelActor] | None = None,
) -> Iterator[Outcome]:
    """Stylize photos into a target; yields the outcome of each, in no order.

    Args:
        model: the fast model.
        chunks: from `chunks_of`.
        target: where stylized images are written.
        blend: how photo and stylized image are mixed.
        precision: precision of the convolutions.
        backend: what computes.
        workers: resources of an actor that holds the model.
        actor: class of the actors; by default `FastModelActor`.
    """
    attempt = CrashCounter()  # Ray replaces dead workers without limit
    with a_task_per_row():
        dataset = (
            ray.data.from_items([chunk_row(chunk) for chunk in chunks], override_num_blocks=len(chunks))
            .flat_map(decode_row, fn_args=(attempt,), **workers.decoding)
            .map(
                actor or FastModelActor,
                fn_constructor_args=(model, blend, precision, backend, workers, attempt),
                compute=workers.pool(_ACTORS, len(chunks)),
                num_cpus=workers.num_cpus,
                num_gpus=workers.num_gpus or None,
            )
            .map(write_row, fn_args=(target,), num_cpus=0.25)
        )
    return (Outcome(**each) for row in rows_at_once(dataset, "apply") for each in row["pictures"])


class FastModelActor:
    """An actor that holds the fast model."""

    def __init__(
        self,
        model: ModelFiles,
        blend: Blend,
        precision: Precision,
        backend: Backend,
        workers: Workers,
        attempt: Attempt = first_attempt,
    ) -> None:
        """Keep the arguments; the network is loaded by the first call."""
        self._files, self._blend = model, blend
        self._precision, self._backend = precision, backend
        self._workers, self._attempt = workers, attempt

    @cached_property
    def _model(self) -> Paint:
        # In the first call, not in the constructor: for the reason, see `Stylizer`.
        threads = self._workers.threads_here()
        if self._backend == "openvino":
            return by_openvino(self._files, checked_weights(self._files), self._precision, threads)
        return by_torch(self._files, self._workers.device, self._precision, self._backend, threads)

    def stylize(self, record: PictureRecord, attempt: Attempt) -> PictureRecord:
        """`stylize_picture` with the actor's model."""
        return stylize_picture(record, lambda: self._model, self._blend, attempt)

    def __call__(self, row: PictureRow) -> PictureRow:
        """`stylize_pictures` for Ray Data."""
        return as_row(stylize_pictures(records_in(row), self.stylize, self._attempt))
