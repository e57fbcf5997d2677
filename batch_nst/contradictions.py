"""Keys of a recipe that would be ignored beside other keys: refused, since a recipe means what it says.

Only where a recipe is read: what an output says of its own recipe is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from batch_nst.recipe import Evaluate, Generate, Loss, Recipe


def contradictions(recipe: Recipe) -> list[str]:
    """One line for each key that has no effect: the key, what was given, why, and what is allowed.

    Defaults are let pass: a recipe that says only `evaluate.photos: 1` did not ask for two baselines.
    """
    return [*_of_loss(recipe.loss), *_of_generate(recipe.generate), *_of_evaluate(recipe.evaluate)]


def _of_loss(loss: Loss) -> Iterator[str]:
    default = Loss()
    for part in ("content", "style"):
        weight, layers = getattr(loss, f"{part}_weight"), getattr(loss, f"{part}_layers")
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
