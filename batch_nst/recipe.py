"""The schema of a recipe: one style image, one bucket of photos, one output. `recipe_file` reads the YAML.

Imports neither torch nor Ray nor pyarrow, so that a typo fails in milliseconds.
"""

from __future__ import annotations

import math
import re
import sys
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from batch_nst.credentials import holds_credentials
from batch_nst.globs import Glob

VGG_LAYERS = tuple(
    f"relu{block}_{conv}" for block, convs in enumerate((2, 2, 3, 3, 3), 1) for conv in range(1, convs + 1)
)
"""Names of VGG-16's activations, shallow to deep: relu1_1 ... relu5_3."""

Network = Literal["johnson", "small", "half", "white", "skip"]
NETWORKS = get_args(Network)
"""Architectures of the fast model, by the name in `model.json`; see `fast_model/transformer_net.py`."""

Count = Annotated[int, Field(ge=1)]
Amount = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _without_credentials(uri: str) -> str:
    if holds_credentials(uri):
        raise ValueError("allowed: no password and no signature, which come from the environment")
    return uri


def _of_the_web(address: str) -> str:
    if not re.fullmatch(r"https?://[^\s<>\"']+", _without_credentials(address)):
        raise ValueError("allowed: an address that begins with https:// or http://")
    return address


Uri = Annotated[str, Field(min_length=1), AfterValidator(_without_credentials)]
License = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.\-]*$")]
"""An identifier of the Hugging Face Hub, such as cc-by-4.0."""


def _check_points(schedule: object, is_rate: bool = False) -> object:
    points: Any = schedule if isinstance(schedule, list) else [[0, schedule]]
    most = 1.0 if is_rate else sys.float_info.max
    sound = all(
        isinstance(point, list)
        and [type(number) in (int, float) for number in point] == [True, True]
        and 0 <= point[0] <= 1
        and 0 <= point[1] <= most
        for point in points
    )
    sound = sound and points == sorted(points, key=lambda point: point[0])
    if not sound or not any(point[1] or not is_rate for point in points):
        allowed = "more than 0, at most 1" if is_rate else "0 or more"
        raise ValueError(
            f"allowed: a number, {allowed}; or points [part of the steps, number] in order, as in "
            "[[0, 1], [0.5, 0.1]]"
        )
    return schedule


Schedule = Annotated[float | list[list[float]], BeforeValidator(_check_points)]
"""A value; or points [part of the steps, value] in order, with straight lines between them."""
Rate = Annotated[float | list[list[float]], BeforeValidator(partial(_check_points, is_rate=True))]

MODEL_PREFIX = "model:"


def _check_init(init: object, other: str) -> object:
    if init != other and not (isinstance(init, str) and re.match(f"{MODEL_PREFIX}.", init)):
        raise ValueError(f"allowed: {other}, or model:URI of an output or of a folder models/VERSION")
    _without_credentials(str(init))
    return init


def _model_of(init: str) -> str | None:
    return init.removeprefix(MODEL_PREFIX) if init.startswith(MODEL_PREFIX) else None


class Section(BaseModel):
    """A part of a recipe: frozen, strict about keys and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Style(Section):
    """The style image."""

    image: Uri
    """URI of the style image."""
    size: Annotated[int, Field(ge=16, le=4096)] = 256
    """Short side of the style image in pixels when its Gram matrices are computed; aspect kept, Lanczos."""
    license: Annotated[str, Field(min_length=1)] = "unknown"
    """Licence of the style image, in words, for the README of its models."""


class Loss(Section):
    """The perceptual loss; see `batch_nst.engine.perceptual_loss` for the formula and its divisors."""

    content_layers: dict[str, Weight] = {"relu3_3": 1.0}
    """Layers of VGG-16, relu1_1 to relu5_3, whose activations should match the photo's; and their weights."""
    style_layers: dict[str, Weight] = {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0}
    """Layers whose Gram matrices should match the style image's; and their weights."""
    content_weight: Weight = 5.0
    """Weight of the photo in the loss. The weights of content and style must not all be 0."""
    style_weight: Weight = 100.0
    """Weight of the style image in the loss."""
    tv_weight: Weight = 0.0
    """Weight of total variation in the loss; a larger one makes smoother pictures."""

    @field_validator("content_layers", "style_layers")
    @classmethod
    def _known_layers(cls, layers: dict[str, float]) -> dict[str, float]:
        unknown = [name for name in layers if name not in VGG_LAYERS]
        if unknown:
            raise ValueError(f"no layer {', '.join(map(repr, unknown))}; allowed: {', '.join(VGG_LAYERS)}")
        return layers

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Loss:
        content = self.content_weight * sum(self.content_layers.values())
        style = self.style_weight * sum(self.style_layers.values())
        if content + style == 0:
            raise ValueError("content and style weights are all 0; at least one layer must count")
        return self


