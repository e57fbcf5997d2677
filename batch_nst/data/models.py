"""Published models as objects: `models/<version>/` and the pointer `models/CURRENT`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from batch_nst.data.storage import Store
from batch_nst.errors import IncompleteError, LeaseError, WeightsError

CURRENT = "models/CURRENT"
WEIGHTS, GRAPH, CARD = "model.safetensors", "model.onnx", "model.json"
PREVIEW, README = "preview.jpg", "README.md"
TRAINING = "training"
"""The folder of a version's training log; see `pipelines.training_log`."""


def model_object(version: str, name: str) -> str:
    """Where a version's object lies below the output."""
    return f"models/{version}/{name}"


def read_card(store: Store, version: str) -> dict[str, Any] | None:
    """A version's `model.json`, which is written last; None while there is no such version.

    Raises:
        WeightsError: it is damaged.
    """
    return _read(store, model_object(version, CARD))


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


def read_weights(store: Store, version: str) -> bytes:
    """A version's `model.safetensors`; whether it is the one that `model.json` means, `load_net` tells.

    Raises:
        WeightsError: it is gone.
    """
    name = model_object(version, WEIGHTS)
    try:
        return store.read(name)
    except FileNotFoundError as error:
        raise WeightsError(f"{store.join(name)}: is gone, and {CARD} beside it is not") from error


def current(store: Store) -> dict[str, Any] | None:
    """What is published: `version`, `previous`, `digests`, `token`; None before the first time.

    Raises:
        WeightsError: it is damaged.
    """
    return _read(store, CURRENT)


def point(store: Store, version: str, digests: Mapping[str, str], token: int) -> dict[str, Any]:
    """Make a version the published one, in one write.

    Raises:
        LeaseError: a run with a later lease has published meanwhile.
    """
    before = current(store)
    if before and before["token"] > token:
        raise LeaseError(
            f"{before['version']} was published under lease {before['token']}, later than ours {token}"
        )
    pointer = {
        "version": version,
        "previous": before["version"] if before else None,
        "digests": dict(digests),
        "token": token,
    }
    store.replace(CURRENT, (json.dumps(pointer, indent=1) + "\n").encode())
    return pointer


def _read(store: Store, name: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(store.read(name)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{store.join(name)}: is damaged: {error}") from error
