"""Laws of `generate.init: model:URI`: which models fit, the trial of one, and what rows tell of it.

The painting is plain navy and only style counts. So a model that paints everything navy is a good one and one
that paints everything white is a bad one, without training any.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from batch_nst.data.dataset import units
from batch_nst.data.dataset.manifest import write_settings
from batch_nst.data.dataset.plan import Plan, survey
from batch_nst.data.dataset.records import PhotoRecord, UnitRecord
from batch_nst.data.images import codec
from batch_nst.data.images.style import read_style
from batch_nst.data.models import registry
from batch_nst.data.models.files import ModelFiles, read_model
from batch_nst.data.storage.lease import acquire
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.model_io import model_bytes
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.slow_transfer import losses_of, optimise
from batch_nst.errors import RecipeError
from batch_nst.figures import as_json
from batch_nst.pipelines.generate.run import generate
from batch_nst.pipelines.generate.stylizer import Stylizer
from batch_nst.pipelines.generate.warm_start import (
    Verdict,
    WarmStartFigures,
    check_photos,
    check_start,
    find_start,
    judge_warm_start,
)
from batch_nst.pipelines.inference import exact_model
from batch_nst.pipelines.objective import Objectives, to_pixels, to_tensor
from batch_nst.recipe import Recipe
from tests.support.pairs import WORKERS, generate_here
from tests.support.places import SAMPLES

Row = dict[str, Any]

SIDE = 32
NAVY, WHITE = (0, 0, 128), (255, 255, 255)
PHOTOS = ("astronaut", "chelsea", "coffee")
HELD_OUT = "chelsea.png"


def plain(colour: tuple[int, int, int]) -> TransformerNet:
    """A net that paints every photo in one colour."""
    torch.manual_seed(0)
    net = TransformerNet(4)
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor(colour) / 127.5 - 1)
    return net.eval()


class Home:
    """A painting, three photos, and models that fit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "photos").mkdir()
        for name in PHOTOS:
            with Image.open(SAMPLES / "content" / f"{name}.jpg") as photo:
                photo.resize((48, 40)).save(root / "photos" / f"{name}.png")
        Image.new("RGB", (40, 40), NAVY).save(root / "painting.png")
        self.settings = survey(self.recipe("nowhere"), Store(str(root / "nowhere"))).settings
        self.good, self.bad = self.model("good", plain(NAVY)), self.model("bad", plain(WHITE))

    def recipe(self, output: str, init: str = "content", **generate: Any) -> Recipe:
        document = {
            "output": str(self.root / output),
            "style": {"image": str(self.root / "painting.png"), "size": SIDE},
            "loss": {
                "content_layers": {"relu1_2": 1.0},
                "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0},
                "content_weight": 0.0,
            },
            "generate": {
                "input": str(self.root / "photos"),
                "init": init,
                "image_size": SIDE,
                "iterations": 3,
                "unit_images": 4,
                "crops": 2,
                "min_side": 16,
                "precision": "fp32",
                **generate,
            },
            "evaluate": {"holdout": 0.0, "holdout_photos": [HELD_OUT]},
        }
        return Recipe.model_validate(document)

    def model(self, output: str, net: TransformerNet, **changes: Any) -> str:
        """Write and publish a model `v`; the address of its output. `changes` are of its card."""
        store = Store(str(self.root / output))
        digest = registry.write_part(store, "v", registry.WEIGHTS, model_bytes(net))
        settings = self.settings
        card = {
            "version": "v",
            "architecture": {"name": "johnson", "width": net.width},
            "digests": {
                registry.WEIGHTS: digest,
                "style": settings["style"]["sha256"],
                "vgg": settings["vgg"]["sha256"],
            },
            "objective": {
                "loss": settings["loss"],
                "style_size": settings["style"]["size"],
                "vgg_input": settings["vgg"]["input"],
                "gram_divisor": settings["gram_divisor"],
            },
        }
        registry.write_card(store, "v", {**card, **changes})
        registry.point(store, "v", {}, 1)
        return store.uri

    def find(self, uri: str, output: str = "nowhere") -> ModelFiles | None:
        given = self.recipe(output, f"model:{uri}")
        return find_start(given, self.settings, Store(given.output))

    def run(self, given: Recipe) -> dict[str, Any]:
        store = Store(given.output)
        with acquire(store, "generate") as lease:
            return as_json(generate(given, store, lease))

    def plan(self, output: str, **generate: Any) -> Plan:
        given = self.recipe(output, **generate)
        store = Store(given.output)
        return survey(given, store).write_down(store)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("warm"))


