"""Nights that are killed, and nights whose nodes come and go, end with the bytes of a clean one."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from batch_nst.data.dataset.snapshot import SNAPSHOTS, latest_snapshot
from batch_nst.data.dataset.units import DATA
from batch_nst.data.models import registry
from batch_nst.data.models.gate import UNREPORTED
from batch_nst.data.storage.store import Store
from tests.support.autoscaling import busiest, from_zero
from tests.support.calls import Call
from tests.support.fake_night import objects
from tests.support.places import SAMPLES
from tests.support.ray_nodes import crash
from tests.support.sessions import finish, resumed_from, start, strike

STEPS = 12
RECIPE = f"""
output: out
style: {{image: style.png, size: 32}}
loss: {{content_layers: {{relu1_2: 1.0}}, style_layers: {{relu1_1: 1.0, relu2_1: 1.0}}}}
generate:
  {{input: photos, pairs: 0.5, image_size: 40, iterations: 200, unit_images: 1, min_side: 16,
   precision: fp32}}
train: {{steps: {STEPS}, batch_size: 4, width: 8, crop_size: 32, checkpoint_steps: 3, precision: fp32}}
evaluate: {{holdout: 0.0, holdout_photos: [chelsea.png], iterations: 5, sizes: [], larger_photos: 0}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A recipe, four photos for pairs, two that stay without, one that is held out, and a painting."""
    (tmp_path / "photos").mkdir()
    for name in ("astronaut", "chelsea", "coffee", "windmill", "moose", "panda", "perch"):
        with Image.open(SAMPLES / "content" / f"{name}.jpg") as photo:
            photo.resize((48, 48)).save(tmp_path / "photos" / f"{name}.png")
    with Image.open(SAMPLES / "styles" / "van_gogh_auvers.jpg") as painting:
        painting.resize((48, 48)).save(tmp_path / "style.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_night_that_is_killed_in_its_steps_publishes_the_bytes_of_a_clean_one(
    call: Call, home: Path
) -> None:
    clean = finish(start(home, "nightly", "output=clean"))
    version = clean["version"]
    out, store = home / "out", Store(str(home / "out"))
    models_there = out / "models" / version

    def committed() -> int:
        return len(list((out / DATA).rglob("*.parquet")))

    moments: dict[str, Callable[[], object]] = {
        "generate": committed,
        "seal": (out / SNAPSHOTS / "000001.json").exists,
        # In an epoch's middle: four pairs, of which three steps have taken six, and two photos without pairs.
        "train": lambda: resumed_from(home),
        "export, evaluate": (models_there / registry.GRAPH).exists,
        "publish": (out / registry.CURRENT).exists,
    }
    left = {}
    for step, ripe in moments.items():
        assert not ripe(), step
        strike(start(home, "nightly"), ripe)
        left[step] = committed()
        if step == "train":
            assert registry.read_card(store, version) is None
        if step == "export, evaluate":
            assert registry.current(store) is None
    assert [*left.values()] == sorted(left.values())
    assert 1 <= left["generate"] < 7
    owe_a_report(home, call, version)
    assert committed() == 7
    assert_published_as_by_a_clean_night(home, version, clean["dataset"]["digest"])


def assert_published_as_by_a_clean_night(home: Path, version: str, digest: str) -> None:
    """Pairs, model, graph, card and figures of `out` are those of `clean`."""
    store = Store(str(home / "out"))
    snapshots = [latest_snapshot(Store(str(home / name))) for name in ("out", "clean")]
    assert snapshots[0].digest == snapshots[1].digest == digest
    pointers = [registry.current(Store(str(home / name))) for name in ("out", "clean")]
    assert pointers[0]["version"] == version
    assert pointers[0]["digests"] == pointers[1]["digests"]
    for name in (registry.WEIGHTS, registry.GRAPH, registry.PREVIEW, registry.README):
        part = registry.model_object(version, name)
        assert store.read(part) == Store(str(home / "clean")).read(part), name
    cards = [registry.require_card(Store(str(home / name)), version) for name in ("out", "clean")]
    for key in ("digests", "training", "evaluation"):
        assert cards[0][key] == cards[1][key], key


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_night_on_nodes_that_come_and_go_publishes_the_bytes_of_a_clean_one(
    home: Path, free_ports: Callable[[int], list[int]]
) -> None:
    """Three nodes at most, none of which runs yet. In each step the busiest is lost."""
    out = home / "out"
    growing = ("generate.actors=[1, 3]", "train.workers=[1, 2]")
    with from_zero(free_ports(1)[0], most=3, cpu={"CPU": 1}) as address:
        clean = finish(start(home, "nightly", "output=clean", *growing, address=address))
        moments: dict[str, Callable[[], object]] = {
            "generate": lambda: list((out / DATA).rglob("*.parquet")),
            "train": lambda: resumed_from(home),
            "evaluate": lambda: (out / "models" / clean["version"] / registry.GRAPH).exists(),
        }
        night, lost = start(home, "nightly", *growing, address=address), set()
        for ripe in moments.values():
            while not ripe():
                assert night.poll() is None, night.communicate()[1]
                time.sleep(0.005)
            node = busiest(address)
            crash(node)
            lost.add(node.pid)
        figures = finish(night)
    assert len(lost) == len(moments)
    assert (figures["published"], figures["version"]) == (True, clean["version"])
    assert_published_as_by_a_clean_night(home, figures["version"], clean["dataset"]["digest"])


def owe_a_report(home: Path, call: Call, version: str) -> None:
    """Published without a report: the next start writes it, and only then there is nothing left to do."""
    out, store = home / "out", Store(str(home / "out"))
    owed = out / registry.model_object(version, UNREPORTED)
    assert owed.exists()
    assert not list(out.glob("runs/*/report.html"))
    before = objects(store)
    again = finish(start(home, "nightly"))  # scored again, so on as many threads: bits depend on them
    assert (again["version"], again["published"], again["previous"]) == (version, True, None)
    assert list(out.glob("runs/*/report.html")) == [Path(again["report"])]
    after = objects(store)
    run = f"runs/{again['run']}"
    written = {f"{run}/{name}" for name in ("blind.html", "report.html", "summary.json")}
    assert after.keys() - before.keys() == written
    assert before.keys() - after.keys() == {registry.model_object(version, UNREPORTED)}
    assert [name for name in after.keys() & before.keys() if after[name] != before[name]] == []
    again = call("nightly", home / "recipe.yaml").figures
    assert objects(store) == after
    assert (again["nothing_new"], again["version"], again["published"]) == (True, version, True)
