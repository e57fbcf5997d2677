"""Whether further units may begin: one place in a cluster that the driver closes and workers ask."""

from __future__ import annotations

from typing import Any

import ray

from batch_nst.pipelines.cluster import beside_driver


class Valve:
    """Open until it is closed with a reason; travels to workers."""

    def __init__(self) -> None:
        """Needs a connected Ray."""
        state = ray.remote(num_cpus=0, scheduling_strategy=beside_driver())(_State)
        self._state: Any = state.remote()

    def close(self, reason: str) -> None:
        """No unit begins from now on; those under way are finished."""
        ray.get(self._state.close.remote(reason))

    def __call__(self) -> str:
        """Why no unit may begin; empty while it may."""
        reason: str = ray.get(self._state.reason.remote())
        return reason


class _State:
    def __init__(self) -> None:
        self._reason = ""

    def close(self, reason: str) -> None:
        self._reason = reason

    def reason(self) -> str:
        return self._reason
