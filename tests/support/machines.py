"""The machines that Ray's autoscaler starts in tests: processes, of which some may be killed."""

from __future__ import annotations

from typing import Any

from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]  # Ray gives it no types
    """Ray's own, which lists a machine for ever; this one lists none that is gone, as a cloud does."""

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        """The ids of those that are there."""
        for node_id in [each for each in self._nodes if self._is_gone(each)]:
            self.terminate_node(node_id)
        return list(super().non_terminated_nodes(tag_filters))

    def _is_gone(self, node_id: str) -> bool:
        node: Any = self._nodes[node_id].get("node")  # the head has none
        return bool(node) and any(
            each.process.poll() is not None for each in node.all_processes.get(PROCESS_TYPE_RAYLET, [])
        )
