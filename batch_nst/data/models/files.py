"""The files of a model, wherever they lie: an output, a folder, or the zoo in the package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from batch_nst.data.models import registry
from batch_nst.data.models.registry import ModelCard
from batch_nst.data.storage.store import Store
from batch_nst.errors import RecipeError, WeightsError

ZOO = Path(__file__).parents[2] / "zoo"
"""Folder of the models that ship with the package, one folder each."""
IN_ZOO = "zoo:"
"""What the address of a model of the zoo begins with."""


@dataclass(frozen=True)
class ModelFiles:
    """A model as it is stored, read once for any number of workers; about 3.5 MB."""

    version: str
    card: ModelCard
    """`model.json`."""
    weights: bytes
    """`model.safetensors`."""
    home: str
    """URI of the folder that both were read from."""

    @cached_property
    def name(self) -> str:
        """The version and the beginning of the weights' SHA-256."""
        return f"{self.version}@{hashlib.sha256(self.weights).hexdigest()[:12]}"

    @contextmanager
    def naming_home(self) -> Iterator[None]:
        """Errors about the files name the folder that they lie in."""
        try:
            yield
        except WeightsError as error:
            raise WeightsError(f"{self.home}/{error}") from error


def read_model(uri: str) -> ModelFiles:
    """The files of a model.

    read_model("s3://bucket/output")
    read_model("zoo:great_wave")

    Args:
        uri: an output with a published model, a folder models/VERSION or a copy of one, or a name in the
            zoo: `zoo:NAME`, or NAME alone where no such path exists.

    Raises:
        RecipeError: `uri` holds no model.
        WeightsError: a file is missing, or `model.json` is damaged.
    """
    folder = _find(uri)
    card = registry.read_folder_card(folder)
    if card is None:
        raise WeightsError(f"{folder.join(registry.CARD)}: is gone, and {registry.CURRENT} means it")
    version = str(card.get("version", PurePosixPath(folder.uri).name))
    return ModelFiles(version, card, registry.read_folder_weights(folder), folder.uri)


def zoo_names() -> list[str]:
    """The models that ship with the package, in order."""
    return sorted(card.parent.name for card in ZOO.glob(f"*/{registry.CARD}"))


def is_in_zoo(uri: str) -> bool:
    """Whether an address means a model of the zoo."""
    return uri.startswith(IN_ZOO) or (uri in zoo_names() and not Path(uri).exists())


def _find(uri: str) -> Store:
    """The folder of the model at an address.

    Raises:
        RecipeError: `uri` is neither an output with a published model nor a model's folder.
    """
    if is_in_zoo(uri):
        name = uri.removeprefix(IN_ZOO)
        if name not in zoo_names():
            raise RecipeError(f"model {uri}: the zoo has no {name!r}; allowed: {', '.join(zoo_names())}")
        return Store(str(ZOO / name))
    store = Store(uri)
    if store.exists(registry.CARD):
        return store
    pointer = registry.current(store)
    if pointer is None:
        raise RecipeError(
            f"model {uri}: found neither models/CURRENT below it nor model.json in it; "
            "allowed: an output with a published model, a model's folder, or one of the zoo "
            f"({', '.join(zoo_names())})"
        )
    return Store(store.join(f"models/{pointer['version']}"))