# The verdict


VERDICTS: dict[str, tuple[list[float], list[float], float | None, list[float], bool]] = {
    "better": ([4, 9], [1, 9], 0.5, [0.25, 1], True),
    "worse": ([4, 1], [1, 5], math.sqrt(5 / 4), [0.25, 5], False),
    "no worse is good enough": ([2, 8], [2, 8], 1, [1, 1], True),
    "the least worse is not": ([2, 8], [2, 8.0001], math.sqrt(8.0001 / 8), [1, 8.0001 / 8], False),
    # Half of a small loss outweighs a tenth more of a large one.
    "a mean over photos and not over losses": ([1, 1e6], [0.5, 1.1e6], math.sqrt(0.55), [0.5, 1.1], True),
    "two losses of nothing are equal": ([0], [0], 1, [1], True),
    "a photo that cannot be optimised at all tells nothing": ([math.inf, 2], [1, 1], 0.5, [0.5], True),
    "no photo can be optimised": ([math.inf], [math.inf], None, [], False),
    "no photo": ([], [], None, [], False),
    "a picture that leads to no number speaks against the model": ([2, 2], [math.inf, 1], None, [], False),
}
"""Losses from the photos and from the model; their mean ratio, each ratio, and whether the model is used."""


@pytest.mark.parametrize("case", VERDICTS)
def test_the_verdict_by_hand(case: str) -> None:
    cold, warm, ratio, each, used = VERDICTS[case]
    checked = sum(map(math.isfinite, cold))
    assert judge_warm_start(cold, warm) == Verdict(checked, pytest.approx(ratio), each, used)


# Which models fit


def test_content_is_no_model(home: Home) -> None:
    given = home.recipe("nowhere")
    assert find_start(given, home.settings, Store(given.output)) is None


def test_a_model_is_found_by_its_output_and_by_its_folder(home: Home) -> None:
    for uri in (home.good, f"{home.good}/", f"{home.good}/models/v"):
        model = home.find(uri)
        assert model is not None
        assert model.weights == Store(home.good).read("models/v/model.safetensors")
        assert model.name == f"v@{model.card['digests'][registry.WEIGHTS][:12]}"


def test_an_output_that_has_published_nothing_yet_means_the_photos_and_is_told(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    own, begun = str(home.root / "own"), Store(str(home.root / "begun"))
    assert home.find(own, output="own") is None  # its first night: there is nothing at all
    write_settings(begun, home.settings)
    assert home.find(begun.uri) is None
    assert capsys.readouterr().err == "".join(
        f"generate.init: {uri} has no published model yet: images start from the photos\n"
        for uri in (own, begun.uri)
    )


def test_where_no_output_is_the_address_is_refused_before_anything_is_planned(home: Home) -> None:
    for uri in (str(home.root / "wrong"), f"{home.good}/models/w"):
        with pytest.raises(RecipeError, match=rf"^generate\.init: model {uri}: found neither .*; allowed: "):
            home.run(home.recipe("refused", f"model:{uri}"))
    assert not (home.root / "refused" / "dataset").exists()


@pytest.mark.parametrize(
    ("part", "key", "value", "told"),
    [
        ("digests", "style", "ab", "style.sha256"),
        ("digests", "vgg", "ab", "vgg.sha256"),
        ("objective", "style_size", 64, "style.size"),
        ("objective", "vgg_input", "torchvision", "vgg.input"),
        ("objective", "gram_divisor", "H*W", "gram_divisor"),
    ],
)
def test_a_model_of_another_objective_is_refused_and_what_differs_is_named(
    home: Home, part: str, key: str, value: Any, told: str
) -> None:
    card = read_model(home.good).card
    uri = home.model(f"misfit-{key}", plain(NAVY), **{part: {**card[part], key: value}})
    with pytest.raises(RecipeError) as refused:
        home.find(uri)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"generate.init: {uri}: the model was fitted with {told} {value!r}, the recipe ")
    assert line.endswith("; allowed: a model of the same style image, loss and VGG-16")


