"""Whether further units may begin: one place in a cluster that the driver closes and workers ask."""

from __future__ import annotations

from typing import Any

import ray

from batch_nst.pipelines.cluster.connect import beside_driver
from batch_nst.pipelines.cluster.stop import Budget


class StopFlag:
    """Open until it is closed with a reason, or the deadline comes; travels to workers."""

    def __init__(self, budget: Budget) -> None:
        """Needs a connected Ray. It is the clock of the driver's node that counts."""
        state = ray.remote(num_cpus=0, scheduling_strategy=beside_driver())(_State)
        self._state: Any = state.remote(budget)

    def close(self, reason: str) -> None:
        """No unit begins from now on; those under way are finished."""
        ray.get(self._state.close.remote(reason))

    def __call__(self) -> str:
        """Why no unit may begin; empty while it may."""
        reason: str = ray.get(self._state.reason.remote())
        return reason


class _State:
    def __init__(self, budget: Budget) -> None:
        self._reason, self._budget = "", budget

    def close(self, reason: str) -> None:
        self._reason = reason

    def reason(self) -> str:
        return self._reason or self._budget.spent()
