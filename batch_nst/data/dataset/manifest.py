"""The settings that decide a dataset's pixels: `dataset/dataset.json`, written once and never changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import NotRequired, TypedDict, cast

import pydantic
from pydantic import BaseModel

from batch_nst.console import log
from batch_nst.data.dataset.defaults import deciding, frozen_defaults, section_types
from batch_nst.data.images.style import StyleImage, read_style
from batch_nst.data.sources.photos import is_held_out, key_hash
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.store import Store
from batch_nst.data.vgg_weights import weights_digest
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.figures import JsonValue, as_json
from batch_nst.recipe import Recipe

SETTINGS = "dataset/dataset.json"


class StyleSettings(TypedDict):
    """The style image."""

    sha256: str
    """Digest of its file."""
    size: int
    """Short side in pixels."""


class VggSettings(TypedDict):
    """The VGG-16 weights."""

    sha256: str
    """Digest of their file."""
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
    """The keys of `recipe.Generate` that decide pixels."""

    image_size: int
    iterations: int
    optimizer: str
    encoding: str
    draft: NotRequired[bool]
    """`generate.draft`; without it false."""


class Holdout(TypedDict):
    """Which photos are held out from training, and which are optimised."""

    fraction: float
    """Fraction of the photos that are optimised, chosen by a hash of the key."""
    photos: list[str]
    """Keys that the recipe names."""
    at_least: list[str]
    """Key of the photo that is held out because the fraction chose none."""
    pairs: NotRequired[float]
    """`generate.pairs`; without it every photo is optimised."""
    below: NotRequired[float]
    """Hash below which photos are optimised, from 0 to 1."""


class Manifest(TypedDict):
    """The content of `dataset.json`."""

    style: StyleSettings
    vgg: VggSettings
    loss: LossSettings
    generate: GenerateSettings
    holdout: Holdout
    gram_divisor: str
    defaults: NotRequired[dict[str, dict[str, JsonValue]]]
    """Defaults of the recipe, by section, that differed from the frozen ones when the dataset was started."""


class _CheckedStyle(BaseModel):
    sha256: str


class _CheckedHoldout(BaseModel):
    fraction: float
    photos: list[str]
    at_least: list[str]
    pairs: float | None = None
    below: float = 1.0


class _Checked(BaseModel):
    """The keys that are read by name; the others are only compared."""

    style: _CheckedStyle
    vgg: dict[str, pydantic.JsonValue] = {}
    loss: dict[str, pydantic.JsonValue] = {}
    generate: dict[str, pydantic.JsonValue] = {}
    holdout: _CheckedHoldout
    defaults: dict[str, dict[str, pydantic.JsonValue]] = {}


def read_settings(store: Store) -> Manifest | None:
    """The settings of an output's dataset, or None where it has no dataset yet.

    Raises:
        StorageError: the file is damaged.
    """
    try:
        settings = read_document(store, SETTINGS)
    except FileNotFoundError:
        return None
    with intact(store, SETTINGS):
        _Checked.model_validate(settings)
    return cast(Manifest, settings)


def require_settings(store: Store) -> Manifest:
    """The settings of an output's dataset.

    Raises:
        RecipeError: it has no dataset yet.
        StorageError: the file is damaged.
    """
    settings = read_settings(store)
    if settings is None:
        raise RecipeError(f"OUTPUT {store.uri}: no dataset here; allowed: the output of a recipe's run")
    return settings


def check_settings(store: Store, settings: Manifest, ignore: Collection[str] = ()) -> Manifest | None:
    """The settings with which the dataset was started, or None before its start.

    Args:
        store: the output.
        settings: those of the recipe.
        ignore: dotted keys that may differ.

    Raises:
        RecipeError: the settings differ; one line, with the old and the new value of each key.
    """
    old = read_settings(store)
    if old is None:
        return None
    changed = {
        key: values
        for key, values in differences(old, settings).items()
        if key not in ignore and not key.startswith("defaults.")  # they decide nothing by themselves
    }
    if changed:
        changes = "; ".join(
            f"{key}: the dataset in {store.uri} was started with {before!r}, the recipe says {after!r}"
            for key, (before, after) in changed.items()
        )
        raise RecipeError(f"{changes}; choose another output")
    return old


def differences(
    old: Mapping[str, object], new: Mapping[str, object]
) -> dict[str, tuple[JsonValue, JsonValue]]:
    """The old and the new value of each dotted key that differs; None stands for a missing key.

    differences({"loss": {"tv_weight": 0}}, {"loss": {"tv_weight": 1}})  # {"loss.tv_weight": (0, 1)}
    """
    before, after = (dict(_leaves(json.loads(json.dumps(settings)))) for settings in (old, new))
    return {
        key: (before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    }


def write_settings(store: Store, settings: Manifest) -> None:
    """Start a dataset; where another run has just started it, check that the settings agree."""
    if not store.create(SETTINGS, _text(settings).encode()):
        check_settings(store, settings)


DECIDED = ("holdout.at_least", "holdout.below")
"""Settings that no recipe says: they are decided where a dataset begins."""


def split_of(key: str, holdout: Holdout) -> str:
    """The side of the split that a photo is on: `train`, `held_out`, or `unpaired`."""
    below = holdout.get("below", 1.0)
    if is_held_out(key, below * holdout["fraction"], [*holdout["photos"], *holdout["at_least"]]):
        return "held_out"
    return "train" if below == 1 or key_hash(key) < below else "unpaired"


def _text(settings: Manifest) -> str:
    return json.dumps(settings, indent=2, sort_keys=True) + "\n"


def _leaves(value: JsonValue, prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    """Dotted key and value of each leaf of a document; a nested empty object is a leaf."""
    if not isinstance(value, dict) or (prefix and not value):
        yield prefix, value
        return
    for key, each in value.items():
        yield from _leaves(each, f"{prefix}.{key}" if prefix else key)


def check_recipe(recipe: Recipe, store: Store) -> Manifest:
    """The settings of the dataset that a recipe continues.

    Raises:
        IncompleteError: the output has no dataset yet.
        RecipeError: the dataset was started with other settings.
    """
    given = settings_of(recipe, read_style(recipe.style))
    settings = check_settings(store, given, ignore=DECIDED)
    if settings is None:
        raise IncompleteError(f"{store.uri}: no dataset here; run `batch-nst generate` first")
    return settings


def settings_of(recipe: Recipe, style: StyleImage) -> Manifest:
    """The settings of a recipe, with its style image, that decide pixels and the split."""
    generate = recipe.generate
    holdout: Holdout = {
        "fraction": recipe.evaluate.holdout,
        "photos": sorted(recipe.evaluate.holdout_photos),
        "at_least": [],
    }
    if generate.pairs is not None:
        holdout["pairs"] = generate.pairs
    decides: GenerateSettings = {
        "image_size": generate.image_size,
        "iterations": generate.iterations,
        "optimizer": generate.optimizer,
        "encoding": generate.encoding,
    }
    if generate.draft:
        decides["draft"] = True
    return {
        "style": {"sha256": style.digest, "size": recipe.style.size},
        "vgg": {"sha256": weights_digest(recipe.vgg), "input": recipe.vgg.input},
        "loss": cast(LossSettings, deciding(recipe, "loss")),
        "generate": decides,
        "holdout": holdout,
        "gram_divisor": "C*H*W",
    }


def as_started(recipe: Recipe, store: Store) -> Recipe:
    """The recipe with the meaning that its dataset gives to the keys it omits.

    A key that the recipe omits takes the value that the dataset recorded when it was started; where it
    recorded none, the frozen default. Keys that are written stay. Without a dataset nothing changes.

    Raises:
        StorageError: `dataset.json` is damaged or cannot be read.
    """
    settings = read_settings(store)
    if settings is None:
        return recipe
    recorded, update = _recorded(settings), {}
    for name in section_types():
        section = getattr(recipe, name)
        values = {
            **frozen_defaults(name),
            **settings.get("defaults", {}).get(name, {}),
            **recorded.get(name, {}),
        }
        omitted = type(section).model_fields.keys() - section.model_fields_set
        today = {key: getattr(section, key) for key in sorted(omitted & values.keys())}
        changed = {key: values[key] for key, value in today.items() if value != values[key]}
        for key, value in changed.items():
            if (name, key) == ("generate", "unit_images"):
                continue  # it has no default of today, see `Plan.beginning_on`
            log(f"{name}.{key}: {value}, as the dataset was started with; the default is {today[key]} now")
        if changed:
            with intact(store, SETTINGS):
                update[name] = section.model_validate(section.model_dump(exclude_unset=True) | changed)
    return recipe.model_copy(update=update)


def _recorded(settings: Manifest) -> dict[str, dict[str, JsonValue]]:
    """The values of recipe keys that are written in the settings, by section."""
    style, vgg, holdout = (as_json(settings.get(name, {})) for name in ("style", "vgg", "holdout"))
    return {
        "style": _named(style, "size"),
        "vgg": _named(vgg, "input"),
        "loss": as_json(settings.get("loss", {})),
        "generate": as_json(settings.get("generate", {})) | _named(holdout, "pairs"),
        "evaluate": {"holdout": holdout["fraction"], "holdout_photos": holdout["photos"]},
    }


def _named(settings: dict[str, JsonValue], key: str) -> dict[str, JsonValue]:
    """The key alone, if it is there."""
    return {key: settings[key]} if key in settings else {}
