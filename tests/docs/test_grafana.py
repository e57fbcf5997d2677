"""docs/grafana.json is a dashboard of the metrics that the code has."""

import json
import re
from typing import Any

import pytest

from batch_nst.pipelines.cluster.metrics import METRICS
from tests.support.places import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs" / "grafana.json").read_text())
PANELS = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
SELECTOR = re.compile(r"(ray_\w+)(?:\{(.*?)\})?")


def selectors(query: str) -> list[tuple[str, dict[str, str]]]:
    """Each metric of a query, without Ray's prefix, and its matchers."""
    return [
        (name.removeprefix("ray_"), dict(re.findall(r'(\w+)=~?"([^"]*)"', matchers)))
        for name, matchers in SELECTOR.findall(query)
    ]


def test_it_is_what_grafana_imports() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= DASHBOARD.keys()
    assert DASHBOARD["schemaVersion"] >= 36  # data sources are objects
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)  # no panel covers another
    assert max(x for x, _ in cells) < 24
    for panel in PANELS:
        assert {"type", "title", "datasource", "targets", "fieldConfig"} <= panel.keys()
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS)))
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert used - {"__rate_interval"} <= variables


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_metrics_and_labels_that_the_code_has(query: str) -> None:
    assert query.count("(") == query.count(")")
    found = selectors(query)
    assert found
    for name, matchers in found:
        assert set(matchers) <= set(METRICS[name].labels)
        assert matchers["output"] == "$output"
        for label, value in matchers.items():
            assert label == "output" or value in METRICS[name].values[label]
        if name.endswith("_total"):
            assert f"rate(ray_{name}" in query  # a counter by itself shows nothing
    grouped = {word for labels in re.findall(r"(?:by|ignoring) \((\w+)\)", query) for word in labels.split()}
    assert grouped <= {label for name, _ in found for label in METRICS[name].labels}


def test_every_metric_is_on_it() -> None:
    assert {name for query in QUERIES for name, _ in selectors(query)} == METRICS.keys()
