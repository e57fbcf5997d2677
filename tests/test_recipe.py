"""Laws of the recipe: what is wrong is named in one line; what is right is read as it is written."""

from collections.abc import Callable
from pathlib import Path

import pydantic
import pytest
import yaml

from batch_nst.errors import RecipeError
from batch_nst.recipe import VGG_LAYERS, Loss, Recipe, Schedule, value_at
from batch_nst.recipe_file import load_recipe

MINIMAL = """\
output: out
style: {image: painting.jpg}
generate: {input: photos}
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Puts a recipe's text into a file."""

    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def fault(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides)
    assert error.value.exit_code == 2
    return str(error.value).replace(str(path), "R")


# What is right


def test_three_keys_are_a_recipe_and_the_rest_has_the_promised_defaults(write: Write) -> None:
    promised = """
        loss:     {content_layers: {relu3_3: 1.0},
                   style_layers: {relu1_2: 1.0, relu2_2: 1.0, relu3_3: 1.0, relu4_3: 1.0},
                   content_weight: 5.0, style_weight: 100.0, tv_weight: 0.0}
        vgg:      {weights: bundled, input: oxford}
        generate: {image_size: 256, crops: 1, iterations: 300, optimizer: lbfgs, init: content,
                   unit_images: 16, encoding: webp, max_rejected: 0.05, device: auto, actors: [1, 64]}
        train:    {steps: 4000, batch_size: 8, workers: 1, device: auto}
        evaluate: {holdout: 0.05, photos: 64}
        publish:  {margin: 0.0, max_objective: null}
    """
    recipe = load_recipe(write(MINIMAL)).model_dump()
    for section, keys in yaml.safe_load(promised).items():
        assert {key: recipe[section][key] for key in keys} == keys
    assert recipe["style"]["size"] == 256


def test_what_is_written_is_what_is_read(write: Write) -> None:
    recipe = load_recipe(
        write(
            "output: s3://models/auvers\n"
            "style: {image: https://example.org/a.jpg, size: 512}\n"
            "loss: {content_layers: {relu2_2: 0.5}, style_layers: {relu5_1: 2}, content_weight: 5}\n"
            "vgg: {weights: gs://w/vgg.safetensors, input: torchvision}\n"
            "generate: {input: [s3://a/, s3://b/], actors: [2, 2], optimizer: adam}\n"
            "train: {learning_rate: 1e-4, workers: 4}\n"
            "publish: {max_objective: 3}\n"
        )
    )
    assert recipe.loss == Loss(
        content_layers={"relu2_2": 0.5}, style_layers={"relu5_1": 2.0}, content_weight=5.0
    )
    assert (recipe.style.size, recipe.vgg.input) == (512, "torchvision")
    assert (recipe.generate.actors, recipe.generate.optimizer) == ([2, 2], "adam")
    assert (recipe.train.learning_rate, recipe.train.workers) == (0.0001, 4)
    assert recipe.publish.max_objective == 3.0


def test_layers_are_those_of_vgg16_shallow_to_deep() -> None:
    shallow, deep = VGG_LAYERS[:7], VGG_LAYERS[7:]
    assert " ".join(shallow) == "relu1_1 relu1_2 relu2_1 relu2_2 relu3_1 relu3_2 relu3_3"
    assert " ".join(deep) == "relu4_1 relu4_2 relu4_3 relu5_1 relu5_2 relu5_3"


def test_a_recipe_is_frozen(write: Write) -> None:
    recipe = load_recipe(write(MINIMAL))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        recipe.output = "elsewhere"
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        recipe.train.steps = 1


# Paths


def test_relative_paths_are_relative_to_the_recipes_folder(write: Write, tmp_path: Path) -> None:
    recipe = load_recipe(
        write(
            "output: ../out\nstyle: {image: a/./b.jpg}\nvgg: {weights: w.safetensors}\n"
            "generate: {input: [photos/, '*.jpg', /absolute]}\n"
        )
    )
    assert recipe.output == str(tmp_path.parent / "out")
    assert recipe.style.image == str(tmp_path / "a" / "b.jpg")
    assert recipe.vgg.weights == str(tmp_path / "w.safetensors")
    assert recipe.generate.input == [str(tmp_path / "photos"), str(tmp_path / "*.jpg"), "/absolute"]


