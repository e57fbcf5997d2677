"""The models that an output holds: which there are, back to an earlier one, and away with old ones."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from batch_nst.console import log
from batch_nst.data.dataset import units
from batch_nst.data.dataset.manifest import require_settings
from batch_nst.data.dataset.snapshot import SNAPSHOTS
from batch_nst.data.models import registry
from batch_nst.data.models.gate import REFUSED
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.lease import Lease
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError
from batch_nst.recipe import Publish
from batch_nst.recipe_file import load_recipe

_READERS = 16
_TRAININGS = ("-train/summary.json", "-nightly/summary.json")
_PUBLISHABLE = ("scored", "previous", "withdrawn")


class Model(NamedTuple):
    """A version, as `batch-nst models` tells it."""

    version: str
    snapshot: int
    trained: str | None
    """When the first run that tells of it began, UTC; None where no run does."""
    photos: int | None
    """Held-out images that it was scored on; None, as the next two, while it was not."""
    objective: float | None
    worth_iterations: int | None
    state: str
    """`published`, `withdrawn` by a rollback, `previous`, `refused`, `scored`, `trained` or `unfinished`."""
    why: str | None
    """It was refused."""


def list_models(output: str) -> dict[str, Any]:
    """All models of an output, unfinished ones too. Writes nothing.

    Returns:
        Figures: the `published` version, and the `models` by snapshot and date, see `Model`.

    Raises:
        RecipeError: there is no dataset.
        WeightsError: a `model.json` is damaged.
    """
    store = Store(output)
    require_settings(store)
    now, found = registry.current(store), _models(store)
    for line in _table(found):
        log(line)
    return {
        "output": store.uri,
        "published": now["version"] if now else None,
        "models": [model._asdict() for model in found],
    }


def rollback(store: Store, lease: Lease, to: str | None = None) -> dict[str, Any]:
    """Publish an earlier model and withdraw the published one, which no night publishes again: one write.

    Args:
        store: the output.
        lease: held on it.
        to: a version that was scored and not refused, which may have been withdrawn; none: the one that was
            published before, unless that was withdrawn. So nothing goes to and fro when it is done again.

    Returns:
        Figures: the published `version`, the `previous` one, and all that are `withdrawn`.

    Raises:
        RecipeError: there is no such model.
        WeightsError: it is damaged.
    """
    now = registry.current(store)
    if now is None:
        raise RecipeError(f"OUTPUT {store.uri}: no model is published here")
    before = now["previous"]
    if to is None and (before is None or before in now.get("withdrawn", ())):
        told = f"{before}, which was before, is withdrawn" if before else "none was published before"
        raise RecipeError(f"no model to go back to: {told}; --to publishes any that was not refused")
    version = to or before
    if version == now["version"]:
        log(f"{version} is published already")
        return _figures(now)
    allowed = [model.version for model in _models(store) if model.state in _PUBLISHABLE]
    if version not in allowed:
        raise RecipeError(
            f"{version}: cannot be published; allowed: --to a model that was scored and not refused: "
            f"{', '.join(allowed) or 'there is no other'}"
        )
    card = registry.require_card(store, version)
    registry.check_parts(store, version, card)
    lease.check()
    pointer = registry.point(store, version, card["digests"], lease.token, withdraw=True)
    log(f"published {version}; {now['version']} is withdrawn: only --to publishes it again")
    return _figures(pointer)


def _figures(pointer: dict[str, Any]) -> dict[str, Any]:
    named = ("version", "previous", "withdrawn")
    return {name: pointer.get(name) for name in named}


def retention(named: str, keep: int | None) -> tuple[str, int]:
    """Which output is meant, and how many models `prune` keeps there.

    Args:
        named: a recipe's file, or an output, which is no file.
        keep: as the caller says; none: as the recipe does in `publish.keep`, or its default.

    Raises:
        RecipeError: the recipe is wrong.
    """
    if not Path(named).is_file():
        return named, keep or Publish().keep
    recipe = load_recipe(named)
    return recipe.output, keep or recipe.publish.keep


def prune(store: Store, keep: int, lease: Lease | None = None) -> dict[str, Any]:
    """Delete old models with their logs and checkpoints; without a lease only tell which.

    Never the published one, the one before it, one that pairs started from, or one of the latest snapshot:
    that may be under way, and were it refused and gone, the next night would train it again.

    Args:
        store: the output.
        keep: the newest models, refused and unfinished ones not counted, that stay in any case.
        lease: held on it, to delete.

    Returns:
        Figures: versions `to_delete` and `deleted`, and `kept` with the reason for each.

    Raises:
        WeightsError: a `model.json` is damaged.
    """
    objects, found = registry.versions(store), _models(store)
    newest = [model.version for model in found if model.state not in ("refused", "unfinished")][-keep:]
    latest = max(store.numbered(SNAPSHOTS, ".json"), default=0)
    now = registry.current(store) or {"version": None, "previous": None}
    kept = {}
    for model in found:
        if model.version == now["version"]:
            kept[model.version] = "published"
        elif model.version == now["previous"]:
            kept[model.version] = "published before"
        elif model.snapshot >= latest:
            kept[model.version] = "of the latest snapshot"
        elif model.version in newest:
            kept[model.version] = f"one of the newest {keep}"
    old = [model.version for model in found if model.version not in kept]
    if old:
        starts = _starts(store)
        kept |= {version: "pairs started from it" for version in old if version in starts}
        old = [version for version in old if version not in starts]
    for version, why in kept.items():
        log(f"{version}: stays: {why}")
    for version in old:
        if lease:
            lease.check()
            # The card first: without it there is no model, and so never half of one.
            card = registry.model_object(version, registry.CARD)
            for name in sorted(objects[version], key=lambda name: name != card):
                store.delete(name)
        log(f"{version}: {'deleted' if lease else 'would be deleted'}, {len(objects[version])} objects")
    if old and not lease:
        log("nothing was deleted; --yes does it")
    return {"kept": kept, "to_delete": [] if lease else old, "deleted": old if lease else []}


def _models(store: Store) -> list[Model]:
    """By snapshot and date."""
    now, names, dates = registry.current(store) or {}, list(registry.versions(store)), _dates(store)
    with ThreadPoolExecutor(_READERS) as pool:
        cards = pool.map(lambda version: registry.read_card(store, version), names)
        found = [
            _model(version, card, now, dates.get(version)) for version, card in zip(names, cards, strict=True)
        ]
    return sorted(found, key=lambda model: (model.snapshot, model.trained or "", model.version))


def _model(version: str, card: dict[str, Any] | None, now: dict[str, Any], date: str | None) -> Model:
    evaluation = (card or {}).get("evaluation", {})
    why = (card or {}).get(REFUSED, {}).get("why")
    if version == now.get("version"):
        state = "published"
    elif card is None:
        state = "unfinished"
    elif version in now.get("withdrawn", ()):
        state = "withdrawn"
    elif version == now.get("previous"):
        state = "previous"
    elif why:
        state = "refused"
    else:
        state = "scored" if evaluation else "trained"
    return Model(
        version=version,
        snapshot=registry.snapshot_of(version),
        trained=date,
        photos=evaluation.get("photos"),
        objective=evaluation.get("model", {}).get("total"),
        worth_iterations=evaluation.get("worth_iterations"),
        state=state,
        why=why,
    )


def _dates(store: Store) -> dict[str, str]:
    """When the first run that trained a version, or tried to, began. Names of runs begin with their time."""
    names = [name for name in store.list("runs") if name.endswith(_TRAININGS)]
    dates: dict[str, str] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda name: read_document(store, name), names)
        for name, summary in zip(names, found, strict=True):
            with intact(store, name):
                dates.setdefault(summary.get("version", ""), summary["started"])
    return dates


def _starts(store: Store) -> set[str]:
    """Versions that pairs started from; of each unit one column is read."""

    def inits(unit: str) -> set[str | None]:
        table = store.view(units.unit_object(unit), lambda file: pq.read_table(file, columns=["init"]))
        return set(table["init"].to_pylist())

    done = units.done_units(store)
    log(f"looking into {len(done):,} units for models that pairs started from")
    with ThreadPoolExecutor(_READERS) as pool:
        named = {init for found in pool.map(inits, done) for init in found if init}
    return {init.removeprefix("model:").partition("@")[0] for init in named}


def _table(found: Sequence[Model]) -> list[str]:
    """For people."""
    if not found:
        return ["no model yet"]
    lines = [f"{'version':>20} {'snapshot':>8} {'trained (UTC)':>16} {'objective':>14} {'worth':>6}  state"]
    for model in found:
        date = model.trained[:16].replace("T", " ") if model.trained else "-"
        objective = "-" if model.objective is None else f"{model.objective:,.0f}"
        worth = "-" if model.worth_iterations is None else f"{model.worth_iterations:,}"
        why = model.why.removeprefix(f"{model.version}: ") if model.why else ""
        lines.append(
            f"{model.version:>20} {model.snapshot:>8} {date:>16} {objective:>14} {worth:>6}  "
            f"{model.state}{f': {why}' if model.state == 'refused' else ''}"
        )
    return lines
