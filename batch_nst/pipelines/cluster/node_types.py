"""Which node type Ray's autoscaler starts: one that its cloud has, else the next that fits."""

from __future__ import annotations

from typing import Any

# Private (Ray 2.60), and so is RAY_AUTOSCALER_UTILIZATION_SCORER, by which `cluster.yaml` names this file.
# Without both, a type that its cloud does not have is asked for again and again.
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer


def available_first(
    node_resources: dict[str, float],
    resources: list[dict[str, float]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[object, ...] | None:
    """The score of a node type for what is asked for, as Ray's own; None if nothing of that fits on it.

    The highest score wins; of equal ones the type whose name comes last. A type that could not be started in
    the last half hour comes after all that could. A GPU is still not started for what needs none.
    """
    score = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if score is None:
        return None
    suits, *rest = score
    seen = node_availability_summary.node_availabilities.get(node_type)
    return suits, seen is None or seen.is_available, *rest