def test_the_recipes_own_path_may_be_relative(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("recipe.yaml").output == str(tmp_path / "out")


def test_relative_paths_of_overrides_are_relative_to_the_current_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, here = write(MINIMAL), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    recipe = load_recipe(path, ["style.image=b.jpg", "generate={input: [c]}"])
    assert recipe.style.image == str(here / "b.jpg")
    assert recipe.generate.input == [str(here / "c")]
    assert recipe.output == str(tmp_path / "out")


def test_uris_stay_as_they_are(write: Write) -> None:
    uris = ["s3://bucket/a/../b/", "memory://x", "simplecache::https://example.org//a.jpg?x=~"]
    recipe = load_recipe(
        write(
            f"output: s3://bucket/c/../d/\nstyle: {{image: {uris[1]}}}\n"
            f"vgg: {{weights: {uris[2]!r}}}\ngenerate: {{input: {uris!r}}}\n"
        )
    )
    assert [recipe.output, recipe.style.image, recipe.vgg.weights] == ["s3://bucket/c/../d/", *uris[1:]]
    assert recipe.generate.input == uris


@pytest.mark.parametrize(
    ("source", "output", "relation"),
    [
        ("photos", "photos", "holds"),
        ("photos", "photos/out", "lies in"),
        ("photos", ".", "holds"),
        ("photos/**/*.jpg", "photos/out", "lies in"),
        ("photos/*/*.jpg", "photos/out", "lies in"),
        ("link", "photos/out", "lies in"),
        ("file://{home}/photos", "photos/out", "lies in"),
        ("out/dataset/data/*/*.parquet", "out", "holds"),
        ("[a.jpg, out/b.jpg]", "out", "holds"),
        ("s3://b/photos", "s3a://b/photos/out/", "lies in"),
        ("S3://b/photos/", "s3://b/photos/out", "lies in"),
        ("gs://b/**", "gcs://b/out", "lies in"),
        ("s3://b/out/dataset/**/*.parquet", "s3://b/out", "holds"),
        ("photos", "photos2", ""),
        ("photos/*.jpg", "photos/out", ""),
        ("photos/2026-*/**", "photos/out", ""),
        ("photos/{a,b}/**/*.jpg", "photos/out", ""),
        ("s3://b/photos", "s3://b/photos2", ""),
        ("s3://a/photos", "s3://b/photos/out", ""),
        ("s3://b/photos", "photos", ""),
    ],
)
def test_an_output_and_its_input_lie_apart(
    write: Write, tmp_path: Path, source: str, output: str, relation: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    given = source.replace("{home}", str(tmp_path))
    given = given if given.startswith("[") else repr(given)
    path = write(f"output: {output}\nstyle: {{image: a.jpg}}\ngenerate: {{input: {given}}}\n")
    if not relation:
        assert load_recipe(path).output
        return
    told = rf"^recipe \S+: output: given \S+, which {relation} generate\.input "
    with pytest.raises(RecipeError, match=told) as refused:
        load_recipe(path)
    assert "\n" not in str(refused.value)


def test_the_model_to_start_from_is_a_path_and_its_prefix_is_none(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(value: str, *overrides: str) -> tuple[str, str | None]:
        text = f"{MINIMAL.rstrip()[:-1]}, init: {value}}}\n"
        generate = load_recipe(write(text), overrides).generate
        return generate.init, generate.init_model

    monkeypatch.setenv("HOME", "/home/vincent")
    here = str(tmp_path / "out")
    assert init("model:out") == (f"model:{here}", here)
    assert init("model:./out/") == (f"model:{here}", here)
    assert init("model:~/out") == ("model:/home/vincent/out", "/home/vincent/out")
    assert init("model:s3://b/a/../out") == ("model:s3://b/a/../out", "s3://b/a/../out")
    assert init("content") == ("content", None)
    assert init("content", "generate.init=model:x") == (f"model:{Path.cwd() / 'x'}", str(Path.cwd() / "x"))


def test_training_may_start_from_a_model_too(write: Write, tmp_path: Path) -> None:
    assert load_recipe(write(MINIMAL)).train.init_model is None
    train = load_recipe(write(f"{MINIMAL}train: {{init: model:out}}\n")).train
    assert (train.init, train.init_model) == (f"model:{tmp_path / 'out'}", str(tmp_path / "out"))


@pytest.mark.parametrize(("given", "both"), [("3", (3, 3)), ("[1, 8]", (1, 8)), ("[8, 8]", (8, 8))])
def test_workers_are_a_number_or_two(write: Write, given: str, both: tuple[int, int]) -> None:
    assert load_recipe(write(MINIMAL), [f"train.workers={given}"]).train.worker_range == both


def test_a_tilde_is_the_home_folder(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/vincent")
    recipe = load_recipe(write(MINIMAL), ["output=~/out", "generate.input=[~/a, ./~b]"])
    assert recipe.output == "/home/vincent/out"
    assert recipe.generate.input == ["/home/vincent/a", str(Path.cwd() / "~b")]


# Overrides


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.steps=7", 7),
        ("train.crop_size=null", None),
        ("train.learning_rate=0.01", 0.01),
        ("train.learning_rate=1e-3", 0.001),
        ("train.learning_rate=+1E-2", 0.01),
        ("train.learning_rate=1", 1.0),
        ("generate.actors=[3, 4]", [3, 4]),
        ("generate.optimizer=adam", "adam"),
        ("style={image: s3://b/a=b.jpg}", {"image": "s3://b/a=b.jpg", "size": 256, "license": "unknown"}),
    ],
)
def test_an_overrides_value_is_yaml(write: Write, override: str, value: object) -> None:
    found: object = load_recipe(write(MINIMAL), [override]).model_dump()
    for key in override.partition("=")[0].split("."):
        assert isinstance(found, dict)
        found = found[key]
    assert found == value
    assert type(found) is type(value)


def test_a_later_override_wins(write: Write) -> None:
    overrides = ["train.steps=1", "train={steps: 2, workers: 2}", "train.steps=3"]
    train = load_recipe(write(MINIMAL), overrides).train
    assert (train.steps, train.workers) == (3, 2)


@pytest.mark.parametrize("written", ["", "loss: {content_weight: 1}\n"])
def test_an_override_of_one_layer_keeps_the_others(write: Write, written: str) -> None:
    recipe = load_recipe(write(MINIMAL + written), ["loss.style_layers.relu1_2=0.5"])
    assert recipe.loss.style_layers == {"relu1_2": 0.5, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0}
    assert recipe.loss.content_layers == {"relu3_3": 1.0}


def test_layers_in_the_file_replace_the_default_ones(write: Write) -> None:
    path = write(MINIMAL + "loss: {style_layers: {relu1_1: 1, relu2_1: 2}}\n")
    assert load_recipe(path).loss.style_layers == {"relu1_1": 1.0, "relu2_1": 2.0}
    one_changed = load_recipe(path, ["loss.style_layers.relu2_1=3"])
    assert one_changed.loss.style_layers == {"relu1_1": 1.0, "relu2_1": 3.0}


def test_an_override_replaces_all_that_stood_at_its_key_and_nothing_beside_it(write: Write) -> None:
    path = write(MINIMAL + "loss: {style_layers: {relu1_1: 1, relu2_1: 2}, content_weight: 7}\n")
    loss = load_recipe(path, ["loss.style_layers={relu3_1: 4}"]).loss
    assert loss.style_layers == {"relu3_1": 4.0}
    assert loss.content_weight == 7.0


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.steps", "override 'train.steps': allowed: key=value or section.key=value"),
        ("=3", "override '=3': allowed: key=value or section.key=value"),
        ("steps=3", "R: steps: unknown key; allowed here: output, style, loss, vgg, "),
        ("train.step=3", "R: train.step: unknown key; allowed here: steps, batch_size, "),
        ("a..b=3", "R: a: unknown key; allowed here: output, "),
        ("a\nb=3", r"R: 'a\nb': unknown key; allowed here: output, "),
        ("output.x=3", "R: output: given {'x': 3}; allowed: text"),
        ("train.steps=[", "override 'train.steps=[': is not YAML: "),
        ("train.steps=2026-99-99", "override 'train.steps=2026-99-99': holds what YAML cannot read: "),
        ("train.steps=!!python/tuple [1]", "override 'train.steps=!!python/tuple [1]': is not YAML: "),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(write: Write, override: str, line: str) -> None:
    found = fault(write(MINIMAL), override).removeprefix("recipe ")
    assert found.startswith(line)
    assert "\n" not in found


# What is wrong

LAYERS = ", ".join(VGG_LAYERS)
SCHEDULE = "; or points [part of the steps, number] in order, as in [[0, 1], [0.5, 0.1]]"
WEIGHTS = "feature_weight, pixel_weight and perceptual_weight"
A_MODEL = "or model:URI of an output or of a folder models/VERSION"
FAULTS = {
    # YAML's true is no number, 3.0 is no whole number.
    "allowed: a whole number": ["train.steps=many", "train.steps=true", "train.steps=3.0", "train.steps='3'"],
    "allowed: a number": ["evaluate.holdout=true", "loss.content_weight=heavy"],
    "allowed: text": ["output=3", "output=null"],
    "allowed: a mapping": ["style=[]", "evaluate=null", "loss.style_layers=[relu1_2]"],
    "allowed: a list": ["generate.actors=4"],
    "allowed: true or false": ["generate.draft=maybe", "generate.draft=1"],
    # Impossible values.
    "allowed: 1 or more": ["generate.crops=0"],
    "allowed: 32 or more": ["generate.image_size=31"],
    "allowed: 4096 or less": ["style.size=4097"],
    "allowed: 1 or less": ["evaluate.holdout=1.5"],
    "allowed: 0 or more": ["evaluate.holdout=-0.1", "evaluate.larger_photos=-1", "loss.content_weight=-1"],
    "allowed: less than 1": ["publish.margin=1"],
    "allowed: more than 0": ["publish.max_objective=0"],
    "allowed: more than -1": ["publish.margin=-1"],
    "allowed: a finite number": ["loss.style_weight=.inf"],
    "allowed: an address that begins with https:// or http://": ["publish.page=javascript:alert(1)"],
    "allowed: 2 values or more": ["generate.actors=[4]"],
    "allowed: 2 values or fewer": ["generate.actors=[1, 2, 3]"],
    "allowed: fewest and most, the first not larger than the second": ["generate.actors=[4, 2]"],
    "allowed: 'lbfgs' or 'adam'": ["generate.optimizer=sgd"],
    "allowed: 'auto', 'cpu' or 'cuda'": ["generate.device=tpu"],
    f"allowed: content, {A_MODEL}": [
        f"generate.init={value}"
        for value in ("photo", "'model:'", "model: out", "models:out", "[model:out]", "3", "null")
    ],
    f"allowed: random, {A_MODEL}": [f"train.init={value}" for value in ("content", "'model:'", "3")],
    "allowed: text that is not empty": ["output=''", "style.image=''"],
    "allowed: a file, a folder, a glob, or a list of URIs": [
        f"generate.input={value}" for value in ("''", "[]", "null", "3", "{}", "[/a, 3]", "['']")
    ],
    f"allowed: a number, 0 or more{SCHEDULE}": [
        f"train.feature_weight={value}"
        for value in ("-1", "heavy", "true", "[]", "[1, 2]", "[[0, 1, 2]]", "[[2, 1]]", ".inf")
    ]
    + ["train.feature_weight=[[0.5, 1], [0.4, 1]]"],
    f"allowed: a number, more than 0, at most 1{SCHEDULE}": [
        f"train.learning_rate={value}" for value in ("0", "2", "[[0, 0], [1, 0]]", "[[0, 1.5]]")
    ],
    "allowed: a whole number, 1 or more; or [fewest, most]": [
        f"train.workers={value}"
        for value in ("0", "many", "1.5", "[2]", "[2, 1]", "[0, 2]", "[1, 2, 3]", "[]", "true")
    ],
    f"no layer 'conv1', 'relu9'; allowed: {LAYERS}": ["loss.content_layers={conv1: 1, relu9: 2}"],
    "allowed: each once": ["evaluate.holdout_photos=[a.jpg, b.jpg, a.jpg]", "evaluate.sizes=[64, 64]"],
    # Keys that do not go together.
    "content and style weights are all 0; at least one layer must count": [
        "loss={content_weight: 0, style_weight: 0}"
    ],
    f"{WEIGHTS} are all 0 when 0.5 of the steps is done; one must count": [
        "train={feature_weight: [[0, 1], [0.5, 0]], perceptual_weight: [[0.5, 0], [1, 1]]}"
    ],
    f"{WEIGHTS} are all 0; one must count": ["train={feature_weight: 0, perceptual_weight: 0}"],
    "the bundled weights take input: oxford": ["vgg={input: torchvision}"],
    "batch_size 8 has no pair for each of 9 workers": ["train={workers: 9}", "train={workers: [1, 9]}"],
}
"""What is told after the key and what was given, and what it is told of."""


@pytest.mark.parametrize(("told", "given"), [(told, each) for told in FAULTS for each in FAULTS[told]])
def test_a_fault_is_one_line_with_key_what_was_given_and_what_is_allowed(
    write: Write, told: str, given: str
) -> None:
    key, _, value = given.partition("=")
    assert fault(write(MINIMAL), given) == f"recipe R: {key}: given {yaml.safe_load(value)!r}; {told}"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("loss.style_layers={relu1_2: x}", "loss.style_layers.relu1_2: given 'x'; allowed: a number"),
        ("evaluate.holdout_photos=[1]", "evaluate.holdout_photos.0: given 1; allowed: text"),
        ("evaluate.sizes=[256, 16]", "evaluate.sizes.1: given 16; allowed: 32 or more"),
        ("generate.actors=[0, 2]", "generate.actors.0: given 0; allowed: 1 or more"),
    ],
)
def test_a_fault_inside_a_value_is_told_with_its_place(write: Write, given: str, line: str) -> None:
    assert fault(write(MINIMAL), given) == f"recipe R: {line}"


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ("generate.iteration=5", "; did you mean iterations?"),
        ("generate.steps=5", "; did you mean train.steps?"),
        ("steps=5", "; did you mean train.steps?"),
        ("trian.steps=5", "; did you mean train?"),
        ("publish.margins=1", "margin, max_objective, keep, license, page; did you mean margin?"),
        ("generate.zzz=5", "license"),
        ("generate.encoding=wepb", "'png' or 'jpeg'; did you mean webp?"),
        ("generate.device=gpu", "'cpu' or 'cuda'"),
    ],
)
def test_what_is_allowed_and_may_have_been_meant_comes_last(write: Write, given: str, end: str) -> None:
    assert fault(write(MINIMAL), given).endswith(end)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            ["evaluate={photos: 4, baseline_photos: 5}"],
            "evaluate.baseline_photos: given 5; evaluate.photos is 4; allowed: that many or fewer",
        ),
        (
            ["evaluate={photos: 4, larger_photos: 5}"],
            "evaluate.larger_photos: given 5; evaluate.photos is 4; allowed: that many or fewer",
        ),
        (
            ["loss={style_layers: {relu1_2: 0}, style_weight: 7}"],
            "loss.style_weight: given 7; no layer of loss.style_layers has a weight; allowed: 0, or a layer "
            "above 0",
        ),
        (
            ["loss={content_layers: {}, content_weight: 7}"],
            "loss.content_weight: given 7; no layer of loss.content_layers has a weight; allowed: 0, or a "
            "layer above 0",
        ),
        (
            ["train.crop_until=0.5"],
            "train.crop_until: given 0.5; without train.crop_size all steps take whole pictures; allowed: a "
            "crop_size beside it, or no crop_until",
        ),
        (
            ["train.crop_size=257"],
            "train.crop_size: given 257; generate.image_size is 256; allowed: 256 or less, or none for whole "
            "pictures",
        ),
        (
            ["loss.style_weight=0", "style.size=384"],
            "style.size: given 384; the style image has no weight in the loss; allowed: a loss.style_weight "
            "and a layer of loss.style_layers above 0, or no style.size",
        ),
        (
            ["loss={style_weight: 0, style_layers: {relu1_2: 1}}"],
            "loss.style_layers: given {'relu1_2': 1.0}; loss.style_weight is 0; allowed: a weight above 0, "
            "or no loss.style_layers",
        ),
        (
            ["loss={content_weight: 0, content_layers: {relu1_2: 1}}"],
            "loss.content_layers: given {'relu1_2': 1.0}; loss.content_weight is 0; allowed: a weight above "
            "0, or no loss.content_layers",
        ),
        (
            ["generate.min_side=20000"],
            "generate.max_pixels: given 100000000; generate.min_side is 20000, so that no photo is taken; "
            "allowed: 400000000 or more",
        ),
    ],
)
def test_what_would_be_ignored_beside_other_keys_is_refused(
    write: Write, given: list[str], line: str
) -> None:
    assert fault(write(MINIMAL), *given) == f"recipe R: {line}"


