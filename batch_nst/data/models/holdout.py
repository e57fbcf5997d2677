"""The held-out photos that a model is scored on: those of the published model first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from batch_nst.data.dataset.snapshot import Snapshot, unit_pairs
from batch_nst.data.models import registry
from batch_nst.data.sources.photos import key_hash
from batch_nst.data.storage.store import Store
from batch_nst.recipe import Evaluate


@dataclass(frozen=True)
class HeldOutPhoto:
    """A photo that a model is scored on."""

    id: str
    """Image id, hex."""
    uri: str
    name: str
    """Name for people: the last part of the URI and the start of the id."""
    content: bytes
    """The photo, encoded."""
    stylized: bytes
    """The optimised image, encoded; empty if scoring has to make it."""
    iterations: int
    """Iterations of the optimisation that the model is compared with."""
    baseline: bool = False
    """Whether the baseline runs too."""
    from_noise: bool = False
    """Whether it also runs from white noise."""


def choose_held_out(
    store: Store, snapshot: Snapshot, settings: Evaluate
) -> tuple[list[HeldOutPhoto], list[str]]:
    """Choose `evaluate.photos` held-out pairs; reads few units, however large the dataset is.

    Pairs that the published model was scored on come first, so that the gate compares on the same photos.
    Others come from as few units as possible. If there are too many, those with the lowest hashes are taken.

    Returns:
        The photos by the hash of their ids, and the names of the units that hold them.
    """
    published = registry.current(store)
    before = registry.require_card(store, published["version"]).get("evaluation") if published else None
    wanted = before.get("objectives", {}).keys() if before else set()
    having = sorted((unit["unit"] for unit in snapshot.units if unit["held_out"]), key=key_hash)
    # Cards of version 0.1.0 do not name the units of their photos.
    known = set(before.get("units", having)) if before else set()
    found: dict[str, tuple[str, HeldOutPhoto]] = {}

    def look(unit: str) -> dict[str, tuple[str, HeldOutPhoto]]:
        return {photo.id: (unit, photo) for photo in _photos_of(store, snapshot, unit, settings.iterations)}

    for unit in having:
        if unit in known and len(found) < len(wanted):
            found |= {name: each for name, each in look(unit).items() if name in wanted}
    for unit in having:
        if len(found) < settings.photos:
            others = {name: each for name, each in look(unit).items() if name not in found}
            for name in sorted(others, key=key_hash)[: settings.photos - len(found)]:
                found[name] = others[name]
    chosen = [found[name] for name in sorted(found, key=key_hash)[: settings.photos]]
    photos = [
        replace(
            photo,
            baseline=number < settings.baseline_photos,
            from_noise=number == 0 and settings.baseline_photos > 0,
        )
        for number, (_, photo) in enumerate(chosen)
    ]
    return photos, sorted({unit for unit, _ in chosen})


def _photos_of(store: Store, snapshot: Snapshot, unit: str, iterations: int) -> Iterator[HeldOutPhoto]:
    """The held-out photos of a unit."""
    for row in unit_pairs(store, snapshot, unit, "held_out"):
        name = row["id"].hex()
        yield HeldOutPhoto(
            id=name,
            uri=row["uri"],
            name=f"{row['uri'].rsplit('/', 1)[-1]} {name[:6]}",
            content=row["content"]["bytes"],
            stylized=row["stylized"]["bytes"],
            iterations=iterations,
        )
