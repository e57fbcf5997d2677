"""How long a run may begin units: up to a time of day, and for so many hours of devices."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import NamedTuple


class Budget(NamedTuple):
    """What ends the making of pairs in order; what is under way by then is finished."""

    device_hours: float = math.inf
    """Of all devices together."""
    deadline: datetime | None = None
    """With its zone."""

    def spent(self, device_seconds: float = 0.0) -> str:
        """Why no further unit may begin when devices have worked for so long; empty while one may."""
        if device_seconds >= self.device_hours * 3600:
            return self._used_up
        if self.deadline and datetime.now(UTC) >= self.deadline:
            return self._too_late
        return ""

    def ends(self, reason: str) -> bool:
        """Whether that is what `spent` says, and no fault."""
        return bool(reason) and reason in (self._used_up, self._too_late)

    @property
    def _used_up(self) -> str:
        return f"{self.device_hours:g} device-hours are used up"

    @property
    def _too_late(self) -> str:
        return f"the deadline {self.deadline.isoformat(' ', 'minutes')} has come" if self.deadline else ""


UNLIMITED = Budget()
