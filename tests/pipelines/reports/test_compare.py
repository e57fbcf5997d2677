"""Laws of `batch-nst try`: pictures and losses are those of `generate`; nothing is written but one page."""

import contextlib
import html
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from batch_nst.data.dataset.records import PhotoRecord, UnitRecord
from batch_nst.data.images.codec import Pixels, crop, encode
from batch_nst.data.images.style import read_style
from batch_nst.data.sources.photos import key_hash
from batch_nst.engine.statistics import geometric_mean
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.figures import as_json
from batch_nst.pipelines import try_
from batch_nst.pipelines.generate.stylizer import Stylizer
from batch_nst.pipelines.inference import stylize
from batch_nst.pipelines.reports import compare as reports_compare
from batch_nst.pipelines.reports.html import data_uri
from batch_nst.pipelines.try_ import try_variants
from batch_nst.recipe import Recipe
from batch_nst.recipe_file import Variant, load_recipe, read_variants
from tests.support.browser import Browser
from tests.support.pairs import WORKERS
from tests.support.places import SAMPLES

SIDE = 32
NAMES = ("astronaut", "chelsea", "coffee", "panda")
WEIGHTS = "loss.style_weight=10,1000"
RECIPE = f"""
output: out
style: {{image: painting.png, size: {SIDE}}}
loss: {{content_layers: {{relu2_1: 1}}, style_layers: {{relu1_1: 1, relu2_1: 1}}}}
generate: {{input: photos, image_size: {SIDE}, iterations: 5, min_side: 16, precision: fp32}}
evaluate: {{holdout_photos: [panda.png]}}
"""


class Home:
    """A painting, four photos and a recipe."""

    def __init__(self, root: Path) -> None:
        self.root, self.recipe, self.page = root, root / "recipe.yaml", root / "try.html"
        (root / "photos").mkdir()
        for name in NAMES:
            self.add(f"{name}.png", name)
        with Image.open(SAMPLES / "styles" / "van_gogh_auvers.jpg") as painting:
            painting.resize((48, 40)).save(root / "painting.png")
        self.recipe.write_text(RECIPE)

    def add(self, file: str, name: str) -> None:
        with Image.open(SAMPLES / "content" / f"{name}.jpg") as photo:
            photo.resize((48, 40)).save(self.root / "photos" / file)

    def pixels(self, file: str) -> Pixels:
        with Image.open(self.root / "photos" / file) as photo:
            return crop(np.array(photo), SIDE)

    def variants(self, *overrides: str) -> list[Variant]:
        return read_variants(self.recipe, overrides)

    def compare(self, *overrides: str, photos: int = 4) -> dict[str, Any]:
        with contextlib.redirect_stderr(io.StringIO()) as told:
            self.figures = as_json(try_variants(self.variants(*overrides), photos, str(self.page)))
        self.told = told.getvalue()
        return self.figures

    def text(self) -> str:
        """Of the page, in one line."""
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", self.page.read_text())).split())

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


