"""The command line, called in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def figures(self) -> dict[str, Any]:
        """Of its last line."""
        return dict(json.loads(self.stdout.splitlines()[-1]))


Call = Callable[..., Ended]
"""Takes the words of the command, and `folder`, the one to work in."""
