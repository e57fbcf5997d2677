"""Metrics of a run for Prometheus: Ray serves them on each node's metrics port, with the prefix `ray_`."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from batch_nst.data.dataset.records import UnitOutcome


class Metrics:
    """The progress of `generate`."""

    def __init__(self, to_do: int, iterations: int, devices: int) -> None:
        """Nothing is done yet.

        Args:
            to_do: number of images to make.
            iterations: iterations of each image.
            devices: number of devices that can work at the same time.
        """
        self._to_do, self._of_each, self._devices = to_do, iterations, devices
        self._images = Counter("images_total", "Images tried, by what became of them.", ("status",))
        self._units = Counter("units_total", "Units committed.")
        self._iterations = Counter("iterations_total", "Iterations of all images.")
        self._queue = Gauge("queue_depth", "Images that are still to be tried.", ("queue",))
        self._seconds = Gauge("seconds_per_image", "Device-seconds for an image of the last unit.")
        self._busy = Gauge("device_busy_ratio", "Share of the time since the first unit began.")
        self._queue.set(to_do, {"queue": "images"})

    def add(self, outcome: UnitOutcome, device_seconds: float, span_seconds: float) -> None:
        """Add a committed unit.

        Args:
            outcome: the unit's.
            device_seconds: sum over all units so far.
            span_seconds: from the first unit's start to the last one's end.
        """
        made, bad = len(outcome.losses), outcome.bad
        for photo in bad:
            self._images.inc(1, {"status": photo.status})
        if made:
            self._images.inc(made, {"status": "ok"})
            self._iterations.inc(made * self._of_each)
            self._seconds.set(outcome.seconds / made)
        self._units.inc()
        self._to_do -= made + len(bad)
        self._queue.set(self._to_do, {"queue": "images"})
        self._busy.set(min(1.0, device_seconds / max(1e-9, span_seconds * self._devices)))
