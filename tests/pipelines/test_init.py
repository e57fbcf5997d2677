"""Laws of `init`: a recipe that can be run, with measured numbers; nothing is overwritten or guessed."""

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from batch_nst.pipelines import init as command
from batch_nst.pipelines.cost.scale import Machine
from batch_nst.pipelines.cost.steps import StepRates
from batch_nst.recipe_file import load_recipe
from tests.support.calls import Call, Ended
from tests.support.places import PAINTING

PAINTED = "wave, great: #1.jpg"


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((70, 70), 64).convert("RGB").save(path)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a painting, and with photos in another one."""
    for number in range(5):
        picture(tmp_path / "photos" / "a" / f"{number}.png")
    shutil.copy(PAINTING, tmp_path / PAINTED)
    return tmp_path


@pytest.fixture
def init(call: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command on a quick machine that is measured already, for laws that are not about measuring."""
    rates = StepRates("", training=1e-6, scoring=1e-7, baseline=1e-6)
    monkeypatch.setattr(command, "_measure", lambda *_: Machine("cpu", 2, 1e-7, rates))
    return partial(call, "init")


def test_it_measures_this_machine_and_the_next_command_takes_the_recipe(call: Call, home: Path) -> None:
    ended = call("init", "--hours", "1000", folder=home)
    assert ended.code == 0, ended.stderr
    figures = ended.figures
    assert figures["next"] == "batch-nst nightly recipe.yaml"
    taken = sum(figures[f"{step}_hours"] for step in ("pairs", "training", "scoring", "start"))
    assert 0 < taken <= 1000
    for step in ("pairs", "training", "scoring"):
        assert figures[f"{step}_hours"] > 0
        assert f"{step} " in ended.stderr
    planned = call("plan", "recipe.yaml", folder=home)
    assert (planned.code, planned.figures["photos"], planned.figures["refused"]) == (0, 5, [])
    recipe = load_recipe(home / "recipe.yaml")
    assert recipe.style.image == str(home / PAINTED)
    assert recipe.output == str(home / "out" / "wave_great_1")
    written = (home / "recipe.yaml").read_text()
    assert all(
        f"{key}: " in written for key in ("image_size", "iterations", "steps", "batch_size", "holdout")
    )
    (home / "recipe.yaml").write_text(written.replace("  # init: ", "  init: "))
    assert load_recipe(home / "recipe.yaml").train.init == "model:zoo:great_wave"


def test_it_never_overwrites_a_recipe(init: Call, home: Path) -> None:
    (home / "recipe.yaml").write_text("mine")
    ended = init(home)
    assert ended.code == 2
    assert f"{home / 'recipe.yaml'}: exists, and is not overwritten" in ended.stderr
    assert (home / "recipe.yaml").read_text() == "mine"
    assert init(home, "--out", home / "other.yaml", "--hours", "1").code == 0


def test_an_hour_is_the_default_for_100_photos(init: Call, home: Path) -> None:
    assert init(home).figures["hours"] == 1
    for number in range(200):
        shutil.copy(home / "photos" / "a" / "0.png", home / "photos" / f"{number}.png")
    assert init(home, "--out", home / "b.yaml").figures["hours"] == 3


def test_what_is_named_is_taken_and_an_output_never_lies_among_the_photos(init: Call, home: Path) -> None:
    photos = home / "photos"
    ended = init("--photos", ".", "--style", f"../{PAINTED}", folder=photos)
    assert ended.code == 0, ended.stderr
    recipe = load_recipe(photos / "recipe.yaml")
    assert recipe.generate.input == str(photos)
    assert recipe.output == str(home / "photos_out" / "wave_great_1")


def one_photo(home: Path) -> None:
    shutil.rmtree(home / "photos")
    picture(home / "photos" / "1.png")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda home: picture(home / "more" / "1.png"),
            "--photos: not given, and in .* 2 could be meant: more, photos",
        ),
        (lambda home: picture(home / "b.png"), "--style: not given, and in .* 2 could be meant: b.png, wave"),
        (lambda home: shutil.rmtree(home / "photos"), "lies among the photos|--style: not given"),
        (lambda home: (home / PAINTED).unlink(), "--style: not given, and in .* none is here"),
        (lambda home: (home / PAINTED).write_text("no picture"), "style.image: "),
        (one_photo, "has 1 photo; needed: 2 or more"),
    ],
)
def test_what_could_be_meant_twice_or_not_at_all_is_refused(
    init: Call, home: Path, change: Callable[[Path], object], told: str
) -> None:
    change(home)
    assert_refused(init(home), home, told)


def test_a_glob_that_reaches_into_the_output_is_refused(init: Call, home: Path) -> None:
    ended = init("--photos", "**/*.png", "--style", PAINTED, folder=home)
    assert_refused(ended, home, "so that a later start may take its own pictures")


def test_too_little_time_is_refused_and_nothing_is_written(init: Call, home: Path) -> None:
    assert_refused(init(home, "--hours", "0.001"), home, "--hours: given 0.001; 5 photos take ")


def assert_refused(ended: Ended, home: Path, told: str) -> None:
    """In one line, and nothing is written."""
    (line,) = ended.stderr.splitlines()
    assert ended.code == 2
    assert re.search(told, line), line
    assert not (home / "recipe.yaml").exists()


@pytest.mark.parametrize(
    "names", [["painting.jpg"], ["style.jpg"], ["Styles/a.jpg"], ["paintings/a.jpg", "b.png"]]
)
def test_a_painting_is_known_by_its_name_or_folder(init: Call, home: Path, names: list[str]) -> None:
    (home / PAINTED).unlink()
    for name in names:
        picture(home / name)
    assert init(home).code == 0
    assert load_recipe(home / "recipe.yaml").style.image == str(home / names[0])
