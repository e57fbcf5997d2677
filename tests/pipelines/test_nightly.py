"""The whole job on real photographs, small: what it leaves, and that a second start finds it done."""

import hashlib
import io
import itertools
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import batch_nst
from batch_nst.data.dataset.snapshot import latest_snapshot
from batch_nst.data.models import registry
from batch_nst.data.models.gate import publish
from batch_nst.data.models.registry import training_version
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.model_io import stylize_image
from batch_nst.errors import GateError, RecipeError
from batch_nst.figures import as_json
from batch_nst.pipelines import commands, nightly
from batch_nst.pipelines.apply.run import apply
from batch_nst.pipelines.reports.html import exact
from batch_nst.recipe import Publish
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


def output(home) -> Store:
    return Store(str(home / "out"))


def test_a_night_leaves_dataset_model_graph_preview_report_and_pointer(home, night):
    version = night["version"]
    assert night["dataset"]["ok"] == 6
    assert night["dataset"]["held_out"] == 2
    names = set(output(home).list())
    parts = (registry.WEIGHTS, registry.GRAPH, registry.CARD, registry.PREVIEW, registry.README)
    assert {registry.model_object(version, part) for part in parts} <= names
    assert {"dataset/dataset.json", "dataset/plan/000001.parquet", "dataset/snapshots/000001.json"} <= names
    assert {f"runs/{night['run']}/summary.json", f"runs/{night['run']}/report.html"} <= names
    pointer = json.loads(output(home).read("models/CURRENT"))
    assert pointer["version"] == version
    assert pointer["previous"] is None


def test_the_card_says_what_the_files_are(home, night):
    card = registry.require_card(output(home), night["version"])
    for part in (registry.WEIGHTS, registry.GRAPH, registry.PREVIEW, registry.README):
        data = output(home).read(registry.model_object(night["version"], part))
        assert card["digests"][part] == hashlib.sha256(data).hexdigest()
    assert card["digests"]["style"] == hashlib.sha256((home / "style.png").read_bytes()).hexdigest()
    assert card["training"]["history"][-1]["step"] == 6
    assert card["recipe"]["train"]["steps"] == 6
    assert card["evaluation"]["photos"] == 2


def test_the_folder_of_a_model_tells_of_itself(home, night):
    store = output(home)
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


def test_the_curve_begins_at_the_photo_and_never_rises(home, night):
    evaluation = registry.require_card(output(home), night["version"])["evaluation"]
    curve = evaluation["curve"]
    assert len(curve) == 6
    assert curve[0] == pytest.approx(evaluation["photo"]["total"], rel=1e-4)
    assert all(later <= earlier for earlier, later in itertools.pairwise(curve))
    assert evaluation["photo"]["content"] == 0
    assert evaluation["optimised"]["distance"] == 0
    assert evaluation["model"]["distance"] > 0
    assert evaluation["optimised"]["ssim"] == 1
    assert evaluation["model"]["ssim"] < 1


def test_at_twice_the_size_the_model_is_compared_with_a_shorter_optimisation(home, night):
    larger = registry.require_card(output(home), night["version"])["evaluation"]["larger"]
    # Two images of one photo are held out, and it has one centre.
    assert (larger["size"], larger["photos"], larger["left_out"]) == (64, 1, {})
    assert len(larger["curve"]) == 2
    assert larger["curve"][0] == pytest.approx(larger["photo"]["total"], rel=1e-4)
    assert larger["optimised"]["distance"] == 0
    assert larger["model"]["distance"] > 0
    assert larger["model"].keys() == larger["optimised"].keys() == larger["photo"].keys()
    # What an iteration made, stored in whole grey levels.
    assert larger["optimised"]["total"] == pytest.approx(larger["curve"][1], rel=0.02)
    report = output(home).read(f"runs/{night['run']}/report.html").decode()
    assert "at 64 pixels" in " ".join(report.split())


def test_the_usual_optimiser_begins_at_the_same_photo_and_goes_as_far(home, night):
    evaluation = registry.require_card(output(home), night["version"])["evaluation"]
    baseline = evaluation["baseline"]
    assert baseline["photos"] == 1
    assert len(baseline["lbfgs"]["curve"]) == len(baseline["engine"]["curve"]) == 6
    assert baseline["lbfgs"]["curve"][0] == pytest.approx(baseline["engine"]["curve"][0], rel=1e-4)
    assert baseline["lbfgs"]["curve"] != baseline["engine"]["curve"]
    found = [pytest.approx(total) for total in evaluation["objectives"].values()]
    assert baseline["model"]["total"] in found


