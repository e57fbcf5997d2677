"""The whole job on real photographs, small: what it leaves, and that a second start finds it done."""

import hashlib
import io
import itertools
import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from batch_nst.data.models import registry
from batch_nst.data.storage.store import Store
from batch_nst.errors import GateError, RecipeError
from batch_nst.figures import as_json
from batch_nst.pipelines import commands, nightly
from batch_nst.pipelines.apply.run import apply
from batch_nst.pipelines.reports.html import exact
from batch_nst.recipe_file import load_recipe
from tests.support.fake_night import objects
from tests.support.places import SAMPLES

pytestmark = pytest.mark.slow

RECIPE = """
output: out
style: {image: style.png, size: 32, license: public domain}
loss:
  content_layers: {relu1_2: 1.0}
  style_layers: {relu1_1: 1.0, relu2_1: 1.0}
  style_weight: 50.0
generate:
  {input: photos, image_size: 32, crops: 2, iterations: 4, unit_images: 4, min_side: 16, precision: fp32}
train: {steps: 6, batch_size: 4, width: 4, crop_size: 32, checkpoint_steps: 3, precision: fp32}
evaluate:
  {holdout: 0.0, holdout_photos: [chelsea.png], iterations: 5, baseline_photos: 1, sizes: [32, 48]}
publish: {license: mit}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, ray_cluster):
    """A recipe, four photographs and a painting, all small."""
    folder = tmp_path_factory.mktemp("night")
    (folder / "photos").mkdir()
    for name in ("astronaut", "chelsea", "coffee", "windmill"):
        with Image.open(SAMPLES / "content" / f"{name}.jpg") as photo:
            # The held-out one is large enough for twice the size of the pairs.
            size = (96, 80) if name == "chelsea" else (48, 40)
            photo.resize(size).save(folder / "photos" / f"{name}.png")
    with Image.open(SAMPLES / "styles" / "van_gogh_auvers.jpg") as painting:
        painting.resize((48, 36)).save(folder / "style.png")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def night(home):
    """The figures of a first night."""
    return nightly.nightly(load_recipe(home / "recipe.yaml"))


@pytest.fixture(scope="module")
def store(home, night):
    """What it has left."""
    return Store(str(home / "out"))


@pytest.fixture
def card(store, night):
    """Of its model, read anew."""
    return registry.require_card(store, night["version"])


@pytest.fixture
def summary(store, night):
    """Of its run."""
    return json.loads(store.read(f"runs/{night['run']}/summary.json"))


@pytest.fixture
def report(store, night):
    """The page of it."""
    return store.read(f"runs/{night['run']}/report.html").decode()


def test_a_night_leaves_dataset_model_graph_preview_report_and_pointer(store, night):
    version = night["version"]
    assert night["dataset"]["ok"] == 6
    assert night["dataset"]["held_out"] == 2
    names = set(store.list())
    parts = (registry.WEIGHTS, registry.GRAPH, registry.CARD, registry.PREVIEW, registry.README)
    assert {registry.model_object(version, part) for part in parts} <= names
    assert {"dataset/dataset.json", "dataset/plan/000001.parquet", "dataset/snapshots/000001.json"} <= names
    assert {f"runs/{night['run']}/summary.json", f"runs/{night['run']}/report.html"} <= names
    pointer = json.loads(store.read("models/CURRENT"))
    assert pointer["version"] == version
    assert pointer["previous"] is None


def test_the_card_says_what_the_files_are(home, store, card, night):
    for part in (registry.WEIGHTS, registry.GRAPH, registry.PREVIEW, registry.README):
        data = store.read(registry.model_object(night["version"], part))
        assert card["digests"][part] == hashlib.sha256(data).hexdigest()
    assert card["digests"]["style"] == hashlib.sha256((home / "style.png").read_bytes()).hexdigest()
    assert card["training"]["history"][-1]["step"] == 6
    assert card["recipe"]["train"]["steps"] == 6
    assert card["evaluation"]["photos"] == 2


def test_the_folder_of_a_model_tells_of_itself(store, night):
    text = store.read(registry.model_object(night["version"], registry.README)).decode()
    for told in (
        f"Version `{night['version']}`",
        "- style image: public domain, as the recipe says (`style.license`)",
        "- weights (`model.safetensors`, `model.onnx`): mit, as the recipe says (`publish.license`)",
        f"| **the model** | {night['model']['total']:,.0f} | ",
        f"At 64 px, 1 photo: {night['larger']['verdict']}; `X` is the photo after 1 iteration here.",
    ):
        assert told in text
    assert "chelsea" not in text
    data = store.read(registry.model_object(night["version"], registry.PREVIEW))
    with Image.open(io.BytesIO(data)) as sheet:
        # A painting of 4:3, twice as high as each of two held-out images.
        assert (sheet.format, sheet.size) == ("JPEG", (3 * 256 + 2 * 4, 512 + 2 * 4 + 2 * 256))


def test_the_curve_begins_at_the_photo_and_never_rises(card):
    evaluation = card["evaluation"]
    curve = evaluation["curve"]
    assert len(curve) == 6
    assert curve[0] == pytest.approx(evaluation["photo"]["total"], rel=1e-4)
    assert all(later <= earlier for earlier, later in itertools.pairwise(curve))
    assert evaluation["photo"]["content"] == 0
    assert evaluation["optimised"]["distance"] == 0
    assert evaluation["model"]["distance"] > 0
    assert evaluation["optimised"]["ssim"] == 1
    assert evaluation["model"]["ssim"] < 1


def test_at_twice_the_size_the_model_is_compared_with_a_shorter_optimisation(card, report):
    larger = card["evaluation"]["larger"]
    # Two images of one photo are held out, and it has one centre.
    assert (larger["size"], larger["photos"], larger["left_out"]) == (64, 1, {})
    assert len(larger["curve"]) == 2
    assert larger["curve"][0] == pytest.approx(larger["photo"]["total"], rel=1e-4)
    assert larger["optimised"]["distance"] == 0
    assert larger["model"]["distance"] > 0
    assert larger["model"].keys() == larger["optimised"].keys() == larger["photo"].keys()
    # What an iteration made, stored in whole grey levels.
    assert larger["optimised"]["total"] == pytest.approx(larger["curve"][1], rel=0.02)
    assert "at 64 pixels" in " ".join(report.split())


def test_the_usual_optimiser_begins_at_the_same_photo_and_goes_as_far(card):
    evaluation = card["evaluation"]
    baseline = evaluation["baseline"]
    assert baseline["photos"] == 1
    assert len(baseline["lbfgs"]["curve"]) == len(baseline["engine"]["curve"]) == 6
    assert baseline["lbfgs"]["curve"][0] == pytest.approx(baseline["engine"]["curve"][0], rel=1e-4)
    assert baseline["lbfgs"]["curve"] != baseline["engine"]["curve"]
    found = [pytest.approx(total) for total in evaluation["objectives"].values()]
    assert baseline["model"]["total"] in found


def test_the_commands_line_tells_the_figures_without_those_of_each_photo(card, night):
    evaluation = card["evaluation"]
    assert night["larger"]["verdict"] == evaluation["larger"]["verdict"]
    assert list(night["curve"]) == ["0", "1", "2", "5"]
    assert "objectives" not in night


def test_a_second_night_finds_nothing_new_and_writes_nothing(home, store, night):
    before = objects(store)
    again = nightly.nightly(load_recipe(home / "recipe.yaml"))
    assert objects(store) == before
    assert (again["nothing_new"], again["version"], again["published"]) == (True, night["version"], True)
    counted = ("photos", "found", "ok", "held_out", "rejected", "pending", "snapshot", "digest")
    assert {name: again["dataset"][name] for name in counted} == {
        name: night["dataset"][name] for name in counted
    }


def test_times_are_told_by_the_run_and_not_by_the_model(store, night, summary, report):
    for figures in (night, summary):
        assert [row["size"] for row in figures["speed"]["sizes"]] == [32, 48]
        timed = (figures, figures["larger"], figures["baseline"]["lbfgs"], figures["baseline"]["engine"])
        assert all("seconds_per_image" in each for each in timed)
    report = " ".join(report.split())
    assert re.search(r"that of the optimisation: [^<]+ an image<", report)
    assert "Table 1 of Johnson" in report
    written = store.read(registry.model_object(night["version"], registry.CARD)).decode()
    for name in ("seconds_per_image", "speed"):
        assert name not in written


def test_a_graph_that_is_damaged_or_gone_is_written_again_and_no_other(home, store, night, capsys):
    recipe = load_recipe(home / "recipe.yaml")
    name, card = (registry.model_object(night["version"], part) for part in (registry.GRAPH, registry.CARD))
    whole = {each: store.read(each) for each in (name, card)}
    damaged = whole[name][:-1] + bytes([whole[name][-1] ^ 1])
    for change in (partial(store.replace, name, damaged), partial(store.delete, name)):
        change()
        assert commands.export(recipe)["model"] == store.join(name)
        assert f"{store.join(name)}: is gone, or not what model.json says; it is" in capsys.readouterr().err
        assert {each: store.read(each) for each in whole} == whole
    times = Path(store.join(name)).stat().st_mtime_ns
    commands.export(recipe)
    assert Path(store.join(name)).stat().st_mtime_ns == times
    assert "written again" not in capsys.readouterr().err


def test_a_plan_estimates_from_what_images_took(home, night):
    recipe = load_recipe(home / "recipe.yaml", ["generate.crops=3"])
    took = night["dataset"]["device_seconds"] / night["dataset"]["made"]
    planned = as_json(commands.plan(recipe))
    assert planned["to_do"] == 4
    assert planned["device_hours"] == pytest.approx(4 * took / 3600)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_a_wrong_call(home, night, tmp_path):
    with pytest.raises(RecipeError, match=r"device: cuda.*allowed: auto, cpu"):
        apply(str(home / "out"), str(home / "photos" / "coffee.png"), str(tmp_path / "c.png"), device="cuda")


def test_a_training_leaves_a_page_a_panel_and_curves_for_tensorboard(store, night, summary, report):
    folder = registry.model_object(night["version"], "training")
    names = [name.removeprefix(f"{folder}/") for name in store.list(folder)]
    assert names == [
        *(f"{step:06}.jpg" for step in (1, 2, 3, 4, 6)),  # parts of 6 steps
        *(f"events.out.tfevents.{step:010}.batch_nst" for step in (3, 6)),
        *("index.html", "optimised.jpg", "photo.jpg"),
    ]
    page = store.read(f"{folder}/index.html").decode()
    for text in (page, report):
        shown = re.findall(r'alt="Panel: ([^"]*)"', text)
        assert shown == ["photo", "optimised", *(f"step {step}" for step in (1, 2, 3, 4, 6))]
    assert "step 6 of 6" in page
    shares = ("busy", "waiting", "writing")
    assert set(night["pace"]) == {"steps_per_second", "images_per_second", *shares, "start_up_seconds"}
    assert sum(night["pace"][share] for share in shares) == pytest.approx(1)
    assert summary["pace"] == night["pace"]


def test_training_starts_from_no_model_of_another_architecture(home, night):
    uri = home / "out"
    with pytest.raises(RecipeError) as refusal:
        commands.train(load_recipe(home / "recipe.yaml", [f"train.init=model:{uri}", "train.width=8"]))
    assert str(refusal.value) == (
        f"train.init: {uri}: the model's architecture is {{'name': 'skip', 'width': 4}}; allowed: "
        "{'name': 'skip', 'width': 8}, as the recipe's"
    )
    with pytest.raises(RecipeError, match=r"train\.init: model .*/nowhere: found neither"):
        commands.train(load_recipe(home / "recipe.yaml", ["train.init=model:nowhere"]))


def test_the_report_of_a_first_night_tells_what_was_new_and_what_it_cost(store, night, summary, browser):
    assert night["report"] == store.join(f"runs/{night['run']}/report.html")
    assert set(summary["cost"]["step_seconds"]) == {"pairs", "training", "graph", "scoring"}
    text = Path(night["report"]).read_text()
    assert "<h1>The first model</h1>" in text
    assert "Old against new" not in text
    check_look(browser.look(Path(night["report"]), 390))


def check_look(look) -> None:
    assert (look.width, look.undecoded, look.troubles, look.requests) == (390, [], [], [])
    assert look.pictures > 0


@pytest.fixture(scope="module")
def refused(home, night):
    """The model at the gate once more, beside a better one that somebody has published meanwhile.

    Returns the recipe, its output, and the figures of the night.
    """
    shutil.copytree(home / "out", home / "refused")
    recipe = load_recipe(home / "recipe.yaml", [f"output={home / 'refused'}", "publish.max_objective=1.0"])
    store, version = Store(recipe.output), night["version"]
    shutil.copytree(home / "refused" / "models" / version, home / "refused" / "models" / "better")
    card = registry.require_card(store, version)
    halved = {photo: objective / 2 for photo, objective in card["evaluation"]["objectives"].items()}
    better = {**card, "version": "better", "evaluation": {**card["evaluation"], "objectives": halved}}
    registry.write_card(store, "better", better)
    registry.point(store, "better", card["digests"], 99)
    with pytest.raises(GateError, match=r"publish\.max_objective allows 1;") as refusal:
        nightly.nightly(recipe)
    return recipe, store, refusal.value.figures


def test_a_refused_night_has_a_report_with_both_models_and_a_link_to_the_first(night, refused, browser):
    figures = refused[2]
    report = Path(figures["report"])
    text = report.read_text()
    assert "<h1>No new model</h1>" in text
    assert "publish.max_objective allows 1.\n" in text
    assert f"than the {exact(figures['compared']['published']['objective'])} of the published model" in text
    assert text.count(': published model"') == 2  # of both held-out images
    links = re.findall(r'<a href="([^"]*)"', text)
    assert f"../{night['run']}/report.html" in links
    assert all((report.parent / link).resolve().is_file() for link in links)
    check_look(browser.look(report, 390))


def test_a_refused_night_tells_the_figures_that_refused_it_and_is_not_judged_again(night, refused):
    recipe, store, figures = refused
    assert (figures["version"], figures["dataset"]["made"]) == (night["version"], 0)
    assert figures["model"]["total"] > 1
    assert registry.current(store)["version"] == "better"
    summary = json.loads(store.read(store.list("runs")[-1]))
    assert summary["model"] == figures["model"]
    assert registry.require_card(store, figures["version"])["refused"] == figures["refused"]
    kept = objects(store)
    again = nightly.nightly(recipe)  # neither trained nor scored again, and no failure
    assert (again["version"], again["refused"]) == (figures["version"], figures["refused"])
    assert objects(store) == kept
