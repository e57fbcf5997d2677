"""What decides the pixels of a dataset, written once as `dataset/dataset.json` and never changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import TypedDict, cast

from pydantic import BaseModel

from batch_nst.data.images.style import read_style
from batch_nst.data.sources.photos import is_held_out
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.store import Store
from batch_nst.data.vgg_weights import weights_digest
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.figures import JsonValue
from batch_nst.recipe import Recipe

SETTINGS = "dataset/dataset.json"


class StyleSettings(TypedDict):
    """The style image."""

    sha256: str
    """Of its file."""
    size: int
    """Short side in pixels."""


class VggSettings(TypedDict):
    """The VGG-16 weights."""

    sha256: str
    input: str
    """`oxford` or `torchvision`."""


class LossSettings(TypedDict):
    """The keys of `recipe.Loss`."""

    content_layers: dict[str, float]
    style_layers: dict[str, float]
    content_weight: float
    style_weight: float
    tv_weight: float


class GenerateSettings(TypedDict):
    """Those keys of `recipe.Generate` that decide pixels."""

    image_size: int
    iterations: int
    optimizer: str
    encoding: str


class Holdout(TypedDict):
    """Which photos are kept away from training."""

    fraction: float
    """Fraction of the photos, chosen by a hash of the key."""
    photos: list[str]
    """Keys that the recipe names."""
    at_least: list[str]
    """Key of the photo that is held out because the fraction chose none."""


class Manifest(TypedDict):
    """The content of `dataset.json`."""

    style: StyleSettings
    vgg: VggSettings
    loss: LossSettings
    generate: GenerateSettings
    holdout: Holdout
    gram_divisor: str


class _CheckedStyle(BaseModel):
    sha256: str


class _CheckedHoldout(BaseModel):
    fraction: float
    photos: list[str]
    at_least: list[str]


class _Checked(BaseModel):
    """The keys that are read by name; the others are only compared."""

    style: _CheckedStyle
    holdout: _CheckedHoldout


def read_settings(store: Store) -> Manifest | None:
    """The dataset's settings, or None where no dataset has been begun.

    Raises:
        StorageError: they are damaged.
    """
    try:
        settings = read_document(store, SETTINGS)
    except FileNotFoundError:
        return None
    with intact(store, SETTINGS):
        _Checked.model_validate(settings)
    return cast(Manifest, settings)


def require_settings(store: Store) -> Manifest:
    """As `read_settings`.

    Raises:
        RecipeError: no dataset has been begun.
    """
    settings = read_settings(store)
    if settings is None:
        raise RecipeError(f"OUTPUT {store.uri}: no dataset here")
    return settings


def check_settings(store: Store, settings: Manifest, ignore: Collection[str] = ()) -> Manifest | None:
    """The settings that the dataset was begun with, or None where there is none yet.

    `ignore` names dotted keys that may differ.

    Raises:
        RecipeError: they differ from `settings`; one line, with the old and the new value of each key.
    """
    old = read_settings(store)
    if old is None:
        return None
    changed = {key: values for key, values in differences(old, settings).items() if key not in ignore}
    if changed:
        told = "; ".join(
            f"{key}: the dataset in {store.uri} was begun with {before!r}, the recipe says {after!r}"
            for key, (before, after) in changed.items()
        )
        raise RecipeError(f"{told}; choose another output")
    return old


def differences(
    old: Mapping[str, object], new: Mapping[str, object]
) -> dict[str, tuple[JsonValue, JsonValue]]:
    """Both values of each dotted key that settings differ in; a key that one of them lacks is None there."""
    before, after = (dict(_leaves(json.loads(json.dumps(settings)))) for settings in (old, new))
    return {
        key: (before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    }


def write_settings(store: Store, settings: Manifest) -> None:
    """Begin a dataset; where another run has just begun it, check that it means the same."""
    if not store.create(SETTINGS, _text(settings).encode()):
        check_settings(store, settings)


def split_of(key: str, holdout: Holdout) -> str:
    """The side of the split that a photo is on, `train` or `held_out`, by the `holdout` of the settings."""
    held_out = is_held_out(key, holdout["fraction"], [*holdout["photos"], *holdout["at_least"]])
    return "held_out" if held_out else "train"


def _text(settings: Manifest) -> str:
    return json.dumps(settings, indent=2, sort_keys=True) + "\n"


def _leaves(value: JsonValue, prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    """Dotted key and value of each leaf; an empty object in another one is a leaf."""
    if not isinstance(value, dict) or (prefix and not value):
        yield prefix, value
        return
    for key, each in value.items():
        yield from _leaves(each, f"{prefix}.{key}" if prefix else key)


def check_recipe(recipe: Recipe, store: Store) -> Manifest:
    """The settings of the dataset that a recipe continues.

    Raises:
        IncompleteError: no dataset has been begun.
        RecipeError: it was begun with other settings.
    """
    settings = check_settings(store, settings_of(recipe), ignore=("holdout.at_least",))
    if settings is None:
        raise IncompleteError(f"{store.uri}: no dataset here; run `batch-nst generate` first")
    return settings


def settings_of(recipe: Recipe) -> Manifest:
    """Everything that decides pixels, and the split that rows carry."""
    loss, generate = recipe.loss, recipe.generate
    return {
        "style": {"sha256": read_style(recipe.style).digest, "size": recipe.style.size},
        "vgg": {"sha256": weights_digest(recipe.vgg), "input": recipe.vgg.input},
        "loss": {
            "content_layers": dict(loss.content_layers),
            "style_layers": dict(loss.style_layers),
            "content_weight": loss.content_weight,
            "style_weight": loss.style_weight,
            "tv_weight": loss.tv_weight,
        },
        "generate": {
            "image_size": generate.image_size,
            "iterations": generate.iterations,
            "optimizer": generate.optimizer,
            "encoding": generate.encoding,
        },
        "holdout": {
            "fraction": recipe.evaluate.holdout,
            "photos": sorted(recipe.evaluate.holdout_photos),
            "at_least": [],
        },
        "gram_divisor": "C*H*W",
    }