def test_every_weight_of_the_loss_that_differs_is_named(home: Home) -> None:
    card = read_model(home.good).card
    loss = {**home.settings["loss"], "style_weight": 7.0, "style_layers": {"relu1_1": 1.0}}
    uri = home.model("misfit-loss", plain(NAVY), objective={**card["objective"], "loss": loss})
    with pytest.raises(RecipeError) as refused:
        home.find(uri)
    told = [line.split(" with ")[1].split(", the")[0] for line in str(refused.value).splitlines()]
    assert sorted(told) == ["loss.style_layers.relu2_1 None", "loss.style_weight 7.0"]


def test_weights_that_are_not_the_cards_are_refused(home: Home) -> None:
    uri = home.model("swapped", plain(NAVY))
    Store(uri).replace("models/v/model.safetensors", model_bytes(plain(WHITE)))
    with pytest.raises(RecipeError, match=r"^generate\.init: .*/models/v/model\.safetensors: sha256 is "):
        home.find(uri)


# Which photos it is tried on


def keys(plan: Plan, store: Store) -> list[tuple[str, int]]:
    return [(row["key"], row["crop"]) for row in check_photos(plan, store).to_pylist()]


def test_a_model_is_tried_on_first_crops_of_held_out_photos_alone(home: Home) -> None:
    assert keys(home.plan("tried"), Store(str(home.root / "tried"))) == [(HELD_OUT, 0)]


def test_whatever_is_done_or_tried_again_the_photos_of_the_trial_are_the_same(home: Home) -> None:
    plan = home.plan("again")
    store = Store(str(home.root / "again"))
    rows = [row for table in plan.pending(store) for row in table.to_pylist()]
    for unit in sorted({row["unit"] for row in rows}):
        failed = [
            {"id": row["id"], "uri": row["source"], "split": "train", "status": "failed"}
            for row in rows
            if row["unit"] == unit
        ]
        units.commit_unit(store, unit, failed, "digest")
    retried = survey(home.recipe("again"), store, retry=True).write_down(store)
    assert retried.written.rows.num_rows == 2 * plan.written.rows.num_rows
    assert keys(retried, store) == keys(plan, store)


def test_without_a_held_out_photo_in_the_input_it_is_tried_on_the_others(home: Home) -> None:
    plan = home.plan("gone")
    for photo in (home.root / "photos").glob("*.png"):
        if photo.name != HELD_OUT:
            (home.root / "rest").mkdir(exist_ok=True)
            (home.root / "rest" / photo.name).symlink_to(photo)
    given = home.recipe("gone", input=str(home.root / "rest"))
    store = Store(given.output)
    found = keys(survey(given, store), store)
    assert plan.written.rows.num_rows == 6
    assert found == [(f"{name}.png", 0) for name in sorted(PHOTOS) if f"{name}.png" != HELD_OUT]


# What an image starts from


def stylized(given: Recipe, model: ModelFiles | None, photos: list[codec.Pixels]) -> list[PhotoRecord]:
    """Photos as the actor of `generate` makes them, here."""
    decoded = (
        PhotoRecord(bytes([index] * 16), status="ok", content=pixels.tobytes())
        for index, pixels in enumerate(photos)
    )
    actor = Stylizer(read_style(given.style), given, WORKERS, model)
    return list(actor(UnitRecord("u", tuple(decoded))).photos)


def photo(name: str) -> codec.Pixels:
    with Image.open(SAMPLES / "content" / f"{name}.jpg") as picture:
        return np.asarray(picture.convert("RGB").resize((SIDE, SIDE)))


def pixels(made: PhotoRecord) -> codec.Pixels:
    return np.frombuffer(made.stylized or b"", np.uint8).reshape(SIDE, SIDE, 3)


def objectives(given: Recipe) -> Objectives:
    return Objectives.on(read_style(given.style), given.loss, given.vgg, "cpu", "fp32", WORKERS.threads)


