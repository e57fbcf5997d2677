"""Which held-out photos a model is scored on: the same ones as the published model, however many come."""

from __future__ import annotations

from typing import Any

from batch_nst.data.dataset.snapshot import Snapshot, unit_pairs
from batch_nst.data.models import registry
from batch_nst.data.sources.photos import key_hash
from batch_nst.data.storage.store import Store
from batch_nst.recipe import Evaluate

Row = dict[str, Any]


def choose_held_out(store: Store, snapshot: Snapshot, settings: Evaluate) -> tuple[list[Row], list[str]]:
    """`evaluate.photos` held-out pairs; few units are read, however large the dataset is.

    Those first that the published model was scored on, so that the gate weighs the same photos; then others,
    of as few units as are needed. Wherever there are too many, those of the lowest hashes are taken.

    Returns:
        For each pair, lowest hash of its id first, `id` (hex), `uri`, `name`, `content` and `stylized`
        (encoded), `iterations`, and whether the `baseline` runs; and the names of the units they lie in.
    """
    published = registry.current(store)
    before = registry.require_card(store, published["version"]).get("evaluation", {}) if published else {}
    wanted = before.get("objectives", {}).keys()
    having = sorted((unit["unit"] for unit in snapshot.units if unit["held_out"]), key=key_hash)
    known = set(before.get("units", having))  # cards of version 0.1.0 do not say where their photos lie
    found: dict[str, tuple[str, Row]] = {}

    def look(unit: str) -> dict[str, tuple[str, Row]]:
        return {row["id"].hex(): (unit, row) for row in unit_pairs(store, snapshot, unit, "held_out")}

    for unit in having:
        if unit in known and len(found) < len(wanted):
            found |= {name: each for name, each in look(unit).items() if name in wanted}
    for unit in having:
        if len(found) < settings.photos:
            others = {name: each for name, each in look(unit).items() if name not in found}
            for name in sorted(others, key=key_hash)[: settings.photos - len(found)]:
                found[name] = others[name]
    chosen = sorted(found, key=key_hash)[: settings.photos]
    rows = [
        {
            "id": name,
            "uri": row["uri"],
            "name": f"{row['uri'].rsplit('/', 1)[-1]} {name[:6]}",
            "content": row["content"]["bytes"],
            "stylized": row["stylized"]["bytes"],
            "iterations": settings.iterations,
            "baseline": number < settings.baseline_photos,
        }
        for number, (name, (_, row)) in enumerate((name, found[name]) for name in chosen)
    ]
    return rows, sorted({found[name][0] for name in chosen})
