"""What decides the pixels of a dataset, written once as `dataset/dataset.json` and never changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from batch_nst.console import log
from batch_nst.data.dataset.defaults import deciding, frozen_defaults, section_types
from batch_nst.data.images.style import read_style
from batch_nst.data.sources.photos import is_held_out
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.store import Store
from batch_nst.data.vgg_weights import weights_digest
from batch_nst.errors import IncompleteError, RecipeError
from batch_nst.recipe import Recipe

SETTINGS = "dataset/dataset.json"


class _Holdout(BaseModel):
    fraction: float
    photos: list[str]
    at_least: list[str]


class _Manifest(BaseModel):
    """What is read of them by name; the rest is compared."""

    style: dict[str, Any]
    vgg: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    generate: dict[str, Any] = {}
    holdout: _Holdout
    defaults: dict[str, dict[str, Any]] = {}


def read_settings(store: Store) -> dict[str, Any] | None:
    """The dataset's settings, or None where no dataset has been begun.

    Raises:
        StorageError: they are damaged.
    """
    try:
        settings = read_document(store, SETTINGS)
    except FileNotFoundError:
        return None
    with intact(store, SETTINGS):
        _Manifest.model_validate(settings)
    return settings


def require_settings(store: Store) -> dict[str, Any]:
    """As `read_settings`.

    Raises:
        RecipeError: no dataset has been begun.
    """
    settings = read_settings(store)
    if settings is None:
        raise RecipeError(f"OUTPUT {store.uri}: no dataset here")
    return settings


def check_settings(
    store: Store, settings: Mapping[str, Any], ignore: Collection[str] = ()
) -> dict[str, Any] | None:
    """The settings that the dataset was begun with, or None where there is none yet.

    `ignore` names dotted keys that may differ.

    Raises:
        RecipeError: they differ from `settings`; one line, with the old and the new value of each key.
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
        told = "; ".join(
            f"{key}: the dataset in {store.uri} was begun with {before!r}, the recipe says {after!r}"
            for key, (before, after) in changed.items()
        )
        raise RecipeError(f"{told}; choose another output")
    return old


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of each dotted key that settings differ in; a key that one of them lacks is None there."""
    before, after = (dict(_leaves(json.loads(_text(settings)))) for settings in (old, new))
    return {
        key: (before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    }


def write_settings(store: Store, settings: Mapping[str, Any]) -> None:
    """Begin a dataset; where another run has just begun it, check that it means the same."""
    if not store.create(SETTINGS, _text(settings).encode()):
        check_settings(store, settings)


def split_of(key: str, holdout: Mapping[str, Any]) -> str:
    """The side of the split that a photo is on, `train` or `held_out`, by the `holdout` of the settings."""
    held_out = is_held_out(key, holdout["fraction"], [*holdout["photos"], *holdout["at_least"]])
    return "held_out" if held_out else "train"


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, indent=2, sort_keys=True) + "\n"


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_recipe(recipe: Recipe, store: Store) -> dict[str, Any]:
    """The settings of the dataset that a recipe continues.

    Raises:
        IncompleteError: no dataset has been begun.
        RecipeError: it was begun with other settings.
    """
    settings = check_settings(store, settings_of(recipe), ignore=("holdout.at_least",))
    if settings is None:
        raise IncompleteError(f"{store.uri}: no dataset here; run `batch-nst generate` first")
    return settings


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Everything that decides pixels, and the split that rows carry."""
    generate = recipe.generate
    return {
        "style": {"sha256": read_style(recipe.style).digest, "size": recipe.style.size},
        "vgg": {"sha256": weights_digest(recipe.vgg), "input": recipe.vgg.input},
        "loss": deciding(recipe, "loss"),
        "generate": generate.model_dump(include={"image_size", "iterations", "optimizer", "encoding"}),
        "holdout": {
            "fraction": recipe.evaluate.holdout,
            "photos": sorted(recipe.evaluate.holdout_photos),
            "at_least": [],
        },
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
            log(f"{name}.{key}: {value}, as the dataset was started with; the default is {today[key]} now")
        if changed:
            with intact(store, SETTINGS):
                update[name] = section.model_validate(section.model_dump(exclude_unset=True) | changed)
    return recipe.model_copy(update=update)


def _recorded(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The values of recipe keys that are written in the settings, by section."""
    holdout, style, vgg = settings["holdout"], settings["style"], settings.get("vgg", {})
    return {
        "style": {key: style[key] for key in ("size",) if key in style},
        "vgg": {key: vgg[key] for key in ("input",) if key in vgg},
        "loss": settings.get("loss", {}),
        "generate": settings.get("generate", {}),
        "evaluate": {"holdout": holdout["fraction"], "holdout_photos": holdout["photos"]},
    }