class Vgg(Section):
    """Which VGG-16: the bundled Oxford weights, or the URI of a safetensors file and its input convention."""

    weights: Uri = "bundled"
    """`bundled`, or the URI of a safetensors file with torchvision's names."""
    input: Literal["oxford", "torchvision"] = "oxford"
    """Normalisation that the weights were trained with; the bundled ones need `oxford`."""

    @model_validator(mode="after")
    def _bundled_is_oxford(self) -> Vgg:
        if self.weights == "bundled" and self.input != "oxford":
            raise ValueError("the bundled weights take input: oxford")
        return self


class Generate(Section):
    """How the dataset of pairs is made."""

    input: str | list[str]
    """The photos: a folder, a glob or a single file. The files may be photos, tars or Parquet files that hold
    photos, or Parquet or CSV tables that name them. Or a text file of URIs, one a line; or a list of URIs."""
    stores: list[Uri] = []
    """Further places where a table or text file may name photos, beside its own store: buckets or hosts, such
    as s3://photos, and folders on disk."""
    pattern: str | None = None
    """Which files are photos: a glob over keys (paths below the input), such as `**/*.{jpg,jfif}`; `**` takes
    all but tables and tars, names without a suffix too. None takes the usual suffixes."""
    image_size: Annotated[int, Field(ge=32, le=4096)] = 256
    """Side of the square optimised images, in pixels."""
    pairs: Count | Annotated[float, Field(gt=0, lt=1)] | None = None
    """Photos that are optimised: about so many, or this fraction; a hash of the key chooses. The others are
    stored as photos without pairs, which training uses too. None makes a pair of every photo."""
    crops: Count = 1
    """Crops of each photo; the first is the centre, the photo's id decides the others."""
    iterations: Count = 300
    """Evaluations of the loss for each image."""
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    """`lbfgs` keeps a history for each image; `adam` is simpler and slower."""
    init: str = "content"
    """What an image starts from: `content`, its photo; or `model:URI`, the stylized image of a fast model.
    The URI is that of an output with a published model, or of a folder models/VERSION."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of VGG's convolutions; `auto` measures both at start. Gram matrices and losses are fp32."""
    unit_images: Count = 16
    """Images in a unit: one task, one Parquet object. Where a recipe omits it, a dataset that begins on
    `cuda` takes 256, and keeps that."""
    encoding: Literal["webp", "png", "jpeg"] = "webp"
    """Encoding of stored images; webp and png are lossless."""
    max_rejected: Fraction = 0.05
    """Fraction of rejected and failed images above which the command ends with exit code 1."""
    min_side: Count = 64
    """Photos with a shorter short side are rejected as too_small."""
    max_bytes: Count = 64 << 20
    """Larger files are rejected as too_many_bytes, before they are transferred completely."""
    max_pixels: Count = 100_000_000
    """Photos with more pixels are rejected as too_many_pixels, before they are decoded."""
    max_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """Seconds of processor time for decoding a photo; photos that take longer, twice, are rejected."""
    draft: bool = True
    """Whether a JPEG is decoded at a part of its size, where one crop is made of it and its short side is at
    least six times as long. It changes the crop by less than a grey level rms. Sizes that 2, 4 or 8 do not
    divide are decoded whole."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes `cuda` where the cluster has a GPU, or starts a node with one when asked."""
    actors: Annotated[list[Count], Field(min_length=2, max_length=2)] = [1, 64]
    """Minimum and maximum number of actors that hold VGG-16."""
    license: License = "unknown"
    """Licence of the photos, and so of the pairs, for the dataset's card: an identifier of the Hugging Face
    Hub."""

    @field_validator("input", mode="before")
    @classmethod
    def _some_input(cls, value: object) -> object:
        items = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, str) and item for item in items):
            raise ValueError("allowed: a file, a folder, a glob, or a list of URIs")
        for item in items:
            _without_credentials(str(item))
        return value

    @field_validator("stores")
    @classmethod
    def _whole_stores(cls, stores: list[str]) -> list[str]:
        if not all(re.match(r"/|[A-Za-z][A-Za-z0-9+.-]*://[^/\s]+/?$", store) for store in stores):
            raise ValueError("allowed: buckets and hosts, such as s3://photos, and folders of the disk")
        return stores

    @field_validator("pairs", mode="before")
    @classmethod
    def _number_or_fraction(cls, pairs: object) -> object:
        whole = type(pairs) is int and pairs >= 1
        if not (pairs is None or whole or (type(pairs) is float and 0 < pairs < 1)):
            raise ValueError("allowed: a whole number, 1 or more; or a fraction above 0 and below 1; or none")
        return pairs

    @field_validator("pattern")
    @classmethod
    def _some_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None and (not pattern.strip("/") or pattern.startswith("/")):
            raise ValueError("allowed: a glob over paths below the input, such as **/*.jfif")
        if pattern is not None:
            Glob(pattern)
        return pattern

    @field_validator("init", mode="before")
    @classmethod
    def _photo_or_model(cls, init: object) -> object:
        return _check_init(init, "content")

    @property
    def init_model(self) -> str | None:
        """URI of the model whose stylized images are the start; None where images start from the photos."""
        return _model_of(self.init)

    @field_validator("actors")
    @classmethod
    def _min_max(cls, actors: list[int]) -> list[int]:
        if actors[0] > actors[1]:
            raise ValueError("allowed: fewest and most, the first not larger than the second")
        return actors


