"""Laws of the metrics: what a unit adds to them, and what their labels show."""

from collections import Counter
from typing import Any, ClassVar

import pytest

from batch_nst.data.dataset.records import BadPhoto, StageSeconds, UnitOutcome
from batch_nst.pipelines.cluster import metrics
from batch_nst.pipelines.cluster.metrics import METRICS, Metrics, output_label

OUTPUT = {"output": "s3://bucket/out"}


class Recorded:
    """Keeps what is recorded where Ray would send it to its node."""

    values: ClassVar[Counter[tuple[str, frozenset[tuple[str, str]]]]] = Counter()

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] = ()) -> None:
        assert description
        self._name, self._keys = name, tag_keys

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        assert value > 0  # else Ray raises
        assert self._name.endswith("_total")
        self.values[self._key(tags)] += value

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        assert not self._name.endswith("_total")
        self.values[self._key(tags)] = value

    def _key(self, tags: dict[str, str] | None) -> Any:
        assert set(tags or {}) == set(self._keys)
        return self._name, frozenset((tags or {}).items())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    Recorded.values = Counter()
    for kind in ("Counter", "Gauge"):
        monkeypatch.setattr(metrics, kind, Recorded)
    return Recorded.values


def test_a_unit_adds_its_images_and_the_seconds_of_its_stages(recorded: Counter[Any]) -> None:
    def value(name: str, **labels: str) -> float:
        return recorded[name, frozenset({**(OUTPUT if "batch_nst" in name else {}), **labels}.items())]

    shown = Metrics("s3://bucket/out", to_do=10, iterations=300)
    assert value("batch_nst_images_left") == 10
    bad = (BadPhoto("a", "rejected", "", "", "u"), BadPhoto("b", "failed", "", "", "u"))
    stages = StageSeconds(1, 2, 0, 8, 16, 32)  # Ray refuses to add 0
    shown.add(UnitOutcome("u", losses=(1.0, 2.0), bad=bad, stages=stages, idle_seconds=4), 2, 8.0, 4.0)
    shown.add(UnitOutcome("v", losses=(3.0,), unpaired=2, stages=StageSeconds(device=4)), 2, 12.0, 8.0)
    shown.add(UnitOutcome("w", outage="away"), 2, 12.0, 8.0)
    shown.add(UnitOutcome("x", stopped=True), 2, 12.0, 8.0)

    def by_label(name: str) -> dict[str, float]:
        ((label, values),) = METRICS[name].values.items()
        return {each: value(name, **{label: each}) for each in values}

    assert by_label("batch_nst_units_total") == {"committed": 2, "outage": 1, "stopped": 1}
    assert by_label("batch_nst_images_total") == {"ok": 3, "unpaired": 2, "rejected": 1, "failed": 1}
    in_stages = {"fetch": 1, "decode": 2, "wait": 0, "device": 12, "encode": 16, "put": 32}
    assert by_label("batch_nst_stage_seconds_total") == in_stages
    assert value("batch_nst_device_idle_seconds_total") == 4
    assert value("batch_nst_iterations_total") == 900
    assert (value("batch_nst_images_left"), value("batch_nst_devices")) == (3, 2)
    assert value("batch_nst_device_busy_ratio") == 0.6
    assert value("batch_nst_seconds_per_image") == 4
    # for one release, under the names of version 0.1.0
    assert [value("images_total", status=status) for status in ("ok", "rejected", "failed")] == [3, 1, 1]
    assert (value("units_total"), value("iterations_total")) == (2, 900)
    assert value("queue_depth", queue="images") == 3
    assert (value("seconds_per_image"), value("device_busy_ratio")) == (4, 0.6)
    assert METRICS.keys() <= {name for name, _ in recorded}


def test_the_label_of_an_output_shows_no_secret_and_has_an_end() -> None:
    assert output_label("s3://bucket/out") == "s3://bucket/out"
    assert output_label("s3://key:secret@bucket/out") == "s3://key:***@bucket/out"
    assert output_label("https://h/out?X-Amz-Signature=abc") == "https://h/out?***"
    long = output_label("s3://bucket/" + "x" * 500 + "/2026-11-29")
    assert (len(long), long[:4], long[-11:]) == (120, "...x", "/2026-11-29")