EVIL = '<script>"&.png'


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two values on the panda, under a name that nobody should trust."""
    home = Home(tmp_path_factory.mktemp("try"))
    home.add(EVIL, "panda")
    home.compare(WEIGHTS, f"evaluate.holdout_photos=['{EVIL}']", photos=1)
    return home


def shown(picture: Pixels) -> str:
    """As the page has it."""
    return data_uri(encode(picture, "png"), 512)


def generated(home: Home, recipe: Recipe, names: list[str]) -> list[PhotoRecord]:
    """The photos that the actor of `generate` makes."""
    photos = [PhotoRecord(bytes(16), status="ok", content=home.pixels(name).tobytes()) for name in names]
    # `try` computes with the threads of this process, and with others products have other bits.
    workers = replace(WORKERS, threads=torch.get_num_threads())
    return list(Stylizer(read_style(recipe.style), recipe, workers)(UnitRecord("u", tuple(photos))).photos)


def order(names: list[str]) -> list[str]:
    return sorted(names, key=key_hash)


FIRST = ["panda.png", *order(["astronaut.png", "chelsea.png", "coffee.png"])]
"""Named ones, then by hash."""


# Pictures and figures


@pytest.mark.parametrize(
    "overrides", [[WEIGHTS], ["generate.optimizer=lbfgs,adam", "generate.encoding=png,jpeg"]]
)
def test_pictures_and_losses_are_those_of_generate(home: Home, overrides: list[str]) -> None:
    figures = home.compare(*overrides)
    assert figures["photos"] == FIRST
    page = home.page.read_text()
    for variant, found in zip(home.variants(*overrides), figures["values"], strict=True):
        made = generated(home, variant.recipe, FIRST)
        assert (found["given"], found["images"]) == (variant.values, 4)
        for part in ("content", "style", "total"):
            assert found[part] == geometric_mean(getattr(photo, f"{part}_loss") for photo in made)
        for photo in made:
            picture = np.frombuffer(photo.stylized or b"", np.uint8).reshape(SIDE, SIDE, 3)
            assert f'<img src="{shown(picture)}"' in page
    values = [", ".join(variant.given.values()) for variant in home.variants(*overrides)]
    alts = re.findall(r'alt="([^"]+: [^"]+)"', page)
    assert alts == [f"{name}: {value}" for name in FIRST for value in values]


def test_nothing_keeps_anyone_from_reading_it(home: Home, browser: Browser, axe: str) -> None:
    home.compare(WEIGHTS, "generate.iterations=1,2", photos=1)
    browser.look(home.page, 390)
    assert browser.faults(axe) == []


def test_pictures_are_those_of_stylize(home: Home) -> None:
    home.compare(WEIGHTS, photos=2)
    page = home.page.read_text()
    with Image.open(home.root / "painting.png") as picture:
        painting = np.array(picture)
    for variant in home.variants(WEIGHTS):
        settings: dict[str, Any] = {"loss": variant.recipe.loss, "device": "cpu", "precision": "fp32"}
        made = stylize(
            [home.pixels(name) for name in FIRST[:2]], painting, style_size=SIDE, iterations=5, **settings
        )
        assert all(shown(picture) in page for picture in made)


def test_without_style_a_photo_stays_as_it_is(home: Home) -> None:
    found = home.compare("loss.style_weight=0,10", photos=1)["values"][0]
    assert (found["content"], found["total"], found["last_tenth"]) == (0, 0, 0)
    assert home.page.read_text().count(shown(home.pixels(FIRST[0]))) == 2  # the photo, and what it became


def test_more_weight_on_style_brings_style_down_and_takes_content_away(home: Home) -> None:
    light, heavy = home.compare("loss.style_weight=1,1000", "generate.iterations=20", photos=1)["values"]
    assert heavy["style"] < light["style"]
    assert heavy["content"] > light["content"]


def test_what_is_no_number_is_told_and_has_no_mean(home: Home) -> None:
    good, bad = home.compare("loss.style_weight=10,1e38", photos=1)["values"]
    assert good["images"] == 1
    assert bad == {
        "given": {"loss.style_weight": 1e38},
        "images": 0,
        **dict.fromkeys(("content", "style", "total", "last_tenth")),
        "seconds": bad["seconds"],
    }
    assert "NaN or infinite, also in fp32" in home.text()


def picture(*curve: float) -> reports_compare.Picture:
    return reports_compare.Picture("", 0.0, 0.0, 0.0, np.array(curve))


def test_the_last_tenth_by_hand() -> None:
    assert picture(8.0, 4.0).last_tenth == 0.5
    assert picture(*range(100, 79, -1)).last_tenth == 1 - 80 / 82  # 2 of 20 iterations
    assert picture(*range(100, 78, -1)).last_tenth == 1 - 79 / 82  # 3 of 21
    assert picture(0.0, 0.0).last_tenth == 0.0


def test_a_curve_by_hand() -> None:
    assert picture(1000, 100, 10, 1).points == "0.0,0.0 33.3,6.7 66.7,13.3 100.0,20.0"
    assert picture(5, 5, 5).points == "0.0,20.0 50.0,20.0 100.0,20.0"
    assert len(picture(*range(1000, 1, -1)).points.split()) == 100


# Photos


def test_bad_photos_are_passed_over_with_a_line(home: Home) -> None:
    (home.root / "photos" / "panda.png").write_bytes(b"no picture")
    figures = home.compare(WEIGHTS, photos=3)
    assert figures["photos"] == FIRST[1:]
    assert f"rejected: {home.root}/photos/panda.png: not_an_image: " in home.told
    assert "optimising 3 photos for 2 values on cpu" in home.told


def test_the_choice_depends_on_keys_alone(home: Home) -> None:
    assert home.compare(WEIGHTS, photos=2)["photos"] == FIRST[:2]
    named = "evaluate.holdout_photos=[coffee.png, gone.png]"
    assert home.compare(WEIGHTS, named, photos=1)["photos"] == ["coffee.png"]


def test_photos_of_ones_own_are_named_as_the_input(home: Home) -> None:
    mine = [f"{home.root}/photos/{name}.png" for name in ("coffee", "chelsea")]
    figures = home.compare(WEIGHTS, f"generate.input=[{', '.join(mine)}]")
    assert figures["photos"] == order(mine)


def test_without_a_good_photo_it_ends(home: Home) -> None:
    for name in NAMES:
        (home.root / "photos" / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(IncompleteError, match=r"none of 4 photos is good; the first: rejected: .*panda"):
        home.compare(WEIGHTS)
    assert not home.page.exists()


# The page


def test_two_keys_are_rows_and_columns(home: Home) -> None:
    figures = home.compare("loss.style_weight=10,20,30", "generate.image_size=32,40", photos=2)
    assert [each["given"] for each in figures["values"]] == [
        {"loss.style_weight": weight, "generate.image_size": side}
        for weight in (10.0, 20.0, 30.0)
        for side in (32, 40)
    ]
    page = home.page.read_text()
    assert re.findall(r'<th scope="col">generate.image_size <b>(\d+)</b>', page) == ["32", "40"]
    assert re.findall(r'<th scope="row">(\d+)</th>', page) == ["10", "20", "30"] * 3
    assert re.findall(r'rowspan="(\d+)"', page) == ["3"] * 3
    assert page.count("<polyline") == 12


def test_the_page_says_what_can_be_compared(home: Home, tried: Home) -> None:
    assert "Totals of different values cannot be compared" in tried.text()
    assert "only among the photos of one value" not in tried.text()
    home.compare("loss.content_layers={relu1_2: 1},{relu2_1: 1}", photos=1)
    assert "only among the photos of one value" in home.text()


def test_paintings_that_differ_are_all_shown(home: Home) -> None:
    home.compare("style.size=32,24", photos=1)
    assert home.page.read_text().count('alt="The style image"') == 1
    other = SAMPLES / "styles" / "great_wave.jpg"
    home.compare(f"style.image={home.root}/painting.png,{other}", photos=1)
    assert home.page.read_text().count('alt="The style image"') == 2
    assert "<figcaption>great_wave.jpg</figcaption>" in home.page.read_text()


def test_the_page_is_one_file_that_fetches_nothing_and_escapes_names(tried: Home) -> None:
    page = tried.page.read_text()
    assert page.startswith("<!doctype html>\n")
    assert "<script" not in page
    assert "&lt;script&gt;&#34;&amp;.png" in page
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert set(re.findall(r'(?:src|href)="(.{0,5})', page)) == {"data:"}


def test_nothing_is_written_but_the_page(tried: Home) -> None:
    photos = {f"photos/{name}.png" for name in NAMES} | {f"photos/{EVIL}"}
    assert tried.files() == {"photos", *photos, "painting.png", "recipe.yaml", "try.html"}


def test_interrupted_the_page_shows_what_was_done(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before, whole, done = home.files(), try_._optimise, []

    def interrupted(*arguments: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(whole(*arguments))
        return done[0]

    monkeypatch.setattr(try_, "_optimise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        home.compare(WEIGHTS, photos=2)
    assert home.files() - before == {"try.html"}
    assert home.page.read_text().endswith("</html>")
    assert "1 of 2 values so far" in home.text()
    assert home.text().count("not yet") == 2
    assert home.page.read_text().count("<polyline") == 2


@pytest.mark.parametrize("file", ["nowhere/page.html", "", "photos"])
def test_a_page_that_cannot_be_written_is_refused_before_any_work(
    home: Home, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(try_, "_choose")
    with pytest.raises(RecipeError, match=r"--out .*: (there is no folder|cannot be written)"):
        try_variants(home.variants(WEIGHTS), 1, str(home.root / file))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("style.image=nowhere.jpg,{painting}", "style.image: .*/nowhere.jpg: No such file"),
        ("vgg.weights=bundled,{painting}", "vgg.weights: .*painting.png: is not a safetensors file"),
    ],
)
def test_a_wrong_file_of_any_value_is_refused_before_any_work(
    home: Home, override: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(try_, "_choose")
    with pytest.raises(RecipeError, match=told):
        home.compare(override.format(painting=home.root / "painting.png"))
    assert not home.page.exists()


def test_it_tells_how_long_it_will_take_and_ends_with_a_table(tried: Home) -> None:
    lines = tried.told.splitlines()
    assert len([line for line in lines if re.fullmatch(r"about \S+\ss in all", line)]) == 1
    assert re.fullmatch(r" +content +style +total +last tenth", lines[-4])
    assert [line.split()[0] for line in lines[-3:-1]] == ["loss.style_weight=10", "loss.style_weight=1000"]
    assert lines[-1] == f"page: {tried.page}" == f"page: {tried.figures['file']}"


def test_images_start_from_the_photos_whatever_the_recipe_says(home: Home, tried: Home) -> None:
    warm = home.compare(WEIGHTS, "generate.init=model:s3://nowhere/model", photos=1)
    assert "generate.init: here, images start from the photos" in home.told
    assert [each["total"] for each in warm["values"]] == [each["total"] for each in tried.figures["values"]]
    pictures, expected = (re.findall('data:[^"]*', page.read_text()) for page in (home.page, tried.page))
    assert pictures == expected


def test_the_recipe_itself_is_shown(tried: Home) -> None:
    settings = html.unescape(re.findall("<pre>(.*?)</pre>", tried.page.read_text(), re.DOTALL)[0])
    recipe = load_recipe(tried.recipe, ["loss.style_weight=10"])
    assert yaml.safe_load(settings) == recipe.model_dump(include={"style", "loss", "vgg", "generate"})
