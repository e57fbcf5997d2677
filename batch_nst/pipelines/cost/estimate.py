"""What a run of `generate` would cost: counts times measured costs. Nothing is guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from batch_nst.pipelines.cost.requests import Requests, generate_requests
from batch_nst.pipelines.cost.unit_costs import UnitCosts
from batch_nst.pipelines.cost.workload import Workload

UNKNOWN = "not known before the first images are made; --calibrate tries a few"


@dataclass(frozen=True)
class Estimate:
    """Figures of an estimate; None stands for unknown."""

    store_requests: Requests
    """Requests to buckets; without renewals of the lease while `hours` is unknown."""
    device: str | None = None
    """`cpu` or `cuda`."""
    devices: int | None = None
    """Number of devices that can work at the same time."""
    device_hours: float | None = None
    """Working time summed over devices."""
    hours: float | None = None
    """Elapsed time, if all devices work all the time."""
    bytes_read: int | None = None
    """Bytes of photos."""
    bytes_written: int | None = None
    """Bytes of units."""
    price: float | None = None
    """Price of the device-hours; None also without a price per hour."""
    rates_from: str | None = None
    """Origin of the costs, see `UnitCosts.source`."""


def estimate(work: Workload, rates: UnitCosts | None, price: float | None = None) -> Estimate:
    """Multiply the work by the costs.

    Args:
        work: counts of what is to be done.
        rates: measured costs; None if there are none.
        price: price of a device-hour, in any currency.
    """
    if not work.images:
        free = None if price is None else 0.0
        return Estimate(
            Requests(0, 0, 0), device_hours=0.0, hours=0.0, bytes_read=0, bytes_written=0, price=free
        )
    if rates is None:
        return Estimate(generate_requests(work.traffic))
    devices = min(rates.devices, work.units)
    seconds = devices * rates.start_seconds + work.images * rates.seconds
    return Estimate(
        store_requests=generate_requests(work.traffic, devices, seconds / devices),
        device=rates.device,
        devices=devices,
        device_hours=seconds / 3600,
        hours=seconds / devices / 3600,
        bytes_read=round(work.photo_reads * rates.bytes_read),
        # A photo without a pair is one picture of two.
        bytes_written=round((work.images + work.unpaired / 2) * rates.bytes_written),
        price=None if price is None else seconds / 3600 * price,
        rates_from=rates.source,
    )


def estimate_lines(counts: Mapping[str, int], figures: Estimate) -> list[str]:
    """Lines for the terminal, aligned: the counts of a plan, then what is known of its costs."""
    shown = {name: value for name, value in counts.items() if value or name != "unpaired"}
    lines = {name.replace("_", " "): f"{value:,}" for name, value in shown.items()}
    lines["device-hours"] = UNKNOWN if figures.device_hours is None else _number(figures.device_hours)
    if figures.device and figures.hours is not None:
        lines["device-hours"] += (
            f" of {figures.device}; {_number(figures.hours)} hours for {figures.devices} at a time"
        )
    requests = {name: number for name, number in asdict(figures.store_requests).items() if number}
    parts = ", ".join(f"{number:,} {name}" for name, number in requests.items())
    lines["store requests"] = f"{sum(requests.values()):,}" + (f": {parts}" if parts else "")
    lines["bytes read"], lines["bytes written"] = _bytes(figures.bytes_read), _bytes(figures.bytes_written)
    if figures.price is not None:
        lines["price"] = _number(figures.price)
    if figures.rates_from:
        lines["rates from"] = figures.rates_from
    return [f"{name:>14} {value}" for name, value in lines.items()]


def _number(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 else f"{value:.2g}"


def _bytes(size: int | None) -> str:
    if size is None:
        return "not known"
    amount, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{size} bytes" if unit == "bytes" else f"{amount:,.1f} {unit}"
