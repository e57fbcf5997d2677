"""Metrics of a run for Prometheus: Ray serves them on each node's metrics port, with the prefix `ray_`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from ray.util.metrics import Counter, Gauge

from batch_nst.credentials import redacted
from batch_nst.data.dataset.records import StageSeconds, UnitOutcome

_LABEL_LENGTH = 120


@dataclass(frozen=True)
class Metric:
    """A metric as Ray takes it. Names that end in `_total` only grow."""

    description: str
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Its labels beside the output, with the values that they may have."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels."""
        return ("output", *self.values)


_IMAGES = {"status": ("ok", "unpaired", "rejected", "failed")}
_UNITS = {"status": ("committed", "outage", "stopped")}
_STAGES = {"stage": tuple(stage.name for stage in fields(StageSeconds))}

METRICS = {
    "batch_nst_images_total": Metric("Images tried, by what became of them.", _IMAGES),
    "batch_nst_images_left": Metric("Images that are still to be tried."),
    "batch_nst_units_total": Metric("Units committed or left pending.", _UNITS),
    "batch_nst_iterations_total": Metric("Iterations of all images."),
    "batch_nst_stage_seconds_total": Metric("Seconds of units in each stage.", _STAGES),
    "batch_nst_device_idle_seconds_total": Metric("Seconds that devices had no work before a unit."),
    "batch_nst_devices": Metric("Devices that were at work at the same time, at most."),
    "batch_nst_device_busy_ratio": Metric("Share of their time that devices were at work."),
    "batch_nst_seconds_per_image": Metric("Device-seconds for an image of the last unit."),
}
"""What is shown of `generate`, by name: one value for an output and each status or stage."""


class Metrics:
    """The progress of `generate`."""

    def __init__(self, output: str, to_do: int, iterations: int) -> None:
        """Nothing is done yet.

        Args:
            output: the output's URI.
            to_do: number of images to make.
            iterations: iterations of each image.
        """
        self._to_do, self._of_each = to_do, iterations
        self._output, self._old = output_label(output), _OldNames(to_do, iterations)
        metrics = {name: (each.description, each.labels) for name, each in METRICS.items()}
        self._counters = {name: Counter(name, *metrics[name]) for name in metrics if name.endswith("_total")}
        self._gauges = {name: Gauge(name, *metrics[name]) for name in metrics.keys() - self._counters.keys()}
        self._set("batch_nst_images_left", to_do)

    def add(self, outcome: UnitOutcome, devices: int, device_seconds: float, idle_seconds: float) -> None:
        """Add a unit that was committed or left pending.

        Args:
            outcome: the unit's.
            devices: the largest number that were at work at the same time.
            device_seconds: sum over all units so far.
            idle_seconds: time that devices had no work, of all units so far.
        """
        if outcome.pending:
            self._count("batch_nst_units_total", 1, status="outage" if outcome.outage else "stopped")
            return
        made = len(outcome.losses)
        self._count("batch_nst_units_total", 1, status="committed")
        self._count("batch_nst_images_total", outcome.unpaired, status="unpaired")
        for photo in outcome.bad:
            self._count("batch_nst_images_total", 1, status=photo.status)
        if made:
            self._count("batch_nst_images_total", made, status="ok")
            self._count("batch_nst_iterations_total", made * self._of_each)
            self._set("batch_nst_seconds_per_image", outcome.stages.device / made)
        for stage, seconds in asdict(outcome.stages).items():
            self._count("batch_nst_stage_seconds_total", seconds, stage=stage)
        self._count("batch_nst_device_idle_seconds_total", outcome.idle_seconds)
        self._to_do -= made + outcome.unpaired + len(outcome.bad)
        self._set("batch_nst_images_left", self._to_do)
        self._set("batch_nst_devices", devices)  # Ray forgets what is not refreshed
        busy = device_seconds / max(1e-9, device_seconds + idle_seconds)
        self._set("batch_nst_device_busy_ratio", busy)
        self._old.add(outcome, busy)

    def _count(self, name: str, value: float, **labels: str) -> None:
        if value > 0:  # Ray refuses to add nothing
            self._counters[name].inc(value, {"output": self._output, **labels})

    def _set(self, name: str, value: float) -> None:
        self._gauges[name].set(value, {"output": self._output})


def output_label(uri: str) -> str:
    """An output's URI as a label: without credentials, and of a long one the end."""
    shown = redacted(uri)
    return shown if len(shown) <= _LABEL_LENGTH else "..." + shown[3 - _LABEL_LENGTH :]


class _OldNames:
    """The metrics under the names of version 0.1.0, which the release after the next one drops."""

    def __init__(self, to_do: int, iterations: int) -> None:
        self._to_do, self._of_each = to_do, iterations
        self._images = Counter("images_total", "Images tried, by what became of them.", ("status",))
        self._units = Counter("units_total", "Units committed.")
        self._iterations = Counter("iterations_total", "Iterations of all images.")
        self._queue = Gauge("queue_depth", "Images that are still to be tried.", ("queue",))
        self._seconds = Gauge("seconds_per_image", "Device-seconds for an image of the last unit.")
        self._busy = Gauge("device_busy_ratio", "Share of their time that devices were at work.")
        self._queue.set(to_do, {"queue": "images"})

    def add(self, outcome: UnitOutcome, busy: float) -> None:
        made, bad = len(outcome.losses), outcome.bad
        for photo in bad:
            self._images.inc(1, {"status": photo.status})
        if made:
            self._images.inc(made, {"status": "ok"})
            self._iterations.inc(made * self._of_each)
            self._seconds.set(outcome.stages.device / made)
        self._units.inc()
        self._to_do -= made + outcome.unpaired + len(bad)
        self._queue.set(self._to_do, {"queue": "images"})
        self._busy.set(busy)