def test_the_commands_line_tells_the_figures_without_those_of_each_photo(home, night):
    evaluation = registry.require_card(output(home), night["version"])["evaluation"]
    assert night["larger"]["verdict"] == evaluation["larger"]["verdict"]
    assert list(night["curve"]) == ["0", "1", "2", "5"]
    assert "objectives" not in night


def test_a_second_night_finds_nothing_new_and_writes_nothing(home, night):
    before = objects(output(home))
    again = nightly.nightly(load_recipe(home / "recipe.yaml"))
    assert objects(output(home)) == before
    assert (again["nothing_new"], again["version"], again["published"]) == (True, night["version"], True)
    counted = ("photos", "found", "ok", "held_out", "rejected", "pending", "snapshot", "digest")
    assert {name: again["dataset"][name] for name in counted} == {
        name: night["dataset"][name] for name in counted
    }


def test_times_are_told_by_the_run_and_not_by_the_model(home, night):
    summary = json.loads(output(home).read(f"runs/{night['run']}/summary.json"))
    for figures in (night, summary):
        assert [row["size"] for row in figures["speed"]["sizes"]] == [32, 48]
        timed = (figures, figures["larger"], figures["baseline"]["lbfgs"], figures["baseline"]["engine"])
        assert all("seconds_per_image" in each for each in timed)
    report = " ".join(output(home).read(f"runs/{night['run']}/report.html").decode().split())
    assert re.search(r"that of the optimisation: [^<]+ an image<", report)
    assert "Table 1 of Johnson" in report
    card = output(home).read(registry.model_object(night["version"], registry.CARD)).decode()
    for name in ("seconds_per_image", "speed"):
        assert name not in card


def test_a_graph_that_is_damaged_or_gone_is_written_again_and_no_other(home, night, capsys):
    store, recipe = output(home), load_recipe(home / "recipe.yaml")
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


def test_a_plan_estimates_from_what_images_took_and_guesses_nothing_before(home, night):
    recipe = load_recipe(home / "recipe.yaml", ["generate.crops=3"])
    took = night["dataset"]["device_seconds"] / night["dataset"]["made"]
    planned = as_json(commands.plan(recipe))
    assert planned["to_do"] == 4
    assert planned["device_hours"] == pytest.approx(4 * took / 3600)
    elsewhere = load_recipe(home / "recipe.yaml", [f"output={home / 'nowhere'}"])
    assert commands.plan(elsewhere).costs.device_hours is None
    assert not (home / "nowhere").exists()


def test_the_loaded_model_is_the_one_that_was_written(home, night):
    photo = np.asarray(Image.open(home / "photos" / "chelsea.png").convert("RGB"))
    by_output = batch_nst.load_model(str(home / "out"), precision="fp32")
    by_version = batch_nst.load_model(str(home / "out" / "models" / night["version"]), precision="fp32")
    assert (by_output(photo) == by_version(photo)).all()
    exact = stylize_image(by_output.net, torch.tensor(photo)).numpy()
    assert np.abs(by_output(photo).astype(int) - exact).max() <= 1
    assert by_output(photo).shape == photo.shape


def test_a_place_without_a_model_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"models/CURRENT"):
        batch_nst.load_model(str(tmp_path))


def test_one_picture_is_painted_into_a_file(home, night, tmp_path):
    target = tmp_path / "painted.png"
    source = home / "photos" / "coffee.png"
    assert apply(str(home / "out"), str(source), str(target), precision="fp32").ok == 1
    photo = np.asarray(Image.open(source).convert("RGB"))
    painted = batch_nst.load_model(str(home / "out"), precision="fp32")(photo)
    assert np.abs(np.asarray(Image.open(target)) - painted.astype(int)).max() <= 1


def test_the_targets_of_one_and_of_many_pictures_are_not_mixed_up(home, night):
    with pytest.raises(RecipeError, match="OUT"):
        apply(str(home / "out"), str(home / "photos"), "painted.png")
    with pytest.raises(RecipeError, match="OUT"):
        apply(str(home / "out"), str(home / "photos" / "coffee.png"), "folder")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_a_wrong_call(home, night, tmp_path):
    with pytest.raises(RecipeError, match=r"device: cuda.*allowed: auto, cpu"):
        apply(str(home / "out"), str(home / "photos" / "coffee.png"), str(tmp_path / "c.png"), device="cuda")


