"""What the report of a night tells beside its model: its cost, the published model, earlier nights."""

import json
from dataclasses import fields
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from batch_nst.data.images.codec import decode_stored, encode
from batch_nst.data.models import registry
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.model_io import load_net, model_bytes, stylize_image
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.pipelines.cost.requests import Requests, Traffic, generate_requests
from batch_nst.pipelines.generate.run import GenerateFigures
from batch_nst.pipelines.reports.gather import beside_published, cost_of, earlier_nights
from batch_nst.pipelines.reports.night import SHOWN, DeviceHours, EarlierNight, Triple

OLD = "000001-aaaaaaaaaaaa"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


@pytest.fixture
def net(store: Store) -> TransformerNet:
    """Of the published model."""
    torch.manual_seed(3)
    weights = model_bytes(TransformerNet(4))
    digest = registry.write_part(store, OLD, registry.WEIGHTS, weights)
    card = {
        "version": OLD,
        "architecture": {"name": "johnson", "width": 4},
        "digests": {registry.WEIGHTS: digest},
        "evaluation": {"objectives": {"00": 123.0}},
    }
    registry.write_card(store, OLD, card)
    return load_net(weights, card)


def triples(count: int) -> list[Triple]:
    noise = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return [
        Triple(f"{number}.jpg", encode(photo, "webp"), b"", b"", {"model": {"total": 9.0}}, id=f"{number:02}")
        for number, photo in enumerate(noise)
    ]


def test_the_published_model_paints_the_photos_that_are_shown(store: Store, net: TransformerNet) -> None:
    given = triples(SHOWN + 2)
    shown = beside_published(given, store, OLD)
    assert [triple.name for triple in shown] == [triple.name for triple in given[:SHOWN]]
    for triple in shown:
        wanted = stylize_image(net, torch.from_numpy(decode_stored(triple.photo))).numpy()
        assert triple.published is not None
        assert np.array_equal(decode_stored(triple.published), wanted)
    # Its card knows the objective of one.
    assert [triple.published_objective for triple in shown] == [123.0, *[None] * (SHOWN - 1)]
    assert all(triple.losses["model"] == {"total": 9.0} for triple in shown)


def test_a_published_model_that_is_damaged_is_told_and_not_shown(
    store: Store, net: TransformerNet, capsys: pytest.CaptureFixture[str]
) -> None:
    store.replace(registry.model_object(OLD, registry.WEIGHTS), b"rust")
    given = triples(2)
    assert beside_published(given, store, OLD) == given
    told = capsys.readouterr().err
    assert told.startswith(f"published {OLD}: model.safetensors: ")
    assert told.endswith("; the report shows none of its pictures\n")


def test_earlier_nights_are_linked_and_told_by_their_summaries(store: Store) -> None:
    def night(run: str, summary: object = None) -> None:
        store.replace(f"runs/{run}/report.html", b"a page")
        if summary is not None:
            store.replace(f"runs/{run}/summary.json", json.dumps(summary).encode())

    night("20261123T220000Z-000001-nightly", {"published": True, "model": {"total": 50.5}})
    refused = {"published": False, "refused": {"why": "worse"}, "error": "worse", "model": {"total": 60.0}}
    night("20261124T220000Z-000004-nightly", refused)
    night("20261124T223000Z-000005-nightly", {"error": "a bug: KeyError"})
    night("20261124T230000Z-000006-evaluate", {})  # no night
    night("20261124T230500Z-000007-nightly")  # killed after the report
    store.replace("runs/20261125T010000Z-000008-nightly/summary.json", b"{}")  # stopped before it
    night("20261125T220000Z-000009-nightly")  # this one
    night("20261126T220000Z-000010-nightly")
    for name in ('"><script>alert(1)</script>', "javascript:alert(1)", "20261125-nightly"):
        store.replace(f"runs/{name}/report.html", b"nothing of ours")

    found = earlier_nights(store, "20261125T220000Z-000009-nightly")
    assert found == [
        EarlierNight(
            "../20261124T230500Z-000007-nightly/report.html", datetime(2026, 11, 24, 23, 5), "cut off"
        ),
        EarlierNight(
            "../20261124T223000Z-000005-nightly/report.html", datetime(2026, 11, 24, 22, 30), "failed"
        ),
        EarlierNight(
            "../20261124T220000Z-000004-nightly/report.html", datetime(2026, 11, 24, 22), "refused", 60.0
        ),
        EarlierNight(
            "../20261123T220000Z-000001-nightly/report.html", datetime(2026, 11, 23, 22), "published", 50.5
        ),
    ]
    here = Path(store.join("runs/20261125T220000Z-000009-nightly"))
    assert all((here / each.link).resolve().is_file() for each in found)


def test_only_the_last_fourteen_nights_are_linked(store: Store) -> None:
    for day in range(1, 31):
        store.replace(f"runs/202611{day:02}T220000Z-{day:06}-nightly/report.html", b"")
    found = earlier_nights(store, "20261201T220000Z-000031-nightly")
    assert [each.started.day for each in found] == list(range(30, 16, -1))


def figures_of(**known: float) -> GenerateFigures:
    """Figures of `generate`, of which only some are read."""
    return GenerateFigures(**{each.name: known.get(each.name) for each in fields(GenerateFigures)})


def test_the_cost_of_a_night() -> None:
    made = figures_of(device_seconds=7200.0, devices=2, seconds=3700.0, bytes_read=1000, bytes_written=2000)
    seconds = {"pairs": 3700.0, "training": 900.0, "graph": 3.0, "scoring": 40.0}
    traffic = Traffic(photo_reads=19, units=3, listed=19)
    cost = cost_of(made, traffic, seconds, workers=4)
    assert cost.device_hours == DeviceHours(pairs=2.0, training=1.0, scoring=80 / 3600)
    assert cost.requests == generate_requests(traffic, 2, 3700.0)
    assert (cost.bytes_read, cost.bytes_written, cost.step_seconds) == (1000, 2000, seconds)


def test_where_all_lies_on_a_disk_there_are_no_requests() -> None:
    made = figures_of(device_seconds=0.0, devices=0, seconds=1.0, bytes_read=0, bytes_written=0)
    cost = cost_of(made, Traffic(), {"training": 0.0, "scoring": 0.0}, workers=1)
    assert cost.requests == Requests(reads=0, writes=0, lists=0)
