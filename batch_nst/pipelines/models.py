"""The commands `models`, `rollback` and `prune`: list models, publish an earlier one, delete old ones."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from batch_nst.console import log
from batch_nst.data.dataset import units
from batch_nst.data.dataset.manifest import require_settings
from batch_nst.data.dataset.snapshot import SNAPSHOTS
from batch_nst.data.models import registry
from batch_nst.data.models.registry import ModelCard, Pointer
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.lease import Lease
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError
from batch_nst.recipe import Publish
from batch_nst.recipe_file import load_recipe

_READERS = 16
_TRAININGS = ("-train/summary.json", "-nightly/summary.json")
_PUBLISHABLE = ("scored", "previous", "withdrawn")


@dataclass(frozen=True)
class Model:
    """A version, as `batch-nst models` lists it."""

    version: str
    snapshot: int
    trained: str | None
    """Start of the first run that trained it, UTC; None if no run is recorded."""
    photos: int | None
    """Number of held-out images that it was scored on; None, as the next three, before it is scored."""
    objective: float | None
    ratio: float | None
    """R: its objective divided by that of the optimisation; None of a model that version 0.1.0 scored."""
    worth_iterations: int | None
    state: str
    """`published`, `withdrawn` by a rollback, `previous`, `refused`, `scored`, `trained` or `unfinished`."""
    why: str | None
    """Why it was refused."""


@dataclass(frozen=True)
class ModelsFigures:
    """Figures of `batch-nst models`."""

    output: str
    published: str | None
    models: list[Model]
    """Sorted by snapshot and date."""


@dataclass(frozen=True)
class RollbackFigures:
    """Figures of `batch-nst rollback`: what is published afterwards."""

    version: str
    previous: str | None
    withdrawn: list[str] | None
    """None: the pointer was written by version 0.1.0."""


@dataclass(frozen=True)
class PruneFigures:
    """Figures of `batch-nst prune`."""

    kept: dict[str, str]
    """The reason for each version that stays."""
    to_delete: list[str]
    """Without a lease: the versions that would be deleted."""
    deleted: list[str]


def list_models(output: str) -> ModelsFigures:
    """All models of an output, unfinished ones too. Writes nothing.

    Raises:
        RecipeError: the output has no dataset.
        WeightsError: a `model.json` is damaged.
    """
    store = Store(output)
    require_settings(store)
    now, found = registry.current(store), _models(store)
    for line in _table(found):
        log(line)
    return ModelsFigures(store.uri, now["version"] if now else None, found)


def rollback(store: Store, lease: Lease, to: str | None = None) -> RollbackFigures:
    """Publish an earlier model and withdraw the published one, which `nightly` then never publishes again.

    Both happen in one write.

    Args:
        store: the output.
        lease: held on the output.
        to: a version that was scored and not refused; it may have been withdrawn. By default the version that
            was published before, unless it was withdrawn, so that a second call does not undo the first.

    Raises:
        RecipeError: no such model can be published.
        WeightsError: the model is damaged.
    """
    now, version = to_publish(store, to)
    if version == now["version"]:
        log(f"{version} is published already")
        return _figures(now)
    card = registry.require_card(store, version)
    registry.check_parts(store, version, card)
    lease.check()
    pointer = registry.point(store, version, card["digests"], lease.token, withdraw=True)
    log(f"published {version}; {now['version']} is withdrawn: only --to publishes it again")
    return _figures(pointer)


def to_publish(store: Store, to: str | None) -> tuple[Pointer, str]:
    """The pointer as it is, and the version that `rollback` would publish.

    Raises:
        RecipeError: no such model can be published.
    """
    now = registry.current(store)
    if now is None:
        raise RecipeError(f"OUTPUT {store.uri}: no model is published here; `batch-nst nightly` does it")
    before = now["previous"]
    if to is None and (before is None or before in now.get("withdrawn", ())):
        why = f"{before}, which was before, is withdrawn" if before else "none was published before"
        raise RecipeError(f"no model to go back to: {why}; --to publishes any that was not refused")
    version = to or str(before)
    allowed = [model.version for model in _models(store) if model.state in _PUBLISHABLE]
    if version not in (*allowed, now["version"]):
        raise RecipeError(
            f"{version}: cannot be published; allowed: --to a model that was scored and not refused: "
            f"{', '.join(allowed) or 'no other model exists'}"
        )
    return now, version


def _figures(pointer: Pointer) -> RollbackFigures:
    return RollbackFigures(pointer["version"], pointer["previous"], pointer.get("withdrawn"))


def retention(named: str, keep: int | None) -> tuple[str, int]:
    """The output, and the number of models that `prune` keeps there.

    Args:
        named: the file of a recipe, or the URI of an output.
        keep: the number of models; by default the recipe's `publish.keep`.

    Raises:
        RecipeError: the recipe is invalid.
    """
    if not Path(named).is_file():
        return named, keep or Publish().keep
    recipe = load_recipe(named)
    return recipe.output, keep or recipe.publish.keep


def prune(store: Store, keep: int, lease: Lease | None = None) -> PruneFigures:
    """Delete old models with their logs and checkpoints; without a lease only list them.

    It keeps the published model, the one before it, and models that pairs started from. It also keeps models
    of the latest snapshot: one may be in training, and a refused one would be trained again if it were
    deleted.

    Args:
        store: the output.
        keep: number of newest models that stay in any case; refused and unfinished ones do not count.
        lease: held on the output; needed to delete.

    Raises:
        WeightsError: a `model.json` is damaged.
    """
    objects, found = registry.versions(store), _models(store)
    kept = _kept(store, found, keep)
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
            _delete(store, version, objects[version])
        log(f"{version}: {'deleted' if lease else 'would be deleted'}, {len(objects[version])} objects")
    if old and not lease:
        log("nothing was deleted; --yes does it")
    return PruneFigures(kept, [] if lease else old, old if lease else [])


def _kept(store: Store, found: Sequence[Model], keep: int) -> dict[str, str]:
    """The versions that stay, with the reason, judged by their cards and the pointer."""
    newest = [model.version for model in found if model.state not in ("refused", "unfinished")][-keep:]
    latest = max(store.numbered(SNAPSHOTS, ".json"), default=0)
    now = registry.current(store)
    kept = {}
    for model in found:
        if now and model.version == now["version"]:
            kept[model.version] = "published"
        elif now and model.version == now["previous"]:
            kept[model.version] = "published before"
        elif model.snapshot >= latest:
            kept[model.version] = "of the latest snapshot"
        elif model.version in newest:
            kept[model.version] = f"one of the newest {keep}"
    return kept


def _delete(store: Store, version: str, names: Sequence[str]) -> None:
    """Delete a version's objects, the card first: without it the version counts as unfinished."""
    card = registry.model_object(version, registry.CARD)
    for name in sorted(names, key=lambda name: name != card):
        store.delete(name)


