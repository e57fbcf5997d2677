"""docs/costs.md has the arithmetic of the code, docs/watching.md its metrics."""

import re

import pytest

from batch_nst.data.dataset import plan_files
from batch_nst.pipelines.cluster.metrics import METRICS
from batch_nst.pipelines.cost.requests import Traffic, generate_requests
from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "costs.md").read_text()
WATCHING = (ROOT / "docs" / "watching.md").read_text()
UNIT_IMAGES = 64
PAIR_SECONDS = 18.82
PAIR_MIB = 0.2


def cost_row(photos: int) -> str:
    """Of the table of costs."""
    units = -(-photos // UNIT_IMAGES)
    groups = -(-units // plan_files.GROUP_UNITS)
    traffic = Traffic(
        photo_reads=photos,
        units=units,
        listed=photos,
        single_reads=2,
        output=True,
        new_segments=plan_files.segments_for(groups, UNIT_IMAGES),
        chunks=groups,
    )
    requests = generate_requests(traffic)
    hours, gib = photos * PAIR_SECONDS / 3600, photos * PAIR_MIB / 1024
    numbers = (f"{value:,}" for value in (requests.reads, requests.writes, requests.lists))
    return f"| 10^{len(str(photos)) - 1} | {hours:,.0f} | {' | '.join(numbers)} | {gib:,.0f} GiB |"


@pytest.mark.parametrize("photos", [10**4, 10**6, 10**8])
def test_costs_are_the_formulas(photos: int) -> None:
    assert cost_row(photos) in PAGE.splitlines()


def test_seconds_of_a_pair_are_the_engines() -> None:
    engine = (ROOT / "docs" / "engine.md").read_text()
    assert re.search(r"\| 256 \| .* \| 18,820 \|", engine)


def test_hours_of_a_thousand_pairs_are_the_engines() -> None:
    engine = (ROOT / "docs" / "engine.md").read_text()
    with_amx = dict(re.findall(r"^\| (128|256|512) \| .* \| ([\d,]+) \|$", engine, re.MULTILINE))
    (text,) = re.findall(r"bare network; ([\d,]+), ([\d,]+) and ([\d,]+)\s+device-seconds", engine)
    without = dict(zip(with_amx, text, strict=True))
    rows = re.findall(r"^\| (128|256|512) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for px, iterations, *hours in rows:
        seconds = (float(each[px].replace(",", "")) for each in (with_amx, without))
        assert hours == [f"{each * int(iterations) / 300 / 3600:.2f}" for each in seconds]


def test_every_metric_is_listed() -> None:
    source = (ROOT / "batch_nst" / "pipelines" / "cluster" / "metrics.py").read_text()
    old = re.findall(r'(?:Counter|Gauge)\("(\w+)"', source)
    assert len(old) == 6
    shown = {name: "{" + ", ".join(metric.labels) + "}" for name, metric in METRICS.items()}
    assert [name for name, labels in shown.items() if f"| `ray_{name}{labels}` |" not in WATCHING] == []
    assert [name for name in old if f"`ray_{name}`" not in WATCHING] == []
