"""A stop flag for a cluster: the driver sets it; workers check it before each unit."""

from __future__ import annotations

from typing import Any

import ray

from batch_nst.pipelines.cluster.connect import on_this_node
from batch_nst.pipelines.cluster.stop import Budget, Stop


class StopFlag:
    """Not set until `set` is called or the budget's deadline comes. Can be sent to workers."""

    def __init__(self, budget: Budget) -> None:
        """Needs a connected Ray. The clock of the driver's node decides when the deadline has come."""
        state = ray.remote(num_cpus=0, scheduling_strategy=on_this_node())(_State)
        self._state: Any = state.remote(budget)

    def set(self, stop: Stop) -> None:
        """Let no further unit start; units under way are finished."""
        ray.get(self._state.set.remote(stop))

    def __call__(self) -> Stop | None:
        """Why no unit may start; None while one may."""
        stop: Stop | None = ray.get(self._state.stop_reason.remote())
        return stop


class _State:
    def __init__(self, budget: Budget) -> None:
        self._stop: Stop | None = None
        self._budget = budget

    def set(self, stop: Stop) -> None:
        self._stop = stop

    def stop_reason(self) -> Stop | None:
        return self._stop or self._budget.stop_reason()
