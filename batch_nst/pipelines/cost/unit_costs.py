"""The measured cost of an image: from the last run in an output, or from a short trial."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.store import Store


@dataclass(frozen=True)
class UnitCosts:
    """Costs of one image, with the settings under which they were measured."""

    source: str
    """Origin: "run <id>" or "calibration"."""
    device: str
    """`cpu` or `cuda`."""
    devices: int
    """Number of devices that can work at the same time."""
    seconds: float
    """Device-seconds for each image that is tried, good or bad."""
    bytes_read: float
    """Bytes of each photo that is read."""
    bytes_written: float
    """Bytes of each image that is tried: its share of a unit's object."""
    start_seconds: float = 0.0
    """Seconds that each device takes before its first image."""


class _Made(BaseModel):
    """The figures of `generate` that costs are computed from."""

    device: str
    devices: int
    device_seconds: float
    tried: int
    kept: int = 0
    """Photos without pairs among them, which need no device; there were none before version 0.2.0."""
    photos_read: int
    bytes_read: int
    bytes_written: int


def last_unit_costs(store: Store) -> UnitCosts | None:
    """The costs in the last run of an output that made images; None if no run says."""
    for name in reversed(store.list("runs")):
        if name.endswith(("-generate/summary.json", "-nightly/summary.json")):
            summary = read_document(store, name)
            with intact(store, name):
                figures = summary.get("dataset", summary)
                # Summaries of version 0.1.0 lack the bytes.
                if figures.get("made") and "bytes_written" in figures:
                    return _unit_costs(f"run {summary['run']}", _Made.model_validate(figures))
    return None


def _unit_costs(source: str, made: _Made) -> UnitCosts:
    return UnitCosts(
        source=source,
        device=made.device,
        devices=made.devices,
        seconds=made.device_seconds / (made.tried - made.kept),
        bytes_read=made.bytes_read / made.photos_read,
        bytes_written=made.bytes_written / (made.tried - made.kept / 2),
    )