def test_an_image_starts_from_the_picture_that_apply_paints_and_says_so(home: Home) -> None:
    torch.manual_seed(1)
    uri = home.model("random", TransformerNet(4))
    model, given = home.find(uri), home.recipe("nowhere")
    assert model is not None
    photos = [photo(name) for name in PHOTOS]
    start = to_tensor(
        np.stack([exact_model(read_model(uri), torch.device("cpu"))(pixels) for pixels in photos])
    )
    found = optimise(objectives(given).exact, to_tensor(np.stack(photos)), 3, start=start)
    expected = to_pixels(found.images)
    rows = stylized(given, model, photos)
    assert [row.init for row in rows] == [f"model:{model.name}"] * len(PHOTOS)
    for row, picture in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(pixels(row), picture)
    from_photos = stylized(given, None, photos)
    assert [row.init for row in from_photos] == ["content"] * len(PHOTOS)
    assert all((pixels(row) != pixels(other)).any() for row, other in zip(rows, from_photos, strict=True))


def test_an_image_that_meets_no_number_on_its_way_from_the_model_starts_again_from_its_photo(
    home: Home,
) -> None:
    """A weight so large that white's loss overflows and that of a photo in navy does not."""
    given = home.recipe("nowhere", optimizer="adam", iterations=1)
    navy = (photo("coffee") // 8 + np.array(NAVY)).astype(np.uint8)
    content, white = to_tensor(navy[None]), torch.full((1, 3, SIDE, SIDE), 255.0)
    exact = objectives(given).exact
    least, most = (losses_of(exact, picture, content).style.item() for picture in (content, white))
    assert most > 1.5 * least
    weight = 3.4e38 / math.sqrt(least * most)
    given = given.model_copy(update={"loss": given.loss.model_copy(update={"style_weight": weight})})
    (made,) = stylized(given, read_model(home.bad), [navy])
    assert (made.status, made.init) == ("ok", "content")
    assert made.engine is not None
    assert made.engine.endswith(" adam cpu fp32")


def test_an_image_whose_loss_is_no_number_from_its_photo_either_has_failed(home: Home) -> None:
    given = home.recipe("nowhere")
    given = given.model_copy(update={"loss": given.loss.model_copy(update={"style_weight": 1e38})})
    (made,) = stylized(given, None, [photo("coffee")])
    assert (made.status, made.reason, made.stylized) == ("failed", "not_finite", None)


# The whole way


def good_rows(given: Recipe) -> dict[bytes, Row]:
    store = Store(given.output)
    rows = [row for unit in units.done_units(store) for row in units.read_unit(store, unit)]
    assert {row["status"] for row in rows} == {"ok"}
    return {row["id"]: row for row in rows}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_good_model_is_used_by_every_image(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    from_photos, name = home.recipe("cold"), read_model(home.good).name
    generate_here(from_photos)
    cold = good_rows(from_photos)
    given = home.recipe("warm", f"model:{home.good}")
    figures, rows = home.run(given), good_rows(given)
    assert f"images start from model {name}: from the model's pictures" in capsys.readouterr().err
    tried = figures["warm_start"]
    assert (tried["model"], tried["checked"], tried["used"]) == (name, 1, True)
    assert tried["ratio"] <= max(tried["each"]) * (1 + 1e-9)
    assert max(tried["each"]) < 1
    assert {row["init"] for row in rows.values()} == {f"model:{name}"}
    assert all(row["total_loss"] < cold[identity]["total_loss"] for identity, row in rows.items())
    json.dumps(figures, allow_nan=False)


@pytest.mark.usefixtures("ray_cluster")
def test_with_a_bad_model_images_start_from_their_photos_and_it_is_told(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    given = home.recipe("bad-start", f"model:{home.bad}")
    plan, store = home.plan("bad-start"), Store(given.output)
    model, tried = check_start(read_model(home.bad), plan, store, read_style(given.style), given, WORKERS)
    assert model is None
    assert tried is not None
    assert (tried.model, tried.verdict.checked) == (read_model(home.bad).name, 1)
    assert not tried.verdict.used
    assert min(tried.verdict.each) > 1
    assert "images start from the photos: from the model's pictures" in capsys.readouterr().err


def test_on_the_first_night_of_an_output_that_starts_from_its_own_model_nothing_is_tried(home: Home) -> None:
    given = home.recipe("first", f"model:{home.root / 'first'}")
    plan, store = home.plan("first"), Store(given.output)
    model, tried = check_start(None, plan, store, read_style(given.style), given, WORKERS)
    assert model is None
    assert tried == WarmStartFigures(None, Verdict(0, None, [], False))
