"""The bytes of the VGG-16 weights file: the bundled Oxford release, or another one by URI."""

from __future__ import annotations

import hashlib
from importlib import resources

from safetensors import SafetensorError, deserialize

from batch_nst.data.storage.fetch import fetch
from batch_nst.errors import StorageError, WeightsError
from batch_nst.recipe import Vgg

BUNDLED_SHA256 = "22ef4f038bfe19c5df3859602439ed52773d53ed5c2ebd49095101ba124bfc56"

_MAX_BYTES = 1 << 30


def read_weights(vgg: Vgg) -> bytes:
    """The weights file that a recipe names.

    Raises:
        WeightsError: it cannot be read, or the bundled one is not the file that was shipped.
    """
    if vgg.weights == "bundled":
        return bundled_weights()
    try:
        return fetch(vgg.weights, _MAX_BYTES)
    except (OSError, ValueError, StorageError) as error:
        raise WeightsError(f"vgg.weights: {vgg.weights}: cannot be read: {error}") from error


def check_format(vgg: Vgg) -> None:
    """Refuse a weights file of another format, such as one of pickle; its tensors are looked at with torch.

    The bundled file is not read for it.

    Raises:
        WeightsError: it is no safetensors file, or cannot be read.
    """
    if vgg.weights == "bundled":
        return
    try:
        deserialize(read_weights(vgg))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise WeightsError(f"vgg.weights: {vgg.weights}: is not a safetensors file: {error}") from error


def weights_digest(vgg: Vgg) -> str:
    """The sha256 of the weights file that a recipe names; the bundled file is not read for it."""
    return BUNDLED_SHA256 if vgg.weights == "bundled" else hashlib.sha256(read_weights(vgg)).hexdigest()


def bundled_weights() -> bytes:
    """The Oxford release, CC BY 4.0, K. Simonyan and A. Zisserman; see `weights/README.md` in the package.

    Raises:
        WeightsError: the file is missing or is not the one that was shipped.
    """
    file = resources.files("batch_nst") / "weights" / "vgg16-oxford.safetensors"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"bundled VGG-16 weights {file}: cannot be read: {error}; reinstall") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != BUNDLED_SHA256:
        raise WeightsError(
            f"bundled VGG-16 weights {file}: sha256 {digest}, must be {BUNDLED_SHA256}; reinstall"
        )
    return data
