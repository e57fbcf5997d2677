"""decode -> paint -> encode and write: one sentence of Ray Data, a row a picture, and its callable."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import ray.data
import torch

from batch_nst.data.look import Look
from batch_nst.data.storage import Store
from batch_nst.engine.memory import keep_freed_memory
from batch_nst.engine.precision import Precision, choose_device
from batch_nst.pipelines.cluster import Workers
from batch_nst.pipelines.fast_model import FastModel, ModelFiles
from batch_nst.pipelines.paint import decode_photos, paint, write_painting
from batch_nst.pipelines.rows import Row


def paint_photos(
    model: ModelFiles,
    chunks: list[Row],
    target: Store,
    look: Look,
    precision: Precision,
    workers: Workers,
    overwrite: bool,
) -> Iterator[Row]:
    """Paint the photos of `paint.chunks_of` into a target; for each its outcome, in no order."""
    return iter(
        ray.data.from_items(chunks)
        .repartition(target_num_rows_per_block=1)
        .flat_map(decode_photos, num_cpus=0.25)
        .map(
            _Painter,
            fn_constructor_args=(model, look, precision, workers),
            compute=workers.pool([1, workers.most], len(chunks)),
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus or None,
        )
        .map(write_painting, fn_args=(target, overwrite), num_cpus=0.25)
        .iter_rows()
    )


class _Painter:
    """Holds the fast model."""

    def __init__(self, model: ModelFiles, look: Look, precision: Precision, workers: Workers) -> None:
        self._files, self._look = model, look
        self._precision, self._workers = precision, workers

    @cached_property
    def _model(self) -> FastModel:
        # In the first call, not in the constructor: for the reason, see `Stylizer`.
        torch.set_num_threads(self._workers.threads)
        keep_freed_memory()
        return self._files.painter(choose_device(self._workers.device), self._precision)

    def __call__(self, row: Row) -> Row:
        return paint(row, self._model, self._look)
