"""Recipes that differ in one key or two, from a call that gives several values of a key."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import yaml

from batch_nst.errors import RecipeError
from batch_nst.recipe import Recipe, load_recipe

_SECTIONS = ("loss", "style", "vgg")
_GENERATE = ("image_size", "iterations", "optimizer", "precision", "encoding")
"""Beside these sections, the keys of `generate` that decide what a photo becomes."""


@dataclass(frozen=True)
class Variant:
    """One of the recipes."""

    given: dict[str, str]
    """Each key that has several values, and this recipe's one, as it was typed."""
    recipe: Recipe

    @property
    def values(self) -> dict[str, Any]:
        """The same, as the recipe understood it."""
        document = self.recipe.model_dump()
        return {key: reduce(lambda part, name: part[name], key.split("."), document) for key in self.given}

    def __str__(self) -> str:
        """As typed."""
        return " ".join(f"{key}={value}" for key, value in self.given.items())


def read_variants(path: str | os.PathLike[str], overrides: Sequence[str]) -> list[Variant]:
    """The recipe of every value that is given; of two keys, of every pair of values, the last key's fastest.

    Args:
        path: a local YAML file.
        overrides: as of `load_recipe`; those with several values as `key=V1,V2,V3`. Values are what a YAML
            list in brackets may hold: numbers, text, lists, mappings. One with a comma in it is quoted.

    Raises:
        RecipeError: no key has several values, or more than two have, or one that does not decide pixels;
            two of the recipes are the same; or what `load_recipe` says of the first that is wrong.
    """
    choices = [_choices(override) for override in overrides]
    several = {_key(each[0]): len(each) for each in choices if len(each) > 1}
    if not 1 <= len(several) <= 2:
        what = f"several values of {', '.join(several)}" if several else "no key with several values"
        raise RecipeError(f"{what}; allowed: of one key or two, such as loss.style_weight=10,100,1000")
    for key, count in several.items():
        if not _decides_pixels(key):
            allowed = [f"{name}.*" for name in _SECTIONS] + [f"generate.{name}" for name in _GENERATE]
            raise RecipeError(
                f"{key}: given {count} values; allowed: several of {', '.join(allowed)}; "
                "one value, quoted where it holds a comma, of any other key"
            )
    variants: list[Variant] = []
    for words in product(*choices):
        given = {_key(word): word.partition("=")[2] for word in words if _key(word) in several}
        variant = Variant(given, load_recipe(path, words))
        for other in variants:
            if other.recipe == variant.recipe:
                raise RecipeError(f"{other} and {variant}: are one and the same recipe; allowed: two")
        variants.append(variant)
    return variants


def _choices(override: str) -> list[str]:
    """An override, or one for each of the values that it gives."""
    text = f"[{override.partition('=')[2]}]"
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return [override]  # such as the path photos/[ab].jpg; what is wrong with it, `load_recipe` tells
    if node is None or len(node.value) < 2:
        return [override]
    return [f"{_key(override)}={text[each.start_mark.index : each.end_mark.index]}" for each in node.value]


def _key(override: str) -> str:
    return override.partition("=")[0]


def _decides_pixels(key: str) -> bool:
    section, _, name = key.partition(".")
    return section in _SECTIONS or (section == "generate" and name in _GENERATE)
