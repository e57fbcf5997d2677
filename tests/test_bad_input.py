"""What cannot be used is told by the command in one line, and nothing changes: no dataset, and no model."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from batch_nst.data.models import registry
from batch_nst.data.models.registry import training_version
from batch_nst.data.storage.store import Store
from batch_nst.engine.fast_model.model_io import model_bytes
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.recipe_file import load_recipe
from tests.support.calls import Call
from tests.support.pairs import generate_here

RECIPE = """
output: out
style: {image: painting.png, size: 32}
loss: {content_layers: {relu1_2: 1.0}, style_layers: {relu1_1: 1.0}}
generate: {input: photos, image_size: 32, iterations: 1, min_side: 16, precision: fp32}
train: {width: 4, batch_size: 4}
evaluate: {holdout: 0.0, holdout_photos: [0.png]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, a dataset of 3 pairs and one held out, sealed, and an untrained model of it."""
    home = tmp_path_factory.mktemp("made")
    (home / "photos").mkdir()
    for number in range(4):
        Image.effect_noise((40, 40), 64).convert("RGB").save(home / "photos" / f"{number}.png")
    Image.effect_noise((40, 32), 64).convert("RGB").save(home / "painting.png")
    (home / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(home / "recipe.yaml")
    store = Store(recipe.output)
    snapshot = generate_here(recipe)
    assert (snapshot.counts["ok"], snapshot.counts["held_out"]) == (3, 1)
    version, net = training_version(recipe, snapshot), TransformerNet(4)
    digest = registry.write_part(store, version, registry.WEIGHTS, model_bytes(net))
    card = {
        "version": version,
        "architecture": {"name": "johnson", "width": 4},
        "digests": {registry.WEIGHTS: digest},
    }
    registry.write_card(store, version, card)
    registry.point(store, version, card["digests"], 0)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "home"))


def files(home: Path) -> dict[str, bytes]:
    """All but the log: the leases taken, and what became of each run."""
    below = {str(path.relative_to(home)): path for path in home.rglob("*") if path.is_file()}
    log = ("out/lease/", "out/runs/")
    return {name: path.read_bytes() for name, path in below.items() if not name.startswith(log)}


def assert_refused(call: Call, home: Path, words: Sequence[object], code: int, *told: str) -> None:
    """By one line, with this exit code; nothing changes."""
    before = files(home)
    ended = call(*words, folder=home)
    assert ended.code == code, ended
    assert ended.stderr.startswith(f"batch-nst {words[0]}: ")
    assert ended.stderr.count("\n") == 1
    for part in told:
        assert part in ended.stderr
    assert ended.figures["exit_code"] == code
    assert files(home) == before


@pytest.mark.parametrize("command", ["plan", "generate", "train", "evaluate", "export", "nightly"])
def test_the_dataset_of_another_recipe(home: Path, call: Call, command: str) -> None:
    words = [command, "recipe.yaml", "loss.style_weight=51.0", "style.size=40"]
    told = ("loss.style_weight: ", "was started with 100.0, the recipe says 51.0", "style.size: ")
    assert_refused(call, home, words, 2, *told, "choose another output")


WRONG_CALLS = {
    "forget out 12345678": "ID '12345678': no image of ",
    "forget out xyz": "ID 'xyz': allowed: an image's id in hex",
    "forget out 12345678 --wait": "ID '12345678': no image of ",
    "rollback out": "no model to go back to: none was published before; --to ",
    "rollback out --to 000009-x": "000009-x: cannot be published; allowed: --to ",
    **dict.fromkeys(
        [f"{command} recipe.yaml" for command in ("models", "inspect", "rollback")]
        + ["forget recipe.yaml 12345678"],
        "recipe.yaml: is a file; allowed: a folder",
    ),
    **dict.fromkeys(
        [f"{command} nowhere" for command in ("models", "inspect", "rollback", "prune")]
        + ["forget nowhere 12345678"],
        "nowhere: no dataset here; allowed: ",
    ),
    "models s3:/bucket/out": "output s3:/bucket/out: no folder gets such a name; probably meant: s3://bucket/out",
    "models ftp://host/out": "output ftp://host/out: given ftp://; allowed: a local path, or a bucket (s3://",
    "models s3://": "output s3://: names no bucket; allowed: s3://BUCKET/NAME",
    "generate recipe.yaml output=recipe.yaml": "recipe.yaml: is a file; allowed: a folder",
    "generate recipe.yaml output=painting.png/out": "/painting.png is a file; allowed: a folder",
    "generate recipe.yaml output=/proc/out": "output /proc/out: no folder can be made there: ",
    "plan recipe.yaml output=http://host/out": "output http://host/out: given http://; allowed: a local path",
    **{
        f"{command} recipe.yaml {given}": told
        for command in ("plan", "generate", "nightly", "train --wait")
        for given, told in {
            "style.image=gone.png": "/gone.png: No such file or directory; allowed: a readable JPEG",
            "style.image=recipe.yaml": "/recipe.yaml: not_an_image: begins with ",
            "vgg.weights=gone.safetensors": "/gone.safetensors: cannot be read: ",
        }.items()
    },
    **dict.fromkeys(
        [
            f"{command} recipe.yaml vgg.weights=painting.png"
            for command in ("generate", "nightly", "train --wait")
        ],
        "/painting.png: is not a safetensors file: ",
    ),
    **{
        f"{command} recipe.yaml output=new generate.input={given}": f"/{given}: there is no such file or fol"
        for command in ("plan", "generate", "nightly")
        for given in ("gone", "gone/*.png")
    },
    "generate recipe.yaml output=''": "output: given ''; allowed: text that is not empty",
}


@pytest.mark.parametrize("words", WRONG_CALLS)
def test_a_wrong_call_is_one_line_and_leaves_nothing_not_even_a_lease(
    home: Path, call: Call, words: str
) -> None:
    before = sorted(home.rglob("*"))
    assert_refused(call, home, words.split(), 1 if "/proc" in words else 2, WRONG_CALLS[words])
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize("command", ["train", "evaluate", "export"])
def test_a_dataset_that_is_not_sealed_or_not_there(home: Path, call: Call, command: str) -> None:
    told = "no dataset here; run `batch-nst generate` first"
    assert_refused(call, home, [command, "recipe.yaml", "output=nowhere"], 1, told)
    assert not (home / "nowhere").exists()
    shutil.rmtree(home / "out" / "dataset" / "snapshots")
    told = "no sealed dataset here; run `batch-nst generate` first"
    assert_refused(call, home, [command, "recipe.yaml"], 1, told)


def test_fewer_pairs_than_a_batch(home: Path, call: Call) -> None:
    told = ("train.batch_size: given 4; ", "snapshot 1 has 3 pairs to train on; allowed: that many or fewer")
    assert_refused(call, home, ["train", "recipe.yaml"], 2, *told)


def test_crops_larger_than_the_pictures_of_the_dataset(home: Path, call: Call) -> None:
    """The recipe does not say how large these are."""
    (home / "recipe.yaml").write_text(RECIPE.replace("image_size: 32, ", ""))
    told = "train.crop_size: given 33; generate.image_size is 32; allowed: 32 or less"
    ended = call("train", home / "recipe.yaml", "train.batch_size=2", "train.crop_size=33")
    assert (ended.code, told in ended.stderr) == (2, True)


def _change_card(text: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(text), **changes}).encode()


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "cut off": (registry.WEIGHTS, lambda data: data[:-100], "model.safetensors: sha256 is "),
    "a flipped bit": (
        registry.WEIGHTS,
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        "model.safetensors: sha256 is ",
    ),
    "gone": (registry.WEIGHTS, lambda data: None, "model.safetensors: is gone"),
    "a card cut off": (registry.CARD, lambda data: data[:-20], "model.json: is damaged: "),
    "a card of nothing": (registry.CARD, lambda data: b"", "model.json: is damaged: "),
    "another architecture": (
        registry.CARD,
        lambda data: _change_card(data, architecture={"name": "unet", "width": 4}),
        "model.json: architecture is {'name': 'unet', 'width': 4}; allowed: ",
    ),
    "another digest": (
        registry.CARD,
        lambda data: _change_card(data, digests={registry.WEIGHTS: "0" * 64}),
        f"but model.json says {'0' * 64}",
    ),
    "another width": (
        registry.CARD,
        lambda data: _change_card(data, architecture={"name": "johnson", "width": 8}),
        "tensor 'down.0.0.weight' is float16 [8, 4, 3, 3], expected: float16 [16, 8, 3, 3]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ["apply", "evaluate", "export"])
def test_a_model_that_is_damaged_or_of_another_architecture(
    home: Path, call: Call, command: str, damage: str
) -> None:
    name, change, told = DAMAGES[damage]
    [file] = (home / "out" / "models").glob(f"*/{name}")
    data = change(file.read_bytes())
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    words = ["recipe.yaml"] if command != "apply" else ["out", "photos/0.png", "painted.png"]
    assert_refused(call, home, [command, *words], 2, told)


@pytest.mark.parametrize(("source", "target"), [("photos/0.png", "painted.png"), ("photos", "painted")])
def test_a_damaged_object_is_named_in_full(home: Path, call: Call, source: str, target: str) -> None:
    [weights] = (home / "out" / "models").glob("*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[::-1])
    assert_refused(call, home, ["apply", home / "out", source, target], 2, f"{weights}: sha256 is ")
    pointer = home / "out" / registry.CURRENT
    whole = pointer.read_bytes()
    for left in (0, 1, 100, -2):
        pointer.write_bytes(whole[:left])
        assert_refused(call, home, ["apply", home / "out", source, target], 2, f"{pointer}: is damaged: ")


def test_a_photo_smaller_than_the_network_reaches_is_a_row_with_its_reason(home: Path, call: Call) -> None:
    Image.new("RGB", (200, 15)).save(home / "thin.png")
    before = files(home)
    ended = call("apply", home / "out", home / "thin.png", home / "painted.png")
    assert ended.stderr.splitlines() == [
        f"rejected: {home}/thin.png: too_small: PNG of 200 x 15 pixels; least side: 16",
        "batch-nst apply: 1 of 1 pictures were not stylized",
    ]
    figures = ended.figures
    assert (ended.code, figures["exit_code"], figures["reasons"]) == (1, 1, {"too_small": 1})
    assert files(home) == before
