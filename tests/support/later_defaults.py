"""Other defaults of a recipe, as a later version may have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from batch_nst.data.dataset.defaults import section_types
from batch_nst.recipe import Recipe

LATER: Mapping[str, object] = {
    "style.size": 128,
    "loss.style_weight": 10.0,
    "generate.optimizer": "adam",
    "generate.crops": 2,
    "quality.min_change": 50.0,
    "train.network": "small",
    "train.batch_size": 2,
    "evaluate.holdout": 0.5,
}
"""Some that dataset.json records, and some that decide as much and are in no file of 580efb4."""


@contextmanager
def later_defaults(changed: Mapping[str, object] = LATER) -> Iterator[None]:
    """While the block runs, recipes that are read have these defaults."""
    before = {name: default_of(name) for name in changed}
    set_defaults(changed)
    try:
        yield
    finally:
        set_defaults(before)


def default_of(name: str) -> object:
    section, key = name.split(".")
    return section_types()[section].model_fields[key].default


def set_defaults(values: Mapping[str, object]) -> None:
    for name, value in values.items():
        section, key = name.split(".")
        section_types()[section].model_fields[key].default = value
    for section, kind in section_types().items():
        kind.model_rebuild(force=True)
        if not Recipe.model_fields[section].is_required():
            Recipe.model_fields[section].default = kind()  # what a recipe without this section has
    Recipe.model_rebuild(force=True)
