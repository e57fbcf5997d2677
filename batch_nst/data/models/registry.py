"""Models as objects: naming, versions, `models/<version>/` and the pointer `models/CURRENT`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field

from batch_nst.data.dataset.defaults import deciding
from batch_nst.data.dataset.snapshot import Snapshot
from batch_nst.data.storage.documents import intact, read_document
from batch_nst.data.storage.store import Store
from batch_nst.errors import IncompleteError, LeaseError, StorageError, WeightsError
from batch_nst.recipe import Recipe, Train

CURRENT = "models/CURRENT"
WEIGHTS, GRAPH, CARD = "model.safetensors", "model.onnx", "model.json"
PREVIEW, README = "preview.jpg", "README.md"
TRAINING = "training"
"""The folder of a version's training log; see `pipelines.training_log`."""
FAILED = "failed"
"""Beside it where a training has failed of itself: gone on with from its last checkpoint, it fails alike."""

_Version = Annotated[str, Field(pattern=r"^[\w-]+$")]
"""A folder's name, and no way out of it."""


class _Card(BaseModel):
    """What is read of a `model.json` by name."""

    digests: dict[str, str] = {}
    evaluation: dict[str, Any] = {}
    refused: dict[str, Any] = {}


class _Pointer(BaseModel):
    """Likewise of `models/CURRENT`."""

    version: _Version
    previous: _Version | None
    withdrawn: list[_Version] = []
    digests: dict[str, str]
    token: int


_VERSION = re.compile(r"(?:models|checkpoints)/((\d{6,})-[0-9a-f]+)/")


def model_object(version: str, name: str) -> str:
    """Where a version's object lies below the output."""
    return f"models/{version}/{name}"


def versions(store: Store) -> dict[str, list[str]]:
    """Names of the objects of each version, finished or not; its checkpoints are among them."""
    found: dict[str, list[str]] = {}
    for name in [*store.list("models"), *store.list("checkpoints")]:
        if match := _VERSION.match(name):
            found.setdefault(match[1], []).append(name)
    return dict(sorted(found.items()))


def snapshot_of(version: str) -> int:
    """The number of the snapshot that a version was fitted to."""
    return int(version.partition("-")[0])


def read_card(store: Store, version: str) -> dict[str, Any] | None:
    """A version's `model.json`, which is written last; None while there is no such version.

    Raises:
        WeightsError: it is damaged.
    """
    return _read(store, model_object(version, CARD), _Card)


def require_card(store: Store, version: str) -> dict[str, Any]:
    """As `read_card`.

    Raises:
        IncompleteError: there is no such version.
        WeightsError: it is damaged.
    """
    card = read_card(store, version)
    if card is None:
        raise IncompleteError(
            f"{store.uri}: no model for this recipe and dataset; run `batch-nst train` first"
        )
    return card


def write_card(store: Store, version: str, card: Mapping[str, Any]) -> None:
    """Replace a version's `model.json`."""
    store.replace(model_object(version, CARD), (json.dumps(card, indent=1) + "\n").encode())


def write_part(store: Store, version: str, name: str, data: bytes) -> str:
    """Write one of a version's objects and return its sha256, for the card's `digests`."""
    store.replace(model_object(version, name), data)
    return hashlib.sha256(data).hexdigest()


def read_folder_card(folder: Store) -> dict[str, Any] | None:
    """The `model.json` of a folder, wherever it lies; None where there is none.

    Raises:
        WeightsError: it is damaged.
    """
    return _read(folder, CARD, _Card)


def read_folder_weights(folder: Store) -> bytes:
    """The `model.safetensors` beside it, as `read_weights`."""
    return _read_part(folder, WEIGHTS)


def read_weights(store: Store, version: str) -> bytes:
    """A version's `model.safetensors`; whether it is the one that `model.json` means, `load_net` tells.

    Raises:
        WeightsError: it is gone.
    """
    return _read_part(store, model_object(version, WEIGHTS))


def check_parts(store: Store, version: str, card: Mapping[str, Any]) -> None:
    """Return if weights and graph are those that `model.json` means.

    Raises:
        WeightsError: one is gone, or another.
    """
    for name in (WEIGHTS, GRAPH):
        if name in card["digests"]:
            digest = hashlib.sha256(_read_part(store, model_object(version, name))).hexdigest()
            if digest != card["digests"][name]:
                raise WeightsError(
                    f"{store.join(model_object(version, name))}: sha256 is {digest}, but {CARD} says "
                    f"{card['digests'][name]}"
                )


def current(store: Store) -> dict[str, Any] | None:
    """What is published: `version`, `previous`, `digests`, `token`; None before the first time.

    And `withdrawn`: versions that were published, and that no night publishes again. Pointers of version
    0.1.0 have no such list.

    Raises:
        WeightsError: it is damaged.
    """
    return _read(store, CURRENT, _Pointer)


def point(
    store: Store, version: str, digests: Mapping[str, str], token: int, withdraw: bool = False
) -> dict[str, Any]:
    """Make a version the published one, in one write.

    Args:
        store: the output.
        version: that is published from then on.
        digests: of its objects.
        token: of the lease held.
        withdraw: the one that was published until then.

    Raises:
        LeaseError: a run with a later lease has published meanwhile.
    """
    before = current(store)
    if before and before["token"] > token:
        raise LeaseError(
            f"{before['version']} was published under lease {before['token']}, later than ours {token}"
        )
    withdrawn = set(before.get("withdrawn", ())) if before else set()
    if before and withdraw:
        withdrawn.add(before["version"])
    pointer = {
        "version": version,
        "previous": before["version"] if before else None,
        "withdrawn": sorted(withdrawn - {version}),
        "digests": dict(digests),
        "token": token,
    }
    store.replace(CURRENT, (json.dumps(pointer, indent=1) + "\n").encode())
    return pointer


def _read_part(store: Store, name: str) -> bytes:
    try:
        return store.read(name)
    except FileNotFoundError as error:
        raise WeightsError(f"{store.join(name)}: is gone, and {CARD} beside it is not") from error


def _read(store: Store, name: str, shape: type[BaseModel]) -> dict[str, Any] | None:
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
    return document


_NOT_IN_NAME = {"workers", "device", "precision", "checkpoint_steps", "min_done"}
"""Keys of `train` that say where and how often, not what."""
_LATER = {"init", "network"}
"""Keys of `train` that are younger than the names of trainings; see `deciding`."""


def architecture_of(settings: Train) -> dict[str, Any]:
    """As it stands in `model.json`."""
    return {"name": settings.network, "width": settings.width}


def training_version(recipe: Recipe, snapshot: Snapshot) -> str:
    """The name of a model: its snapshot's number and a hash of all that decides its weights.

    That is the number of the first snapshot with these pairs: where photos have come of which none is made
    yet, there is a new snapshot, and nothing new to learn.

    A model that training starts from is in it by its address: that of an output means another model once a
    better one is published there, and a training that is done is not done again for that.
    """
    decides = {
        "snapshot": snapshot.digest,
        "loss": deciding(recipe, "loss"),
        "vgg": deciding(recipe, "vgg"),
        "train": deciding(recipe, "train", _NOT_IN_NAME, _LATER),
    }
    digest = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=6)
    return f"{snapshot.first:06}-{digest.hexdigest()}"