def test_a_model_is_named_by_what_decides_it_and_by_nothing_else(home, night):
    snapshot = latest_snapshot(output(home))

    def name(*overrides: str) -> str:
        return training_version(load_recipe(home / "recipe.yaml", overrides), snapshot)

    assert name() == night["version"]
    for same in (
        "train.workers=[1, 2]",
        "train.checkpoint_steps=1",
        "train.device=cpu",
        "publish.margin=0.5",
    ):
        assert name(same) == night["version"]
    for other in (
        "train.steps=7",
        "train.seed=1",
        "train.feature_weight=0.1",
        "train.init=model:x",
        "loss.style_weight=51.0",
    ):
        assert name(other) != night["version"]


def test_a_training_leaves_a_page_a_panel_and_curves_for_tensorboard(home, night):
    folder = registry.model_object(night["version"], "training")
    names = [name.removeprefix(f"{folder}/") for name in output(home).list(folder)]
    assert names == [
        *(f"{step:06}.jpg" for step in (1, 2, 3, 4, 6)),  # parts of 6 steps
        *(f"events.out.tfevents.{step:010}.batch_nst" for step in (3, 6)),
        *("index.html", "optimised.jpg", "photo.jpg"),
    ]
    page = output(home).read(f"{folder}/index.html").decode()
    report = output(home).read(f"runs/{night['run']}/report.html").decode()
    for text in (page, report):
        shown = re.findall(r'alt="Panel: ([^"]*)"', text)
        assert shown == ["photo", "optimised", *(f"step {step}" for step in (1, 2, 3, 4, 6))]
    assert "step 6 of 6" in page
    shares = ("busy", "waiting", "writing")
    assert set(night["pace"]) == {"steps_per_second", "images_per_second", *shares, "start_up_seconds"}
    assert sum(night["pace"][share] for share in shares) == pytest.approx(1)
    summary = json.loads(output(home).read(f"runs/{night['run']}/summary.json"))
    assert summary["pace"] == night["pace"]


def test_training_starts_from_no_model_of_another_architecture(home, night):
    uri = home / "out"
    with pytest.raises(RecipeError) as refusal:
        commands.train(load_recipe(home / "recipe.yaml", [f"train.init=model:{uri}", "train.width=8"]))
    assert str(refusal.value) == (
        f"train.init: {uri}: the model's architecture is {{'name': 'johnson', 'width': 4}}; allowed: "
        "{'name': 'johnson', 'width': 8}, as the recipe's"
    )
    with pytest.raises(RecipeError, match=r"train\.init: model .*/nowhere: found neither"):
        commands.train(load_recipe(home / "recipe.yaml", ["train.init=model:nowhere"]))


def test_training_under_another_objective_than_the_dataset_is_refused(home, night):
    with pytest.raises(RecipeError, match=r"loss\.style_weight.*50\.0.*51\.0.*choose another output"):
        commands.train(load_recipe(home / "recipe.yaml", ["loss.style_weight=51.0"]))


def test_the_gate_lets_only_the_better_through(home, night):
    store = output(home)
    card = registry.require_card(store, night["version"])
    objective = card["evaluation"]["model"]["total"]

    def candidate(name: str, total: float) -> str:
        evaluation = card["evaluation"]
        ratio = total / evaluation["model"]["total"]
        worse = {
            **evaluation,
            "model": {**evaluation["model"], "total": total},
            "objectives": {photo: value * ratio for photo, value in evaluation["objectives"].items()},
        }
        registry.write_card(store, name, {**card, "version": name, "evaluation": worse})
        return name

    with pytest.raises(GateError, match="not published"):
        publish(candidate("worse", objective * 1.01), Publish(), store, 99)
    with pytest.raises(GateError, match=r"publish\.margin"):
        publish(candidate("close", objective * 0.95), Publish(margin=0.1), store, 99)
    with pytest.raises(GateError, match="max_objective"):
        publish(candidate("good", objective * 0.5), Publish(max_objective=objective * 0.4), store, 99)
    with pytest.raises(GateError, match="nan"):
        publish(candidate("broken", float("nan")), Publish(), store, 99)
    assert registry.current(store)["version"] == night["version"]
    figures = publish("good", Publish(margin=0.1), store, 99)
    assert (figures.version, figures.previous) == ("good", night["version"])
    assert figures.compared.objective == pytest.approx(objective * 0.5)
    assert registry.current(store)["version"] == "good"
    registry.point(store, night["version"], card["digests"], 99)


def test_the_report_of_a_first_night_tells_what_was_new_and_what_it_cost(home, night, browser):
    assert night["report"] == output(home).join(f"runs/{night['run']}/report.html")
    summary = json.loads(output(home).read(f"runs/{night['run']}/summary.json"))
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