class Quality(Section):
    """Which pairs training skips; their rows stay unchanged. These rules do not apply to held-out pairs."""

    max_deviation: Annotated[float, Field(gt=0)] | None = 6.0
    """Maximum distance of the logarithm of a pair's final loss above the median, in robust standard
    deviations; none switches the rule off."""
    min_change: Annotated[float, Field(ge=0, le=255)] | None = 1.0
    """Minimum mean absolute difference between photo and optimised image, in grey levels; none switches the
    rule off."""


def value_at(schedule: Schedule, part: float) -> float:
    """The value of a schedule when `part` of the steps, 0..1, is done.

    value_at([[0, 5], [1, 1]], 0.5)  # 3.0
    """
    if not isinstance(schedule, list):
        return schedule
    before = schedule[0]
    for point in schedule:
        if part <= point[0]:
            span = point[0] - before[0]
            return before[1] + (point[1] - before[1]) * (part - before[0]) / span if span else point[1]
        before = point
    return before[1]


class Train(Section):
    """How the fast model is trained on the pairs."""

    steps: Count = 4000
    """Number of batches that the network is trained on."""
    batch_size: Count = 8
    """Pairs in a step over all workers; at least one for each worker."""
    workers: Count | list[Count] = 1
    """Number of processes that share each batch; or [minimum, maximum], as many as the cluster has nodes
    (GPUs). Training then continues with fewer or more when nodes leave or join."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """See `generate.device`."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """See `generate.precision`."""
    network: Network = "skip"
    """Architecture of the fast model. `johnson` is the paper's, `small` has 28 % of its parameters, `half` no
    maps at full size; `white` is `half` and whitens; `skip` joins maps of the way down, and whitens."""
    width: Annotated[int, Field(ge=4, le=256)] = 32
    """Number of channels of the network's first layer."""
    init: str = "random"
    """Initial weights: `random`, from the seed; or `model:URI`, those of a fast model. The URI is that of an
    output with a published model, or of a folder models/VERSION."""
    unpaired: Fraction = 0.5
    """Fraction of each batch that is photos without pairs, if the dataset has any (`generate.pairs`)."""
    crop_size: Annotated[int, Field(ge=32, le=4096)] | None = None
    """Side of the random crops of a pair in pixels; none takes whole pictures. With few pairs, crops prevent
    overfitting."""
    crop_until: Fraction = 1.0
    """Fraction of the steps that take crops; those after it take whole pictures, which have borders and the
    proportions of what is painted later."""
    optimizer: Literal["muon", "adam"] = "muon"
    """`muon` moves the weights of convolutions by as much in all directions, and the others by Adam; `adam`
    moves all of them."""
    learning_rate: Rate = [[0.0, 1e-3], [1.0, 0.0]]
    """Learning rate of Adam, half of Muon's; it is warmed up in the first steps."""
    feature_weight: Schedule = [[0.0, 5.0], [1.0, 1.0]]
    """Weight of the distance to the optimised image in VGG features."""
    pixel_weight: Schedule = 0.0
    """Weight of the distance to the optimised image in pixels."""
    checkerboard_weight: Schedule = 0.1
    """Weight of each grey level of checkerboard artefact in the network's pictures."""
    perceptual_weight: Schedule = 1.0
    """Weight of the logarithm of the perceptual loss."""
    content_factor: Schedule = 1.0
    """Factor of the content in that loss, beside `loss.content_weight`; above 1 keeps more of the photo."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the moving average of the weights; the average becomes the model."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial weights, the order of the pairs and their crops."""
    checkpoint_steps: Count = 200
    """Steps between checkpoints; an interrupted training continues from the last one."""
    min_done: Fraction = 1.0
    """Minimum fraction of the planned images that a snapshot must hold."""

    @field_validator("workers", mode="before")
    @classmethod
    def _number_or_range(cls, workers: object) -> object:
        both: Any = workers if isinstance(workers, list) else [workers, workers]
        if [type(number) for number in both] != [int, int] or not 1 <= both[0] <= both[1]:
            raise ValueError("allowed: a whole number, 1 or more; or [fewest, most]")
        return workers

    @property
    def worker_range(self) -> tuple[int, int]:
        """Minimum and maximum number of workers."""
        both = self.workers if isinstance(self.workers, list) else [self.workers, self.workers]
        return both[0], both[1]

    @field_validator("init", mode="before")
    @classmethod
    def _random_or_model(cls, init: object) -> object:
        return _check_init(init, "random")

    @property
    def init_model(self) -> str | None:
        """URI of the model whose weights training starts from; None where the initial weights are random."""
        return _model_of(self.init)

    @property
    def cropped_steps(self) -> int:
        """Number of steps, the first ones, that take crops if there is a `crop_size`."""
        return math.ceil(self.crop_until * self.steps)

    def crop_at(self, step: int) -> int | None:
        """Side of the crops of a step, from 0, in pixels; None where it takes whole pictures."""
        return self.crop_size if step < self.cropped_steps else None

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        weights = (self.feature_weight, self.pixel_weight, self.perceptual_weight)
        parts = {0.0, *(point[0] for weight in weights if isinstance(weight, list) for point in weight)}
        for part in sorted(parts):
            if not any(value_at(weight, part) for weight in weights):
                when = f" when {part:g} of the steps is done" if len(parts) > 1 else ""
                raise ValueError(
                    f"feature_weight, pixel_weight and perceptual_weight are all 0{when}; one must count"
                )
        if self.batch_size < self.worker_range[1]:
            raise ValueError(
                f"batch_size {self.batch_size} has no pair for each of {self.worker_range[1]} workers"
            )
        return self


