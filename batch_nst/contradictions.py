"""Keys of a recipe that go badly together, or of which one would be ignored: a recipe means what it says.

Only where a recipe is read: what an output says of its own recipe is taken as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from batch_nst.globs import MAGIC, Glob
from batch_nst.recipe import Evaluate, Generate, Loss, Recipe, Style, Train


def contradictions(recipe: Recipe) -> list[str]:
    """One line for each such key: the key, what was given, why, and what is allowed.

    Defaults are let pass: a recipe that says only `evaluate.photos: 1` did not ask for two baselines.
    """
    return [
        *_of_output(recipe),
        *_of_style(recipe),
        *_of_loss(recipe.loss),
        *_of_generate(recipe.generate),
        *_of_train(recipe),
        *_of_evaluate(recipe.evaluate),
    ]


def _of_output(recipe: Recipe) -> Iterator[str]:
    inputs = recipe.generate.input if isinstance(recipe.generate.input, list) else [recipe.generate.input]
    for each in inputs:
        if relation := _overlap(each, recipe.output):
            yield (
                f"output: given {recipe.output}, which {relation} generate.input {each}, so that a later "
                "start may take its own pictures; allowed: two folders, neither inside the other"
            )
            return


def _of_style(recipe: Recipe) -> Iterator[str]:
    loss, size = recipe.loss, recipe.style.size
    counts = loss.style_weight * sum(loss.style_layers.values())
    if not counts and size != Style.model_fields["size"].default:
        yield (
            f"style.size: given {size}; the style image has no weight in the loss; allowed: a "
            "loss.style_weight and a layer of loss.style_layers above 0, or no style.size"
        )


def _of_loss(loss: Loss) -> Iterator[str]:
    default = Loss()
    for part in ("content", "style"):
        weight, layers = getattr(loss, f"{part}_weight"), getattr(loss, f"{part}_layers")
        if not weight and any(layers.values()) and layers != getattr(default, f"{part}_layers"):
            yield (
                f"loss.{part}_layers: given {layers}; loss.{part}_weight is 0; allowed: a weight above 0, or "
                f"no loss.{part}_layers"
            )
        if weight and not any(layers.values()) and weight != getattr(default, f"{part}_weight"):
            yield (
                f"loss.{part}_weight: given {weight:g}; no layer of loss.{part}_layers has a weight; "
                "allowed: 0, or a layer above 0"
            )


def _of_generate(generate: Generate) -> Iterator[str]:
    least = generate.min_side**2
    if generate.max_pixels < least:
        yield (
            f"generate.max_pixels: given {generate.max_pixels}; generate.min_side is {generate.min_side}, so "
            f"that no photo is taken; allowed: {least} or more"
        )


def _of_train(recipe: Recipe) -> Iterator[str]:
    if fault := crop_fault(recipe):
        yield fault
    train = recipe.train
    if train.crop_size is None and train.crop_until != Train.model_fields["crop_until"].default:
        yield (
            f"train.crop_until: given {train.crop_until:g}; without train.crop_size all steps take whole "
            "pictures; allowed: a crop_size beside it, or no crop_until"
        )


def crop_fault(recipe: Recipe) -> str:
    """Why the crops of a training cannot be taken; "" if they can."""
    crop, side = recipe.train.crop_size, recipe.generate.image_size
    if crop is None or crop <= side:
        return ""
    return (
        f"train.crop_size: given {crop}; generate.image_size is {side}; allowed: {side} or less, or none for "
        "whole pictures"
    )


def _of_evaluate(evaluate: Evaluate) -> Iterator[str]:
    default = Evaluate()
    for key in ("baseline_photos", "larger_photos"):
        photos = getattr(evaluate, key)
        if photos > evaluate.photos and photos != getattr(default, key):
            yield (
                f"evaluate.{key}: given {photos}; evaluate.photos is {evaluate.photos}; "
                "allowed: that many or fewer"
            )
    for key, values in (("holdout_photos", evaluate.holdout_photos), ("sizes", evaluate.sizes)):
        if len(set(values)) < len(values):
            yield f"evaluate.{key}: given {values}; allowed: each once"


def _overlap(source: str, output: str) -> str:
    """How an output lies to an input that may hold its files, or that lies in it; "" where they are apart.

    _overlap("s3://b/photos/**/*.jpg", "s3://b/photos/out")  # "lies in"
    """
    inside, outside = _place(source), _place(output)
    if f"{inside}/".startswith(f"{outside}/"):
        return "holds"
    below = f"{outside}/".startswith(f"{inside}/")
    return "lies in" if below or (MAGIC.search(inside) and Glob(inside).reaches_into(outside)) else ""


def _place(uri: str) -> str:
    """One text for all ways to write a place: links on the disk followed, protocols by their first name."""
    protocol, separator, rest = uri.partition("://")
    if not separator or protocol.lower() in ("file", "local"):
        return os.path.realpath(rest if separator else uri)
    protocol = {"s3a": "s3", "gcs": "gs"}.get(protocol.lower(), protocol.lower())
    return f"{protocol}://{rest.rstrip('/')}"