@pytest.mark.parametrize(
    "given",
    [
        ["evaluate.photos=1"],  # the defaults of the others are larger
        ["generate.image_size=32", "train.crop_size=32"],
        ["loss.style_layers.relu1_2=0"],
        ["loss={style_weight: 0, style_layers: {relu1_2: 0}}"],
        ["loss.content_layers={}"],
        ["loss.style_weight=0"],
        ["loss.content_weight=0", "style.size=384"],
    ],
)
def test_what_has_an_effect_or_was_not_asked_for_is_not_refused(write: Write, given: list[str]) -> None:
    load_recipe(write(MINIMAL), given)


def test_a_key_that_stands_twice_is_refused(write: Write) -> None:
    text = MINIMAL + "train: {steps: 3}\npublish:\n  keep: 3\ntrain: {width: 8}\n"
    assert fault(write(text)) == "recipe R: 'train' stands in lines 4 and 7; allowed: once"
    nested = MINIMAL + "train:\n  steps: 3\n  width: 8\n  steps: 4\n"
    assert fault(write(nested)) == "recipe R: 'steps' stands in lines 5 and 7; allowed: once"
    given = "loss.style_layers={relu1_2: 1, relu1_2: 2}"
    assert "'relu1_2' stands in lines 1 and 1; allowed: once" in fault(write(MINIMAL), given)


