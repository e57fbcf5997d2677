"""photos -> fast model -> target: one sentence of Ray Data and its callable."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import ray.data
import torch

from batch_nst.data.inputs import Photo
from batch_nst.data.storage import Store
from batch_nst.pipelines.cluster import Workers
from batch_nst.pipelines.fast_model import FastModel, load_model
from batch_nst.pipelines.paint import paint, target_name


def paint_photos(
    model: str, photos: list[Photo], target: Store, workers: Workers
) -> Iterator[dict[str, Any]]:
    """Paint photos into a target; for each its outcome, in no order."""
    return iter(
        ray.data.from_items([photo._asdict() for photo in photos])
        .repartition(target_num_rows_per_block=8)
        .map(
            _Painter,
            fn_constructor_args=(model, target, workers),
            compute=workers.pool([1, workers.most], len(photos)),
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus or None,
        )
        .iter_rows()
    )


class _Painter:
    """Holds the fast model."""

    def __init__(self, model: str, target: Store, workers: Workers) -> None:
        self._name, self._target, self._workers = model, target, workers

    @cached_property
    def _model(self) -> FastModel:
        torch.set_num_threads(self._workers.threads)
        return load_model(self._name, self._workers.device)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        photo = Photo(**row)
        return paint(self._model, photo, self._target, target_name(photo.key))
