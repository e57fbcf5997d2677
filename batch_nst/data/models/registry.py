"""The models of an output: names of versions, the objects of each, and the pointer `models/CURRENT`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar, cast

from pydantic import BaseModel, Field

from batch_nst.data.dataset.defaults import deciding
from batch_nst.data.dataset.manifest import LossSettings
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.models.evaluation import Evaluation
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError, LeaseError, StorageError, WeightsError
from batch_nst.recipe import Network, Recipe, Train

CURRENT = "models/CURRENT"
WEIGHTS, GRAPH, CARD = "model.safetensors", "model.onnx", "model.json"
PREVIEW, README = "preview.jpg", "README.md"
TRAINING = "training"
"""Folder of a version's training log; see `pipelines.train.log`."""
FAILED = "failed"
"""Object of a version whose training diverged. It is not resumed: from its last checkpoint it would again."""


class Architecture(TypedDict):
    """The network of a model."""

    name: Network
    width: int
    """Channels at full resolution."""


class ObjectiveSection(TypedDict):
    """What the perceptual loss of a model was measured with."""

    loss: LossSettings
    style_size: int
    vgg_input: str
    gram_divisor: str


class SnapshotSection(TypedDict):
    """The first snapshot with the pairs that a model learned from."""

    number: int
    digest: str
    counts: dict[str, int]


class StepLosses(TypedDict):
    """Losses of one step of a training; models of earlier releases lack some."""

    loss: float
    objective: NotRequired[float]
    content: NotRequired[float]
    style: NotRequired[float]
    feature: NotRequired[float]
    pixel: NotRequired[float]
    checkerboard: NotRequired[float]


class CurvePoint(StepLosses):
    """A point of a training curve."""

    step: int


History = list[CurvePoint]
"""A training curve: the losses at some of the steps, in order."""


class TrainingSection(TypedDict):
    """How a model was trained."""

    steps: int
    init: NotRequired[str]
    """`random`, or the name of the model whose weights were the first."""
    skipped: NotRequired[int]
    history: History


class Licenses(TypedDict):
    """The licences that the recipe states."""

    weights: str
    style: str
    photos: str


class Rival(TypedDict):
    """The published model that a candidate was compared with."""

    version: str
    objective: NotRequired[float]
    """Geometric mean over the photos that both were scored on; absent where there are none."""


class Refusal(TypedDict):
    """Why the gate refused a candidate, with the figures that decided it."""

    why: str
    objective: NotRequired[float]
    max_objective: NotRequired[float]
    published: NotRequired[Rival]
    margin: NotRequired[float]
    photos: NotRequired[int]


class ModelCard(TypedDict):
    """`model.json`: what decided a version's weights, and what is known of it."""

    version: str
    batch_nst: str
    architecture: Architecture
    digests: dict[str, str]
    """SHA-256 in hex of the version's files, and of `style` and `vgg`."""
    objective: ObjectiveSection
    recipe: dict[str, Any]
    """The whole recipe as JSON; its keys are those of `recipe.Recipe`."""
    snapshot: SnapshotSection
    training: TrainingSection
    licenses: NotRequired[Licenses]
    evaluation: NotRequired[Evaluation]
    refused: NotRequired[Refusal]
    """See `gate`."""


class Pointer(TypedDict):
    """`models/CURRENT`: what is published."""

    version: str
    previous: str | None
    """What was published before."""
    withdrawn: NotRequired[list[str]]
    """Versions that `rollback` replaced and no run publishes again. Pointers of 0.1.0 lack the list."""
    digests: dict[str, str]
    token: int
    """Fencing token of the lease under which it was published."""


_Version = Annotated[str, Field(pattern=r"^[\w-]+$")]
"""The name of a folder: it cannot lead out of its parent."""


class _Section(BaseModel):
    """A JSON object."""


class _Card(BaseModel):
    """The keys of `model.json` that are validated."""

    digests: dict[str, str] = {}
    evaluation: _Section = _Section()
    refused: _Section = _Section()


class _Pointer(BaseModel):
    """The keys of `models/CURRENT` that are validated."""

    version: _Version
    previous: _Version | None
    withdrawn: list[_Version] = []
    digests: dict[str, str]
    token: int


_VERSION = re.compile(r"(?:models|checkpoints)/((\d{6,})-[0-9a-f]+)/")
_Document = TypeVar("_Document")


def model_object(version: str, name: str) -> str:
    """The key of a version's object below the output."""
    return f"models/{version}/{name}"


def versions(store: Store) -> dict[str, list[str]]:
    """Names of the objects of each version, finished or not, checkpoints included."""
    found: dict[str, list[str]] = {}
    for name in [*store.list("models"), *store.list("checkpoints")]:
        if match := _VERSION.match(name):
            found.setdefault(match[1], []).append(name)
    return dict(sorted(found.items()))


def snapshot_of(version: str) -> int:
    """The number of the snapshot that a version was trained on."""
    return int(version.partition("-")[0])


def read_card(store: Store, version: str) -> ModelCard | None:
    """A version's `model.json`; None if the version does not exist or is unfinished: it is written last.

    Raises:
        WeightsError: `model.json` is damaged.
    """
    return _read(store, model_object(version, CARD), _Card, ModelCard)


def require_card(store: Store, version: str) -> ModelCard:
    """A version's `model.json`.

    Raises:
        IncompleteError: the version does not exist or is unfinished.
        WeightsError: `model.json` is damaged.
    """
    card = read_card(store, version)
    if card is None:
        raise IncompleteError(
            f"{store.uri}: no model for this recipe and dataset; run `batch-nst train` first"
        )
    return card