@pytest.mark.parametrize("value", ["0100", "1:30", "1_000", "0x10", "0b11"])
def test_a_number_is_what_it_looks_like_or_none(write: Write, value: str) -> None:
    """YAML 1.1 takes them for 64, 90, 1000, 16 and 3."""
    assert fault(write(MINIMAL), f"train.steps={value}") == (
        f"recipe R: train.steps: given {value!r}; allowed: a whole number"
    )


@pytest.mark.parametrize(
    ("value", "number"),
    [("1", 1.0), ("1.", 1.0), (".5", 0.5), ("-0.0", 0.0), ("1e-3", 0.001), ("2.5E+0", 2.5)],
)
def test_numbers_are_those_of_yaml_1_2(write: Write, value: str, number: float) -> None:
    assert load_recipe(write(MINIMAL), [f"train.pixel_weight={value}"]).train.pixel_weight == number


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (MINIMAL + "trian: {}\n", "trian: unknown key; allowed here: output, style, loss, "),
        (MINIMAL + "train: {step: 3}\n", "train.step: unknown key; allowed here: steps, batch_size, "),
        (MINIMAL + "1: 2\n", "1: given 1; allowed: a mapping whose keys are text"),
        (MINIMAL + '"a\\nb": 2\n', r"'a\nb': unknown key; allowed here: output, "),
        ("output: out\ngenerate: {input: a}\n", "style.image: missing; this key has no default"),
        ("output: out\nstyle: {image: a}\n", "generate.input: missing; this key has no default"),
        ("style: {image: a}\ngenerate: {input: a}\n", "output: missing; this key has no default"),
        ("output: out\nstyle: {size: 64}\ngenerate: {input: a}\n", "style.image: missing; this key has no"),
    ],
)
def test_an_unknown_or_missing_key_is_named(write: Write, text: str, line: str) -> None:
    found = fault(write(text))
    assert found.startswith(f"recipe R: {line}")
    assert "\n" not in found


