"""Laws of the ablation: an arm is what it is called, all have the same time, and none is run twice."""

import json
import shutil
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from batch_nst.data.dataset.sampler import Batch
from batch_nst.data.images.style import StyleImage, read_style
from batch_nst.data.models.files import read_model
from batch_nst.data.sources.photos import is_held_out, key_hash
from batch_nst.engine.fast_model.model_io import load_net, stylize_image
from batch_nst.engine.fast_model.network import Description
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.pipelines.benchmark.ablation import ablate, shuffled, training_set
from batch_nst.pipelines.benchmark.ablation_arms import ARMS, own_loop
from batch_nst.pipelines.benchmark.ablation_pairs import Pairs
from batch_nst.pipelines.benchmark.ablation_records import (
    Account,
    Metrics,
    Point,
    Run,
    Scale,
    Study,
    Training,
)
from batch_nst.pipelines.benchmark.ablation_report import contact_sheet, tables
from batch_nst.pipelines.objective import Objectives
from batch_nst.pipelines.train.trainer import weights_at
from batch_nst.recipe import Evaluate, Loss, Quality, Style, Train, Vgg, value_at
from tests.support.places import PAINTING, SAMPLES

NAMES = ("chelsea.png", "coffee.png", "panda.png")
SIDE = 32
SCALE = Scale(minutes=4 / 60, size=SIDE, iterations=2, best=3, looks=2)
RUN = ("peers", "together", "together-25", "small")


