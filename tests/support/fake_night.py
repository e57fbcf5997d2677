"""A night's work without an engine, for tests of what follows: a sealed dataset and models made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from batch_nst.data.dataset import units
from batch_nst.data.dataset.card import write_card
from batch_nst.data.dataset.plan import survey
from batch_nst.data.dataset.snapshot import Snapshot, seal
from batch_nst.data.models import registry
from batch_nst.data.models.registry import training_version
from batch_nst.data.storage.store import Store
from batch_nst.recipe import Recipe
from batch_nst.recipe_file import load_recipe

RECIPE = """
output: out
style: {image: painting.png, size: 32}
generate: {input: photos, image_size: 32, unit_images: 2}
evaluate: {holdout: 0.0, holdout_photos: [0.png]}
"""

Objectives = Mapping[str, float]


def begin(root: Path) -> Path:
    """A recipe of three photos; returns its file."""
    (root / "photos").mkdir()
    for number in range(3):
        Image.effect_noise((40, 40), 64).convert("RGB").save(root / "photos" / f"{number}.png")
    Image.effect_noise((40, 32), 64).convert("RGB").save(root / "painting.png")
    (root / "recipe.yaml").write_text(RECIPE)
    return root / "recipe.yaml"


def make_pairs(
    recipe: Recipe, init: str = "content", status: str = "ok", picture: bytes | None = None
) -> Snapshot:
    """Plan what is new, commit rows without pictures, or all with this one, and seal, as `generate` does."""
    store = Store(recipe.output)
    plan = survey(recipe, store).write_down(store)
    for table in list(plan.pending(store)):
        for unit in dict.fromkeys(table["unit"].to_pylist()):
            rows = [
                {
                    "id": row["id"],
                    "uri": row["source"],
                    "split": plan.split_of(row["key"]),
                    "status": status,
                    "reason": None if status == "ok" else "truncated",
                    "total_loss": 100.0 if status == "ok" else None,
                    "change": 20.0 if status == "ok" else None,
                    "init": init,
                    **({name: {"bytes": picture} for name in ("content", "stylized")} if picture else {}),
                }
                for row in table.to_pylist()
                if row["unit"] == unit
            ]
            digest = units.row_digest((row["id"], row["status"], init.encode(), ()) for row in rows)
            units.commit_unit(store, unit, rows, digest)
    snapshot = seal(store, 0, plan.in_input, {}, recipe.quality)
    write_card(store, snapshot, plan.settings, recipe.generate.license)
    return snapshot


def make_model(store: Store, version: str, objectives: Objectives | None = None, graph: bool = True) -> None:
    """A model whose files are no weights; scored, where objectives of photos are given."""
    parts = [registry.WEIGHTS, *([registry.GRAPH] if graph else [])]
    digests = {
        name: registry.write_part(store, version, name, f"{name} of {version}".encode()) for name in parts
    }
    card: dict[str, object] = {"version": version, "digests": digests}
    if objectives is not None:
        total = sum(objectives.values()) / len(objectives)
        card["evaluation"] = {
            "photos": len(objectives),
            "objectives": dict(objectives),
            "model": {"total": total},
            "ratios": {"total": 1.25},
            "worth_iterations": 120,
        }
    registry.write_card(store, version, card)


def finish(file: Path, objectives: Objectives, *overrides: str) -> tuple[Recipe, Store, str]:
    """What a night has left before the gate: the recipe, its output, and the version that was trained."""
    recipe = load_recipe(file, overrides)
    store = Store(recipe.output)
    snapshot = make_pairs(recipe)
    version = training_version(recipe, snapshot)
    make_model(store, version, objectives)
    return recipe, store, version


def objects(store: Store) -> dict[str, bytes]:
    """All but leases."""
    return {name: store.read(name) for name in store.list() if not name.startswith("lease/")}