def test_a_glob_without_quotes_is_refused_with_the_remedy(write: Write) -> None:
    found = fault(write("generate: {pattern: **/*.jfif}\n"))
    assert found.endswith("; a text that begins with * stands in quotes")


def test_every_fault_has_its_line(write: Write) -> None:
    text = "output: 3\nstyle: {image: a, sice: 64}\ngenerate: {input: 1, crops: 0}\nevaluate: null\n"
    lines = fault(write(text)).splitlines()
    starts = ["output: given", "style.sice: unknown", "generate.input: given", "generate.crops: given"]
    assert len(lines) == 5
    for line, start in zip(lines, [*starts, "evaluate: given"], strict=True):
        assert line.startswith(f"recipe R: {start}")


def test_a_long_value_is_cut_in_the_message(write: Write) -> None:
    found = fault(write(MINIMAL), "train.steps=" + 100_000 * "x")
    assert found == f"recipe R: train.steps: given '{199 * 'x'}...; allowed: a whole number"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "given nothing; allowed: a mapping of sections"),
        ("# nothing but a remark\n", "given nothing; allowed: a mapping of sections"),
        ("- a\n- b\n", "given ['a', 'b']; allowed: a mapping of sections"),
        ("van Gogh\n", "given 'van Gogh'; allowed: a mapping of sections"),
        ("output: [\n", "is not YAML: "),
        ("a: b: c\n", "is not YAML: mapping values are not allowed here"),
        ("output: \x07\n", "is not YAML: "),
        ("output: 2026-99-99\n", "holds what YAML cannot read: month must be in 1..12"),
        ("output: " + 100_000 * "[" + "\n", "holds what YAML cannot read: maximum recursion depth"),
    ],
)
def test_what_is_no_recipe_at_all_is_refused_in_one_line(write: Write, text: str, line: str) -> None:
    found = fault(write(text))
    assert found.startswith(f"recipe R: {line}")
    assert "\n" not in found


