"""Print docs/recipe.md: every key of a recipe, from `batch_nst.recipe` itself.

python docs/recipe_reference.py > docs/recipe.md
"""

import ast
import inspect
import json
from collections.abc import Collection
from typing import Any

from batch_nst import recipe
from batch_nst.recipe import Recipe

HEAD = """# The recipe

A recipe is a YAML file: one painting, one source of photos, one output. Every key but `output`,
`style.image` and `generate.input` has a default. Any of them may be given on the command line as
`section.key=value`, which wins. Unknown keys and impossible values are refused before anything starts: key,
what was given, what is allowed.

Relative paths are relative to the recipe's file, those of the command line to the current folder. Every
path may be a URI that fsspec knows; `output` may be a local path, `s3://`, `gs://` or `abfs://`. What
decides pixels is written down with the dataset, and a recipe that changes it later is refused: choose
another `output`.

The three weights of training and `train.learning_rate` may be schedules: points of [part of the steps,
value] with straight lines between them. `feature_weight: [[0, 5], [0.5, 0]]` lets the pairs lead the first
half and leaves the second to the objective; `learning_rate: [[0.5, 1e-3], [1, 1e-5]]` lets training settle.

This page is printed by `python docs/recipe_reference.py`; a test compares the two.
"""

NUMBERS = {"integer": "whole number", "number": "number"}


def page() -> str:
    """The whole text."""
    schema = Recipe.model_json_schema()
    sections = {name: part for name, part in schema["properties"].items() if "$ref" in json.dumps(part)}
    texts = _texts()
    lines = [HEAD, *_table("", schema, texts["Recipe"], set(sections))]
    for name, part in sections.items():
        model = schema["$defs"][part["$ref"].rpartition("/")[2]]
        lines += [
            f"\n## {name}\n",
            f"{_line(model['description'])}\n",
            *_table(f"{name}.", model, texts[model["title"]]),
        ]
    return "\n".join(lines) + "\n"


def _table(
    prefix: str, model: dict[str, Any], texts: dict[str, str], without: Collection[str] = ()
) -> list[str]:
    """A row for each key of a section."""
    rows = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for key, part in model["properties"].items():
        if key not in without:
            cells = (f"`{prefix}{key}`", _default(part), _allowed(part), texts[key])
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def _default(part: dict[str, Any]) -> str:
    if "default" not in part:
        return "must be given"
    value = part["default"]
    return "none" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _allowed(part: dict[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "anyOf" in part:
        return ", or ".join(_allowed(choice) for choice in part["anyOf"])
    if "enum" in part:
        return ", ".join(f"`{choice}`" for choice in part["enum"])
    kind = part["type"]
    if kind == "boolean":
        return "`true`, `false`"
    if kind in NUMBERS:
        return NUMBERS[kind] + _range(part)
    if kind == "array":
        if part["items"].get("type") == "array":
            return "points [part of the steps, value]"
        number = f"{part['minItems']} of: " if part.get("minItems") else ""
        return f"list of {number}{_allowed(part['items'])}"
    if kind == "object":
        return f"mapping to {_allowed(part['additionalProperties'])}"
    pattern = "letters, digits, dots and hyphens" if "pattern" in part else "text"
    return {"string": pattern, "null": "none"}[kind]


def _range(part: dict[str, Any]) -> str:
    least, most = part.get("minimum"), part.get("maximum")
    above, below = part.get("exclusiveMinimum"), part.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f", {least:,} to {most:,}"
    bounds = {"{:,} or more": least, "more than {:,}": above, "{:,} or less": most, "less than {:,}": below}
    return "".join(f", {words.format(bound)}" for words, bound in bounds.items() if bound is not None)


def _texts() -> dict[str, dict[str, str]]:
    """What stands below each key of each section in the source."""
    classes = (node for node in ast.parse(inspect.getsource(recipe)).body if isinstance(node, ast.ClassDef))
    return {node.name: _below(node) for node in classes}


def _below(section: ast.ClassDef) -> dict[str, str]:
    texts = {}
    for key, text in zip(section.body, section.body[1:], strict=False):
        match key, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                texts[name] = _line(words)
    return texts


def _line(text: str) -> str:
    """Without line breaks, as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