class Evaluate(Section):
    """Which photos are held out from training, and how many of them are scored."""

    holdout: Fraction = 0.05
    """Fraction of the photos that is held out, chosen by a hash of the key; at least one photo."""
    holdout_photos: list[str] = []
    """Keys (paths below the input root) of photos that are always held out."""
    photos: Count = 64
    """Number of held-out images that are scored; those come first that the published model was scored on."""
    iterations: Count = 300
    """Iterations of the optimisation that the model is compared with."""
    baseline_photos: Amount = 2
    """Number of these images on which the baseline (PyTorch's L-BFGS) runs too, for as many iterations; from
    white noise as well on the first."""
    larger_photos: Amount = 8
    """Number of photos that are also scored at twice `generate.image_size`, against a third of the
    iterations."""
    sizes: list[Annotated[int, Field(ge=32, le=4096)]] = [256, 512, 1024]
    """Sides, in pixels, at which model and optimisation are timed; an empty list skips the timing."""


class Publish(Section):
    """The quality gate between a candidate and `models/CURRENT`."""

    margin: Annotated[float, Field(gt=-1, lt=1)] = 0.0
    """A candidate's objective must be below the published model's times (1 - margin). Below 0, it may be
    worse: a model that keeps more of the photo (`train.content_factor`) may cost some of the objective."""
    max_objective: Annotated[float, Field(gt=0)] | None = None
    """Maximum objective of a candidate, the first one included; none sets no limit."""
    keep: Count = 10
    """Number of the newest models that `prune` keeps; refused and unfinished ones are not counted."""
    license: License = "unknown"
    """Licence of the models' weights, for their README: an identifier of the Hugging Face Hub."""
    page: Annotated[str, AfterValidator(_of_the_web)] | None = None
    """Address at which a page of `export --page` is served; reports have a link to it."""


class Recipe(Section):
    """All settings of a run. Frozen; `load_recipe` makes it."""

    output: Uri
    """Root of everything that the recipe makes: a folder, or a prefix of a bucket."""
    style: Style
    loss: Loss = Loss()
    vgg: Vgg = Vgg()
    generate: Generate
    quality: Quality = Quality()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    publish: Publish = Publish()
