"""Rows of Ray Data: each is a task, and shown as soon as it is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import ray.data
from ray.data import Dataset


def a_task_per_row() -> AbstractContextManager[None]:
    """Datasets of Ray Data that are made in this context hand each row to a task of its own.

    By default a task takes a block of rows. `repartition` would part them, but it is one more task for each
    row, and reserves a whole CPU: on a node of one core, where an actor holds some of it, none ever starts.
    """
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = 1  # bytes: a block ends after each row
    chosen: AbstractContextManager[None] = ray.data.DataContext.current(context)
    return chosen


def rows_at_once(dataset: Dataset, command: str) -> Iterator[dict[str, Any]]:
    """Run a pipeline; yields its rows. Ray's `iter_rows` holds one back until the next is made.

    Ray's metrics and dashboard show the execution as `batch_nst_COMMAND`, with a number.
    """
    dataset.set_name(f"batch_nst_{command}")
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from block.to_pylist()