class Ticks:
    """A clock by which everything that is timed takes a second."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> float:
        self.now += 1
        return float(self.now)


class Home:
    def __init__(self, root: Path) -> None:
        self.root, self.results = root, root / "results.jsonl"
        (root / "photos").mkdir()
        for name in NAMES:
            with Image.open(SAMPLES / "content" / name.replace("png", "jpg")) as photo:
                photo.resize((80, 64)).save(root / "photos" / name)
        with Image.open(PAINTING) as painting:
            painting.resize((60, 48)).save(root / "wave.png")

    def ablate(self, clock: Callable[[], float], scale: Scale = SCALE, **options: Any) -> Study:
        given = {
            "photos": str(self.root / "photos"),
            "styles": [str(self.root / "wave.png")],
            "results": str(self.results),
            "output": str(self.root / "out"),
        }
        return ablate(scale=scale, precision="fp32", clock=clock, **given | options)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("ablation"))


@pytest.fixture(scope="module")
def found(home: Home) -> Study:
    return home.ablate(Ticks(), arms=RUN)


def test_arms_have_equal_time_and_pay_for_their_pairs(found: Study) -> None:
    """Four seconds each; the pairs of two photos, made together, take one."""
    assert (found.photos, found.held_out) == (2, 1)
    told = {(run.arm, run.account): run for run in found.runs}
    # Two photos are the same two, whether 25 are allowed or 100.
    assert [*told] == [
        ("peers", "counted"),
        *(("together", account) for account in ("counted", "free")),
        *(("small", account) for account in ("counted", "free")),
    ]
    for (name, account), run in told.items():
        pairs = name in ("together", "small")
        paid = float(pairs and account == "counted")
        training = run.training
        assert training
        assert (training["steps"], training["skipped"], training["seconds"]) == (4 - paid, 0, 4 - paid)
        assert (run.pairs_seconds, run.charged_seconds) == (float(pairs), paid)
        assert [point["seconds"] for point in run.curve] == ([3, 4] if paid else [2, 4])
        assert training["parameters"] == (469_315 if name == "small" else 1_677_635)
        assert (run.photos, run.left_out, training["precision"]) == (2, 0, "fp32")


def test_marks_are_those_of_the_held_out_photo(found: Study) -> None:
    (references,) = found.references.values()
    assert references["photo"]["content"] == references["X"]["distance"] == 0
    assert references["photo"]["style"] > references["X"]["style"] > 0
    assert references["X"]["ssim"] == pytest.approx(1, abs=1e-12)
    weights = Loss()
    for run in found.runs:
        for point in run.curve:
            total = weights.content_weight * point["content"] + weights.style_weight * point["style"]
            assert point["objective"] == pytest.approx(total, rel=1e-5)
            assert point["distance"] > 0
            assert -1 < point["ssim"] < 1
            assert point["checkerboard"] > 0
    ends = [run.curve[-1]["objective"] for run in found.runs]
    assert len(set(ends)) == len(ends)


def test_the_weights_of_an_arm_are_kept_beside_its_picture(home: Home, found: Study) -> None:
    pairs = next((home.root / "out").glob("wave-*/held_out/*.npz"))
    with np.load(pairs) as kept:
        photos = torch.from_numpy(kept["content"])
    for run in found.runs:
        picture, train = Path(run.picture or ""), ARMS[run.arm].train
        card: Description = {"architecture": {"name": train.network, "width": train.width}, "digests": {}}
        painted = stylize_image(load_net(picture.with_suffix(".safetensors").read_bytes(), card), photos)
        with Image.open(picture) as strip:
            np.testing.assert_allclose(np.concatenate(list(painted), axis=1), np.asarray(strip), atol=1)


def test_what_is_known_is_not_run_again(home: Home, found: Study) -> None:
    """Cut off while the last one was written: that one is run again, on pairs that are kept."""
    clock, lines = Ticks(), home.results.read_text().splitlines()
    home.results.write_text("\n".join([*lines[:-1], lines[-1][:-9]]) + "\n")
    again = home.ablate(clock, arms=RUN)
    assert clock.now == 2 * 4
    assert replace(again, date="") == replace(found, date="")
    written = home.results.read_text().splitlines()
    assert (written[:-2], json.loads(written[-1])) == (lines[:-1], json.loads(lines[-1]))


def test_an_arm_has_pairs_of_its_own_iterations(home: Home, tmp_path: Path) -> None:
    arms, output = ["skip-mixed", "skip-mixed-300x20"], str(tmp_path / "out")
    options = {"arms": arms, "accounts": ["free"], "output": output, "results": str(tmp_path / "results")}
    assert [run.arm for run in home.ablate(Ticks(), **options).runs] == arms
    few, many = (next(tmp_path.glob(f"out/wave-*/{name}/*.npz")) for name in ("train", "train-20"))
    with np.load(few) as after_2, np.load(many) as after_20:
        np.testing.assert_array_equal(after_2["content"], after_20["content"])
        assert (after_20["loss"] < after_2["loss"]).all()
    # Two photos are the same two, and their iterations the same 20.
    equal = home.ablate(Ticks(), replace(SCALE, iterations=20), **options)
    assert [run.arm for run in equal.runs] == arms[:1]


def test_an_arm_begins_with_a_model_of_another_painting(home: Home, tmp_path: Path) -> None:
    arm, zoo = ARMS["skip-mixed-init"], read_model("zoo:great_wave")
    painting = read_style(Style(image=str(home.root / "wave.png"), size=32))
    before = torch.get_num_threads()
    objectives = Objectives.on(painting, Loss(), Vgg(), "cpu", "fp32", 1)
    first = own_loop(arm.train, objectives, before).net.state_dict()
    torch.set_num_threads(before)
    wanted = load_net(zoo.weights, zoo.card).state_dict()
    torch.testing.assert_close(dict(first), dict(wanted), rtol=0, atol=0)
    shutil.copy(home.root / "wave.png", tmp_path / "great_wave.png")
    options = {"output": str(tmp_path / "out"), "results": str(tmp_path / "results")}
    own = home.ablate(Ticks(), arms=["skip-mixed-init"], styles=[str(tmp_path / "great_wave.png")], **options)
    assert own.runs == []


def test_an_arm_whose_pairs_take_all_its_time_is_told_and_not_run(
    home: Home, found: Study, tmp_path: Path
) -> None:
    clock, scale = Ticks(), replace(SCALE, minutes=1 / 60)
    shutil.copytree(home.root / "out", tmp_path / "out")
    options = {"arms": ["together"], "accounts": ["counted"], "output": str(tmp_path / "out")}
    (run,) = home.ablate(clock, scale, **options).runs
    assert (clock.now, run.curve, run.picture) == (0, [], None)
    assert (run.pairs_seconds, run.training) == (1.0, None)


def test_files_for_people(found: Study) -> None:
    names = [Path(file).name for file in found.files]
    assert names == ["ablation.md", "ablation-counted.svg", "ablation-free.svg", "ablation-wave.png"]
    page = Path(found.files[0]).read_text()
    assert page == tables(found)
    assert page.count("### wave, ") == 2
    with Image.open(found.files[3]) as sheet:
        assert sheet.size == (190 + 2 * SIDE + 4, (2 + 5) * (2 * SIDE + 4))


def test_a_contact_sheet_is_twice_the_size_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 3, 3), np.uint8)
    sheet = np.asarray(contact_sheet([("photo", pixels)]))
    assert sheet.shape == (10, 190 + 5 * 10, 3)
    for index in range(5):
        square = sheet[:6, 190 + 10 * index :][:, :6]
        np.testing.assert_array_equal(square, pixels[index].repeat(2, 0).repeat(2, 1))


def metrics(scale: float) -> Metrics:
    return {
        "objective": 8000 * scale,
        "content": 200 * scale,
        "style": 50 * scale,
        "distance": 0.5,
        "ssim": 0.25,
        "checkerboard": 1.5,
    }


X: Metrics = {"objective": 200, "content": 20, "style": 50, "distance": 0, "ssim": 0.25, "checkerboard": 1.5}


def test_a_table_by_hand() -> None:
    def run(arm: str, account: Account, scales: list[float], pairs: float = 0.0) -> Run:
        curve: list[Point] = [{"seconds": 1.0, **metrics(scale)} for scale in scales]
        training = Training(steps=1234, skipped=0, seconds=1.0, parameters=1, precision="fp32", curve=curve)
        return Run("wave", arm, arm.upper(), account, 90, 2, pairs, pairs, training, None)

    page = tables(
        Study(
            scale=Scale(minutes=10.0, size=96, iterations=60, best=300),
            machine={"processor": "P", "threads": 2, "device": "cpu", "torch": "2", "engine": "E"},
            date="2026-01-01",
            photos=90,
            held_out=5,
            references={"wave": {"photo": metrics(10), "X": X}},
            runs=[
                run("peers", "counted", [9, 1]),
                run("both", "counted", [0.6], pairs=90),
                run("many", "counted", [], pairs=900),
                run("both", "free", [0.5], pairs=90),
            ],
            files=[],
        )
    )
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert rows[2] == "| the photo |  |  |  |  | 400 | 100 | 10 | 0.5 | 0.25 | 1.5 |"
    assert rows[3] == "| X |  |  |  |  | 1 | 1 | 1 | 0 | 0.25 | 1.5 |"
    assert rows[4] == "| PEERS | 90 |  |  | 1234 | 40 | 10 | 1 | 0.5 | 0.25 | 1.5 |"
    assert rows[5] == "| BOTH | 90 | 2 | 1.5 | 1234 | 24 | 6 | 0.6 | 0.5 | 0.25 | 1.5 |"
    assert rows[6] == "| MANY | 90 | 2 | 15.0 | 1234 | – | – | – | – | – | – |"
    assert rows[11:] == [
        rows[4],
        "| BOTH | 90 | 2 | 1.5 | 1234 | 20 | 5 | 0.5 | 0.5 | 0.25 | 1.5 |",
    ]


def test_arms_are_what_they_are_called() -> None:
    def weights(name: str, part: float) -> tuple[float, ...]:
        return astuple(weights_at(ARMS[name].train, part))

    steady = {
        **dict.fromkeys(("peers", "perceptual"), (1, 0, 0, 0, 1)),
        "content": (1, 0, 0, 0, 3),
        "pixels": (0, 0, 1, 0, 1),
        "features": (0, 5, 0, 0, 1),
        "whole": (1, 5, 0, 0, 1),
    }
    both = (
        "together",
        "unfiltered",
        "together-25",
        "together-300",
        "muon",
        "half",
        "white",
        "skip",
        "skip-mixed",
        "skip-mixed-init",
        "skip-mixed-20x300",
        "skip-mixed-300x20",
        "mixed",
        "mixed-25",
        "small",
    )
    assert {*steady, *both, "then", "even"} == set(ARMS)
    for name, wanted in steady.items():
        assert {weights(name, part) for part in (0, 0.3, 0.5, 0.8, 1)} == {wanted}
    assert {weights("then", part) for part in (0, 0.3, 0.5)} == {(0, 5, 0, 0, 1)}
    assert {weights("then", part) for part in (0.50001, 0.8, 1)} == {(1, 0, 0, 0, 1)}
    defaults = Train()
    for part in (0, 0.3, 0.5, 0.8, 1):
        assert {weights(name, part) for name in both} == {(1, 5 - 4 * part, 0, 0, 1)}
        assert weights_at(ARMS["even"].train, part) == weights_at(defaults, part)
        assert weights("even", part) == (1, 5 - 4 * part, 0, 0.1, 1)
    photos = {
        "peers": None,
        "perceptual": None,
        "content": None,
        "together-25": 25,
        "together-300": 300,
        "mixed-25": 25,
        "skip-mixed-20x300": 20,
        "skip-mixed-300x20": 300,
    }
    unfiltered = Quality(max_deviation=None, min_change=None)
    for name, arm in ARMS.items():
        assert arm.pairs == (name not in ("peers", "perceptual", "content"))
        assert arm.photos == photos.get(name, 100)
        assert arm.iterations is None or arm.iterations * photos[name] == 100 * Scale().iterations
        assert arm.quality == (unfiltered if name == "unfiltered" else Quality())
        assert arm.baseline == (name == "peers")
        assert arm.alone == ("mixed" in name)
        assert arm.train.init == ("model:zoo:great_wave" if name.endswith("-init") else "random")
        assert (arm.train.optimizer == "muon") == (
            name == "muon" or name.startswith(("half", "white", "skip"))
        )
        settings = arm.train
        network = name.partition("-")[0] if name.startswith(("small", "half", "white", "skip")) else "johnson"
        assert (settings.network, settings.width) == (network, 32)
        whole = name in ("peers", "whole")
        assert (settings.batch_size, settings.crop_size) == ((4, None) if whole else (2, 80))
        assert settings.average == (0 if arm.baseline else defaults.average)
        assert settings.precision == ("fp32" if arm.baseline else "auto")
        rates = [value_at(settings.learning_rate, part) for part in (0, 0.5, 1)]
        assert rates == pytest.approx([1e-3] * 3 if arm.baseline else [1e-3, 5e-4, 0])


def test_the_filter_passes_over_pairs_and_a_pair_without_a_number_is_none() -> None:
    pictures = np.arange(4, dtype=np.uint8)[:, None, None, None]
    losses, changes, seconds = np.array([[9, np.inf, 9, 9], [0.5, 9, 9, 9], [1, 2, 4, 8]], np.float32)
    pairs = Pairs(pictures, pictures, losses, changes, seconds)
    for name, kept, left_out in (("together", [2, 3], 1), ("unfiltered", [0, 2, 3], 0)):
        for account, cost in (("counted", 15), ("free", 0)):
            taught = training_set(ARMS[name], account, pictures, pairs)
            assert taught.content.ravel().tolist() == taught.optimised.ravel().tolist() == kept
            assert (taught.photos, taught.left_out, taught.cost, taught.paid) == (4, left_out, cost, 15)


def test_a_pass_shows_every_photo_once_and_flips_it_with_its_picture() -> None:
    photos = np.arange(6 * 4, dtype=np.uint8).reshape(6, 1, 4, 1)
    stream = shuffled(photos, photos + 100, Train(batch_size=4))
    shown = [next(stream) for _ in range(30)]  # 20 passes
    content, optimised = (np.concatenate(each) for each in zip(*(batch[:2] for batch in shown), strict=True))
    np.testing.assert_array_equal(optimised, content + 100)
    first = content.reshape(20, 6, 4).min(2)
    assert (np.sort(first, axis=1) == photos.reshape(6, 4).min(1)).all()
    assert len({tuple(order) for order in first.tolist()}) > 10
    flipped = content[:, 0, 0, 0] > content[:, 0, -1, 0]
    assert 30 < flipped.sum() < 90


def test_photos_without_pairs_have_their_places_and_are_the_others() -> None:
    pictures = np.arange(9, dtype=np.uint8)[:, None, None, None]
    pairs = Pairs(pictures[:4], pictures[:4] + 100, *np.full((3, 4), 9, np.float32))
    mixed = replace(ARMS["mixed"], photos=4)
    taught = training_set(mixed, "free", pictures, pairs)
    assert taught.alone is not None
    assert taught.alone.ravel().tolist() == [4, 5, 6, 7, 8]
    stream = shuffled(taught.content, taught.optimised, mixed.train, taught.alone)
    shown = [next(stream) for _ in range(20)]
    assert {batch.paired for batch in shown} == {(True, False)}
    content, optimised = (np.stack([batch[kind].ravel() for batch in shown]) for kind in range(2))
    assert (optimised - content).tolist() == [[100, 0]] * 20
    assert (np.sort(content[:, 0].reshape(5, 4)) == np.arange(4)).all()
    assert (np.sort(content[:, 1].reshape(4, 5)) == np.arange(4, 9)).all()
    assert training_set(replace(mixed, photos=100), "free", pictures[:4], pairs).alone is None
    assert training_set(replace(mixed, alone=False), "free", pictures, pairs).alone is None


def test_a_photo_is_cut_where_its_picture_is() -> None:
    photos = np.arange(2 * 40 * 36, dtype=np.int64).reshape(2, 40, 36, 1)
    stream = shuffled(photos, -photos, Train(batch_size=2, crop_size=32))
    corners = set()
    for _ in range(50):
        content, optimised, _ = next(stream)
        assert content.shape == (2, 32, 32, 1)
        np.testing.assert_array_equal(optimised, -content)
        upright = np.where(content[:, :, :1] > content[:, :, -1:], content[:, :, ::-1], content)
        corners |= {int(crop[0, 0, 0]) % (40 * 36) for crop in upright}
        first = upright[:, :1, :1]
        assert (upright - first == photos[:1, :32, :32] - photos[0, 0, 0]).all()
    allowed = {36 * top + left for top in range(9) for left in range(5)}
    assert corners <= allowed
    assert len(corners) > 30


def test_a_schedule_is_one_of_time_and_not_of_steps() -> None:
    """At the end the rate is 0, whatever the number of the step."""
    chance = np.random.default_rng(0)
    painting = StyleImage.of_pixels(chance.integers(0, 256, (40, 40, 3), np.uint8))
    layers = Loss(content_layers={"relu2_1": 1.0}, style_layers={"relu1_1": 1.0})
    batch = Batch(*chance.integers(0, 256, (2, 4, 32, 32, 3), np.uint8))
    before = torch.get_num_threads()
    objectives = Objectives.on(painting, layers, Vgg(), "cpu", "fp32", 1)
    settings = Train(batch_size=4, width=4, learning_rate=[[0, 0.01], [1, 0]], optimizer="adam")
    loop = own_loop(settings, objectives, 2)
    torch.set_num_threads(before)

    def moved(part: float) -> float:
        old = [weight.detach().clone() for weight in loop.net.parameters()]
        assert loop.step(batch, part)
        new = loop.net.parameters()
        return max((one - other).abs().max().item() for one, other in zip(old, new, strict=True))

    assert moved(1.0) == 0
    assert moved(0.0) == pytest.approx(0.01 * 2 / 20, rel=0.5)  # the second step of a warm-up of 20
    assert moved(1.0) == 0


def test_a_wrong_call_is_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no pixel; allowed: peers, perceptual, content, pixels"):
        home.ablate(Ticks(), arms=["pixel"])
    with pytest.raises(RecipeError, match=r"^--photos: .*nowhere"):
        home.ablate(Ticks(), photos=f"{tmp_path}/nowhere")
    lowest = min(NAMES, key=key_hash)
    shutil.copy(home.root / "photos" / lowest, tmp_path)
    with pytest.raises(IncompleteError, match="good photos: 1; allowed: two or more"):
        home.ablate(Ticks(), photos=str(tmp_path))
    (tmp_path / "all").mkdir()
    names, share = (f"{number}.jpg" for number in range(200)), Evaluate().holdout
    held_out = [name for name in names if is_held_out(name, share)]
    for name in held_out[:3]:
        shutil.copy(home.root / "photos" / lowest, tmp_path / "all" / name)
    with pytest.raises(IncompleteError, match="all 3 good photos are held out by name; add others"):
        home.ablate(Ticks(), photos=f"{tmp_path}/all")
