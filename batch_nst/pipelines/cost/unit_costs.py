"""What an image costs, as measured: by the last run in an output, or by a short trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.store import Store


@dataclass(frozen=True)
class UnitCosts:
    """Costs of one image, for the settings that it was measured with."""

    source: str
    """Who measured: "run <id>" or "calibration"."""
    device: str
    """`cpu` or `cuda`: what the seconds are of."""
    devices: int
    """How many can work at the same time."""
    seconds: float
    """Of a device, an image that is tried, good or bad."""
    bytes_read: float
    """A photo that is read."""
    bytes_written: float
    """An image that is tried: its share of a unit's object."""
    start_seconds: float = 0.0
    """Of each device, before its first image."""


def last_unit_costs(store: Store) -> UnitCosts | None:
    """The rates of the last run in an output that made images, or None."""
    for name in reversed(store.list("runs")):
        if name.endswith(("-generate/summary.json", "-nightly/summary.json")):
            summary = read_document(store, name)
            with intact(store, name):
                rates = unit_costs_of(f"run {summary['run']}", summary.get("dataset", summary))
            if rates is not None:
                return rates
    return None


def unit_costs_of(source: str, figures: Mapping[str, Any]) -> UnitCosts | None:
    """The rates of a run with these figures of `generate`; None if it made nothing or does not tell."""
    # Summaries of version 0.1.0 lack the bytes.
    if not figures.get("made") or "bytes_written" not in figures:
        return None
    return UnitCosts(
        source=source,
        device=figures["device"],
        devices=figures["devices"],
        seconds=figures["device_seconds"] / figures["tried"],
        bytes_read=figures["bytes_read"] / figures["photos_read"],
        bytes_written=figures["bytes_written"] / figures["tried"],
    )