def _models(store: Store) -> list[Model]:
    """All versions, sorted by snapshot and date."""
    now, names, dates = registry.current(store), list(registry.versions(store)), _dates(store)
    with ThreadPoolExecutor(_READERS) as pool:
        cards = pool.map(lambda version: registry.read_card(store, version), names)
        found = [
            _model(version, card, now, dates.get(version)) for version, card in zip(names, cards, strict=True)
        ]
    return sorted(found, key=lambda model: (model.snapshot, model.trained or "", model.version))


def _model(version: str, card: ModelCard | None, now: Pointer | None, date: str | None) -> Model:
    evaluation = card.get("evaluation") if card else None
    scores = evaluation.get("model") if evaluation else None
    why = card.get("refused", {}).get("why") if card else None
    return Model(
        version=version,
        snapshot=registry.snapshot_of(version),
        trained=date,
        photos=evaluation.get("photos") if evaluation else None,
        objective=scores.get("total") if scores else None,
        ratio=evaluation["ratios"]["total"] if evaluation and "ratios" in evaluation else None,
        worth_iterations=evaluation.get("worth_iterations") if evaluation else None,
        state=_state(version, card, now),
        why=why,
    )


def _state(version: str, card: ModelCard | None, now: Pointer | None) -> str:
    """The value of `Model.state`."""
    if now and version == now["version"]:
        return "published"
    if card is None:
        return "unfinished"
    if now and version in now.get("withdrawn", ()):
        return "withdrawn"
    if now and version == now["previous"]:
        return "previous"
    if card.get("refused", {}).get("why"):
        return "refused"
    return "scored" if card.get("evaluation") else "trained"


def _dates(store: Store) -> dict[str, str]:
    """Start of the first run that trained each version, or tried to. Names of runs begin with their time."""
    names = [name for name in store.list("runs") if name.endswith(_TRAININGS)]
    dates: dict[str, str] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda name: read_document(store, name), names)
        for name, summary in zip(names, found, strict=True):
            with intact(store, name):
                dates.setdefault(summary.get("version", ""), summary["started"])
    return dates


def _starts(store: Store) -> set[str]:
    """Versions that pairs started from; one column of each unit is read."""

    def inits(unit: str) -> set[str | None]:
        table = store.view(units.unit_object(unit), lambda file: pq.read_table(file, columns=["init"]))
        return set(table["init"].to_pylist())

    done = units.done_units(store)
    log(f"looking into {len(done):,} units for models that pairs started from")
    with ThreadPoolExecutor(_READERS) as pool:
        named = {init for found in pool.map(inits, done) for init in found if init}
    return {init.removeprefix("model:").partition("@")[0] for init in named}


def _table(found: Sequence[Model]) -> list[str]:
    """The lines of a table of models."""
    if not found:
        return ["no model yet"]
    head = f"{'version':>20} {'snapshot':>8} {'trained (UTC)':>16}"
    lines = [f"{head} {'objective':>14} {'R':>6} {'worth':>6}  state"]
    for model in found:
        date = model.trained[:16].replace("T", " ") if model.trained else "-"
        objective = "-" if model.objective is None else f"{model.objective:,.0f}"
        ratio = "-" if model.ratio is None else f"{model.ratio:.2f}"
        worth = "-" if model.worth_iterations is None else f"{model.worth_iterations:,}"
        why = model.why.removeprefix(f"{model.version}: ") if model.why else ""
        lines.append(
            f"{model.version:>20} {model.snapshot:>8} {date:>16} {objective:>14} {ratio:>6} {worth:>6}  "
            f"{model.state}{f': {why}' if model.state == 'refused' else ''}"
        )
    return lines
