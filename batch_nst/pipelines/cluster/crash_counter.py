"""How many workers a step of a unit has ended: counted in one place that outlives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from batch_nst.pipelines.cluster.connect import beside_driver, on_node

_PATIENCE = 60.0
"""Seconds for a node's sign of life."""


class CrashCounter:
    """A `rows.Attempt` for the workers of a cluster; travels to them.

    A step that began and did not end has ended its worker, unless the node went with it: a lost or preempted
    machine is no fault of what it worked on.
    """

    def __init__(self) -> None:
        """Needs a connected Ray."""
        state = ray.remote(num_cpus=0, scheduling_strategy=beside_driver())(_State)
        self._state: Any = state.remote()

    @contextmanager
    def __call__(self, step: str) -> Iterator[int]:
        """How many workers the step has ended."""
        node = str(ray.get_runtime_context().get_node_id())
        earlier: list[str] = ray.get(self._state.begin.remote(step, node))
        try:
            yield sum(map(_lives, earlier))
        finally:
            self._state.end.remote(step)


class _State:
    def __init__(self) -> None:
        self._begun: dict[str, list[str]] = {}
        """Of each step that has not ended the nodes on which it began."""

    def begin(self, step: str, node: str) -> list[str]:
        """The nodes of earlier attempts."""
        earlier = self._begun.setdefault(step, [])
        earlier.append(node)
        return earlier[:-1]

    def end(self, step: str) -> None:
        """Takes back what `begin` noted, and nothing else: a step is done again where its result was lost."""
        self._begun[step].pop()
        if not self._begun[step]:
            del self._begun[step]


def _lives(node: str) -> bool:
    """Whether a node is there; it is asked itself, for a cluster learns of a loss only after a while."""
    sign = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_node(node))(_nothing)
    try:
        ray.get(sign.remote(), timeout=_PATIENCE)
    except RayError:
        return False
    return True


def _nothing() -> None:
    pass
