"""Reading a recipe: YAML, `section.key=value` overrides, and messages that name the key at fault."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from batch_nst.contradictions import contradictions
from batch_nst.credentials import redacted
from batch_nst.errors import RecipeError
from batch_nst.recipe import MODEL_PREFIX, Loss, Recipe
from batch_nst.suggestions import did_you_mean
from batch_nst.uris import meant_by


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `section.key=value` overrides.

    Args:
        path: a local YAML file.
        overrides: each `key=value` or `section.key=value`, the value in YAML. It replaces the value of that
            key and nothing else. Later ones win.

    Returns:
        The checked recipe. Relative paths are made absolute: those of the file against the file's folder,
        those of overrides against the current folder.

    Raises:
        RecipeError: one line for each fault: key, what was given, what is allowed.

    load_recipe("monet.yaml", ["train.steps=8000", "output=s3://bucket/monet"])
    """
    recipe = _read_recipe(path, overrides)
    if ignored := contradictions(recipe):
        raise RecipeError("\n".join(f"recipe {path}: {line}" for line in ignored))
    return recipe


def _read_recipe(path: str | os.PathLike[str], overrides: Sequence[str]) -> Recipe:
    """`load_recipe` without a look at keys that have no effect beside others."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"recipe {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {path}: is not UTF-8 text") from error
    document = _parse_yaml(text, f"recipe {path}")
    if not isinstance(document, dict):
        given = "nothing" if document is None else _short(document)
        raise RecipeError(f"recipe {path}: given {given}; allowed: a mapping of sections")
    document = _absolute(document, Path(path).absolute().parent)
    for override in overrides:
        keys, value = _parse_override(override)
        change = _absolute(_replaced({}, keys, value), Path.cwd())
        document = _replaced(_with_default_layers(document), keys, reduce(getitem, keys, change))
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(path, fault) for fault in error.errors())) from error


class _Yaml(yaml.SafeLoader):
    """Safe YAML with the numbers of YAML 1.2: 1e-3 is one, and neither 0100 is 64 nor 1:30 is 90."""


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver(_INT, re.compile(r"[-+]?(0|[1-9]\d*)$"), list("+-0123456789"))
_Yaml.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"[-+]?(\d+\.\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\d+[eE][-+]?\d+)$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
    list("+-.0123456789"),
)


def _check_repeated(node: yaml.Node | None, source: str) -> None:
    """Refuse a key that stands twice in a mapping: YAML would take the last one without a word."""
    waiting, seen = [node], set[int]()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [value for _, value in node.value]
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            first: dict[str, int] = {}
            for key in keys:
                line = key.start_mark.line + 1
                if key.value in first:
                    lines = f"lines {first[key.value]} and {line}"
                    raise RecipeError(f"{source}: {_short(key.value)} stands in {lines}; allowed: once")
                first[key.value] = line


def _parse_yaml(text: str, source: str) -> Any:
    try:
        _check_repeated(yaml.compose(text, _Yaml), source)
        return yaml.load(text, _Yaml)
    except yaml.YAMLError as error:
        remedy = "; a text that begins with * stands in quotes" if "alias" in str(error) else ""
        raise RecipeError(f"{source}: is not YAML: {' '.join(str(error).split())}{remedy}") from error
    except (ValueError, RecursionError) as error:  # the 99th of a month; ten thousand brackets
        raise RecipeError(f"{source}: holds what YAML cannot read: {error}") from error


def _parse_override(override: str) -> tuple[list[str], Any]:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"override {override!r}: allowed: key=value or section.key=value")
    return key.split("."), _parse_yaml(value, f"override {_short(override)}")


def _with_default_layers(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the default layers written out, so that an override of one keeps the others."""
    loss = document.get("loss", {})
    if not isinstance(loss, dict):
        return document
    layers = Loss().model_dump(include={"content_layers", "style_layers"})
    return {**document, "loss": {**layers, **loss}}


def _replaced(document: Any, keys: Sequence[str], value: Any) -> Any:
    """The document with another value at nested keys; a mapping replaces anything else on the way there."""
    if not keys:
        return value
    base = document if isinstance(document, Mapping) else {}
    return {**base, keys[0]: _replaced(base.get(keys[0]), keys[1:], value)}


_PATHS = (
    ("output",),
    ("style", "image"),
    ("vgg", "weights"),
    ("generate", "input"),
    ("generate", "stores"),
    ("generate", "init"),
    ("train", "init"),
)


