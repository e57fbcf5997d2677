"""How many workers a step of a unit has crashed, counted by an actor that outlives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from batch_nst.pipelines.cluster.connect import on_node, on_this_node

_PATIENCE = 60.0
"""Seconds in which a node must answer."""


class CrashCounter:
    """A `tasks.Attempt` for the workers of a cluster; it can be sent to them.

    A step that started and did not end has crashed its worker, unless the node is lost too. A lost or
    preempted machine is no fault of its work.
    """

    def __init__(self) -> None:
        """Needs a connected Ray."""
        state = ray.remote(num_cpus=0, scheduling_strategy=on_this_node())(_State)
        self._state: Any = state.remote()

    @contextmanager
    def __call__(self, step: str) -> Iterator[int]:
        """Yields the number of workers that the step has crashed."""
        node = str(ray.get_runtime_context().get_node_id())
        earlier: list[str] = ray.get(self._state.begin.remote(step, node))
        try:
            yield sum(map(_lives, earlier))
        finally:
            self._state.end.remote(step)


class _State:
    def __init__(self) -> None:
        self._begun: dict[str, list[str]] = {}
        """Nodes on which each unfinished step started."""

    def begin(self, step: str, node: str) -> list[str]:
        """The nodes of earlier attempts."""
        earlier = self._begun.setdefault(step, [])
        earlier.append(node)
        return earlier[:-1]

    def end(self, step: str) -> None:
        """Undo one `begin`, and nothing else: a step runs again if its result was lost."""
        self._begun[step].pop()
        if not self._begun[step]:
            del self._begun[step]


def _lives(node: str) -> bool:
    """Whether a node is up. The node itself is asked, because a cluster notices a loss only after a while."""
    sign = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_node(node))(_nothing)
    try:
        ray.get(sign.remote(), timeout=_PATIENCE)
    except RayError:
        return False
    return True


def _nothing() -> None:
    pass
