"""Defaults that may change: outputs keep the meaning of the keys that their recipes omit.

`frozen_defaults.json` holds, under `580efb4`, the defaults of the first version. They are what its outputs
mean, and what names and records are written against. A dataset that starts today records those of today's
defaults that differ. So a default may change in the code without changing any output that exists.

Whoever adds a key to the recipe adds it under `later`, with the value that means what was done before it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from importlib.resources import files

from batch_nst.figures import JsonValue
from batch_nst.recipe import Recipe, Section


@cache
def _frozen() -> dict[str, dict[str, dict[str, JsonValue]]]:
    text = (files("batch_nst.data.dataset") / "frozen_defaults.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, dict[str, JsonValue]]] = json.loads(text)
    return found


def frozen_defaults(section: str) -> dict[str, JsonValue]:
    """The frozen default of every key of a section that has one."""
    return {key: value for part in _frozen().values() for key, value in part.get(section, {}).items()}


def changed_defaults() -> dict[str, dict[str, JsonValue]]:
    """Today's defaults that differ from the frozen ones, by section: what a new dataset has to record."""
    changed = {name: _changed(kind, frozen_defaults(name)) for name, kind in section_types().items()}
    return {name: values for name, values in changed.items() if values}


def _changed(kind: type[Section], frozen: dict[str, JsonValue]) -> dict[str, JsonValue]:
    today = {name: field.default for name, field in kind.model_fields.items() if not field.is_required()}
    return {name: value for name, value in today.items() if name not in frozen or frozen[name] != value}


def deciding(
    recipe: Recipe, section: str, exclude: Collection[str] = (), later: Collection[str] = ()
) -> dict[str, JsonValue]:
    """The values of a section as a name or a record takes them in.

    A key that came later is left out while it has its frozen default. So names and records from before the
    key stay what they are, and a new default of such a key shows up in them.

    Args:
        recipe: the recipe.
        section: the name of a section.
        exclude: keys that decide nothing.
        later: keys of the first version that were added after names and records had been written.
    """
    values: dict[str, JsonValue] = getattr(recipe, section).model_dump(exclude=set(exclude))
    frozen, recent = frozen_defaults(section), {*later, *_frozen()["later"].get(section, {})}
    return {key: value for key, value in values.items() if key not in recent or value != frozen[key]}


def section_types() -> dict[str, type[Section]]:
    """The sections of a recipe by their names."""
    found = {name: field.annotation for name, field in Recipe.model_fields.items()}
    return {
        name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, Section)
    }