def _absolute(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The document with relative paths joined to `folder`; URIs with a scheme stay as they are."""
    for *sections, key in _PATHS:
        holder: Any = document
        for section in sections:
            holder = holder.get(section) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or key not in holder:
            continue
        value = holder[key]
        if key == "init":
            if not isinstance(value, str) or not value.startswith(MODEL_PREFIX):
                continue
            value = MODEL_PREFIX + _absolute_path(value.removeprefix(MODEL_PREFIX), folder)
        elif isinstance(value, str):
            value = _absolute_path(value, folder)
        elif isinstance(value, list):
            value = [_absolute_path(item, folder) if isinstance(item, str) else item for item in value]
        document = _replaced(document, [*sections, key], value)
    return document


def _absolute_path(path: str, folder: Path) -> str:
    whole = os.path.expanduser(path)
    if "://" in path or path in ("", "bundled") or path.startswith("zoo:") or meant_by(whole):
        return path
    return os.path.normpath(folder / whole)


_ALLOWED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "literal_error": "{expected}",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "letters, digits, dots and hyphens",
    "list_type": "a list",
    "too_short": "{min_length} values or more",
    "too_long": "{max_length} values or fewer",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "invalid_key": "a mapping whose keys are text",
}
"""What each of pydantic's fault types means for a recipe; other types keep pydantic's message."""


def _explain(path: object, fault: ErrorDetails) -> str:
    keys = ".".join(str(part) for part in fault["loc"])
    where = f"recipe {path}: {(keys if keys.isprintable() else repr(keys)) or 'recipe'}"
    if fault["type"] == "extra_forbidden":
        allowed = _allowed_keys(fault["loc"][:-1])
        meant = _meant(str(fault["loc"][-1]), allowed)
        return f"{where}: unknown key; allowed here: {', '.join(allowed)}{meant}"
    if fault["type"] == "missing":
        return f"{where}{_first_required(fault['loc'])}: missing; this key has no default"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] in _ALLOWED:
        message = "allowed: " + _ALLOWED[fault["type"]].format(**fault.get("ctx", {}))
    if fault["type"] == "literal_error":
        message += did_you_mean(str(fault["input"]), re.findall(r"'(.*?)'", message))
    return f"{where}: given {_short(fault['input'])}; {message}"


_LIMITED = reprlib.Repr()  # a few aliases in YAML can expand to more than memory holds
_LIMITED.maxlevel = 4
_LIMITED.maxlist = _LIMITED.maxdict = 8
_LIMITED.maxstring = _LIMITED.maxother = _LIMITED.maxlong = 1000


def _short(value: object) -> str:
    text = redacted(_LIMITED.repr(value))
    return text if len(text) <= 200 else f"{text[:200]}..."


def _first_required(location: Sequence[int | str]) -> str:
    """The first key without a default of a missing section, such as ".input"; "" for a missing key."""
    needed = [name for name, field in _fields(location).items() if field.is_required()]
    return f".{needed[0]}" if needed else ""


def _allowed_keys(location: Sequence[int | str]) -> list[str]:
    return list(_fields(location))


def _fields(location: Sequence[int | str]) -> dict[str, FieldInfo]:
    """The keys of a section; none of what is no section."""
    model: Any = Recipe
    for part in location:
        model = model.model_fields[part].annotation
    return getattr(model, "model_fields", {})


def _meant(key: str, allowed: Sequence[str]) -> str:
    """The question for an unknown key: one much like it, or the one of that name in another section."""
    sections = {
        name: getattr(field.annotation, "model_fields", {}) for name, field in Recipe.model_fields.items()
    }
    elsewhere = [f"{name}.{key}" for name, keys in sections.items() if key in keys]
    return f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else did_you_mean(key, allowed)


_SECTIONS = ("loss", "style", "vgg")
_GENERATE = ("image_size", "iterations", "optimizer", "precision", "encoding")
"""The keys of `generate` that decide pixels, in addition to these sections."""


@dataclass(frozen=True)
class Variant:
    """One of the recipes."""

    given: dict[str, str]
    """Each key that has several values, with the value of this recipe as it was typed."""
    recipe: Recipe

    @property
    def values(self) -> dict[str, Any]:
        """The same keys with the values as the recipe parsed them."""
        document = self.recipe.model_dump()
        return {key: reduce(lambda part, name: part[name], key.split("."), document) for key in self.given}

    def __str__(self) -> str:
        """As typed."""
        return " ".join(f"{key}={value}" for key, value in self.given.items())


def read_variants(path: str | os.PathLike[str], overrides: Sequence[str]) -> list[Variant]:
    """One recipe for each value of a key; with two keys, for each pair, the second key varying fastest.

    Args:
        path: a local YAML file.
        overrides: as in `load_recipe`; those with several values as `key=V1,V2,V3`. Values are what a YAML
            list in brackets may hold: numbers, text, lists, mappings. A value that holds a comma is quoted.

    Raises:
        RecipeError: no key has several values, more than two keys have, or such a key does not decide pixels;
            two of the recipes are equal; or a value is not allowed.

    read_variants("monet.yaml", ["loss.style_weight=10,100,1000"])
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
        # A weight of 0 is a value to look at, whatever it leaves without effect.
        variant = Variant(given, _read_recipe(path, words))
        for other in variants:
            if other.recipe == variant.recipe:
                raise RecipeError(f"{other} and {variant}: are one and the same recipe; allowed: two")
        variants.append(variant)
    return variants


def _choices(override: str) -> list[str]:
    """One override for each value that an override gives."""
    text = f"[{override.partition('=')[2]}]"
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return [override]  # such as the path photos/[ab].jpg; `load_recipe` reports what is wrong with it
    if node is None or len(node.value) < 2:
        return [override]
    return [f"{_key(override)}={text[each.start_mark.index : each.end_mark.index]}" for each in node.value]


def _key(override: str) -> str:
    return override.partition("=")[0]


def _decides_pixels(key: str) -> bool:
    section, _, name = key.partition(".")
    return section in _SECTIONS or (section == "generate" and name in _GENERATE)