def write_card(store: Store, version: str, card: ModelCard) -> None:
    """Replace a version's `model.json`."""
    store.replace(model_object(version, CARD), (json.dumps(card, indent=1) + "\n").encode())


def write_part(store: Store, version: str, name: str, data: bytes) -> str:
    """Write one of a version's objects and return its sha256, for the card's `digests`."""
    store.replace(model_object(version, name), data)
    return hashlib.sha256(data).hexdigest()


def read_folder_card(folder: Store) -> ModelCard | None:
    """The `model.json` of any folder; None if the folder has no such file.

    Raises:
        WeightsError: `model.json` is damaged.
    """
    return _read(folder, CARD, _Card, ModelCard)


def read_folder_weights(folder: Store) -> bytes:
    """The `model.safetensors` of any folder; errors as in `read_weights`."""
    return _read_part(folder, WEIGHTS)


def read_weights(store: Store, version: str) -> bytes:
    """A version's `model.safetensors`. Its digest is not checked here: `load_net` does that.

    Raises:
        WeightsError: the object is missing.
    """
    return _read_part(store, model_object(version, WEIGHTS))


def check_parts(store: Store, version: str, card: ModelCard) -> None:
    """Check that weights and graph have the digests that `model.json` states.

    Raises:
        WeightsError: one of them is missing or has another digest.
    """
    for name in (WEIGHTS, GRAPH):
        if name in card["digests"]:
            digest = hashlib.sha256(_read_part(store, model_object(version, name))).hexdigest()
            if digest != card["digests"][name]:
                raise WeightsError(
                    f"{store.join(model_object(version, name))}: sha256 is {digest}, but {CARD} says "
                    f"{card['digests'][name]}"
                )


def current(store: Store) -> Pointer | None:
    """The published model; None before anything was published.

    Raises:
        WeightsError: `models/CURRENT` is damaged.
    """
    return _read(store, CURRENT, _Pointer, Pointer)


def point(
    store: Store, version: str, digests: Mapping[str, str], token: int, withdraw: bool = False
) -> Pointer:
    """Publish a version, in one write.

    Args:
        store: the output.
        version: the version to publish.
        digests: SHA-256 of its objects.
        token: fencing token of the lease that the caller holds.
        withdraw: withdraw the version that is published now.

    Raises:
        LeaseError: a run with a later lease has published in the meantime.
    """
    before = current(store)
    if before and before["token"] > token:
        raise LeaseError(
            f"{before['version']} was published under lease {before['token']}, later than ours {token}"
        )
    withdrawn = set(before.get("withdrawn", ())) if before else set()
    if before and withdraw:
        withdrawn.add(before["version"])
    pointer: Pointer = {
        "version": version,
        "previous": before["version"] if before else None,
        "withdrawn": sorted(withdrawn - {version}),
        "digests": dict(digests),
        "token": token,
    }
    store.replace(CURRENT, (json.dumps(pointer, indent=1) + "\n").encode())
    return pointer


def panel_columns(store: Store, version: str) -> list[tuple[str, bytes]]:
    """Name and JPEG of each column of a training's panel: the photos, the optimised images, each step."""
    folder = model_object(version, TRAINING)
    names = {kind: f"{folder}/{kind}.jpg" for kind in ("photo", "optimised")}
    names |= {f"step {step}": name for step, name in store.numbered(folder, ".jpg").items()}
    columns = []
    for title, name in names.items():
        # A picture is deleted when training goes back to a checkpoint before it.
        with contextlib.suppress(FileNotFoundError):
            columns.append((title, store.read(name)))
    return columns


def _read_part(store: Store, name: str) -> bytes:
    try:
        return store.read(name)
    except FileNotFoundError as error:
        raise WeightsError(f"{store.join(name)}: is gone, and {CARD} beside it is not") from error


def _read(
    store: Store, name: str, shape: type[BaseModel], document_type: type[_Document]
) -> _Document | None:
    try:
        document = read_document(store, name)
        with intact(store, name):
            shape.model_validate(document, strict=True)
    except FileNotFoundError:
        return None
    except StorageError as error:
        if isinstance(error.__cause__, OSError):  # of the store
            raise
        raise WeightsError(str(error)) from error
    return cast(_Document, document)


_NOT_IN_NAME = {"workers", "device", "precision", "checkpoint_steps", "min_done"}
"""Keys of `train` that do not change the weights."""
_LATER = {"init", "network"}
"""Keys of `train` that are younger than the names of trainings; see `deciding`."""


def architecture_of(settings: Train) -> Architecture:
    """The section `architecture` of `model.json`."""
    return {"name": settings.network, "width": settings.width}


def training_version(recipe: Recipe, snapshot: Snapshot) -> str:
    """The name of a model: its snapshot's number and a hash of everything that decides its weights.

    The number is that of the first snapshot with these pairs. New photos without finished pairs make a new
    snapshot, but there is nothing new to learn.

    A model that training starts from enters the hash by its address. The address of an output may later mean
    a better model; a finished training is not repeated for that.
    """
    decides = {
        "snapshot": snapshot.digest,
        "loss": deciding(recipe, "loss"),
        "vgg": deciding(recipe, "vgg"),
        "train": deciding(recipe, "train", _NOT_IN_NAME, _LATER),
    }
    digest = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=6)
    return f"{snapshot.first:06}-{digest.hexdigest()}"