@pytest.mark.parametrize("tagged", ["!!python/object/apply:os.mkdir ['{}']", "!!python/name:os.mkdir"])
def test_yaml_tags_make_no_python_objects(write: Write, tmp_path: Path, tagged: str) -> None:
    ran = tmp_path / "ran"
    found = fault(write(f"{MINIMAL}x: {tagged.format(ran)}\n"))
    assert found.startswith("recipe R: is not YAML: could not determine a constructor for the tag")
    assert not ran.exists()


def test_a_recipe_that_unfolds_beyond_memory_is_refused(write: Write) -> None:
    """Ten lines that stand for 10^12 words."""
    lines = [f"a0: &a0 [{', '.join(['ha'] * 10)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    found = fault(write("\n".join([*lines, "output: *a11", "style: *a11", "generate: *a11"])))
    assert "output: given [[" in found
    assert len(found) < 10_000


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert fault(tmp_path / "none.yaml") == "recipe R: cannot be read: No such file or directory"
    assert fault(tmp_path) == "recipe R: cannot be read: Is a directory"
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("output: café".encode("latin-1"))
    assert fault(latin) == "recipe R: is not UTF-8 text"


def test_a_recipe_survives_json(write: Write) -> None:
    recipe = load_recipe(write(MINIMAL), ["train.learning_rate=0.1"])
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (0.5, [0.5, 0.5, 0.5, 0.5, 0.5]),
        ([[0, 4.0], [1, 0.0]], [4.0, 3.0, 2.0, 1.0, 0.0]),
        ([[0.25, 1.0], [0.75, 3.0]], [1.0, 1.0, 2.0, 3.0, 3.0]),
        ([[0.5, 8.0]], [8.0, 8.0, 8.0, 8.0, 8.0]),
        ([[0, 1.0], [0.5, 1.0], [0.5, 7.0]], [1.0, 1.0, 1.0, 7.0, 7.0]),
    ],
)
def test_a_schedule_goes_in_straight_lines_between_its_points(
    schedule: Schedule, values: list[float]
) -> None:
    assert [value_at(schedule, part) for part in (0, 0.25, 0.5, 0.75, 1)] == values


def test_schedules_come_from_a_recipe(write: Write) -> None:
    recipe = load_recipe(write(MINIMAL), ["train.feature_weight=[[0, 5], [1, 1]]", "train.pixel_weight=2"])
    assert recipe.train.feature_weight == [[0.0, 5.0], [1.0, 1.0]]
    assert recipe.train.pixel_weight == 2.0
