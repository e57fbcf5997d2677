"""A trained model by its address, for pictures in memory; and the same for slow transfer. Without Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
import torch
from torch import Tensor

from batch_nst.console import log
from batch_nst.data.dataset.manifest import SETTINGS
from batch_nst.data.images.codec import Pixels, resize_short_side
from batch_nst.data.images.style import StyleImage
from batch_nst.data.models import registry
from batch_nst.data.models.registry import ModelCard
from batch_nst.data.storage.store import Store
from batch_nst.engine.device import Device, Precision, choose_device, choose_dtype
from batch_nst.engine.model_io import load_net, one_at_a_time, stylize_image
from batch_nst.engine.slow_transfer import Optimizer, optimise
from batch_nst.engine.tiling import stylize_tiles
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.errors import RecipeError, WeightsError
from batch_nst.pipelines.objective import Objectives, to_pixels, to_tensor
from batch_nst.recipe import Loss, Vgg

MAX_WHOLE = 2048 * 2048
"""Pixels of a picture that is painted at once, with some 640 bytes for each; larger ones in tiles."""


@dataclass(frozen=True)
class FastModel:
    """A fast style-transfer model; call it with a picture."""

    net: TransformerNet
    card: ModelCard
    device: torch.device
    dtype: torch.dtype = torch.float32
    """Of the convolutions."""

    def __call__(self, picture: Pixels) -> Pixels:
        """Paint a picture, uint8 (H, W, 3) sRGB of at least 16 pixels a side; the result has its size.

        Raises:
            MemoryError: the device has too little memory for it, in tiles too.
        """
        image = torch.from_numpy(np.array(picture))
        height, width, _ = image.shape
        for way in (stylize_image, stylize_tiles)[height * width > MAX_WHOLE :]:
            with suppress(torch.OutOfMemoryError):
                return self._painted(way, image)
            torch.cuda.empty_cache()
        raise MemoryError(f"{width} x {height} pixels are too many for the memory of {self.device}")

    def _painted(
        self, way: Callable[[TransformerNet, Tensor, torch.device], Tensor], image: Tensor
    ) -> Pixels:
        half = self.dtype == torch.bfloat16
        # All threads would share the cache of cast weights.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            painted: Pixels = way(self.net, image, self.device).numpy()
        return painted


@dataclass(frozen=True)
class ModelFiles:
    """A model as it is stored, read once for any number of workers; some 7 MB."""

    version: str
    card: ModelCard
    """`model.json`."""
    weights: bytes
    """`model.safetensors`."""
    home: str
    """The folder that both were read from."""

    @cached_property
    def name(self) -> str:
        """Which weights exactly: the version and the beginning of their sha256."""
        return f"{self.version}@{hashlib.sha256(self.weights).hexdigest()[:12]}"

    def on(self, device: torch.device) -> FastModel:
        """The model, ready to paint.

        Raises:
            WeightsError: the files do not belong together.
        """
        return FastModel(self._net().to(device), self.card, device)

    def painter(self, device: torch.device, precision: Precision = "auto") -> FastModel:
        """The model, ready to paint as fast as it can; its pictures are those of `on` but for rounding.

        Raises:
            WeightsError: the files do not belong together.
        """
        net = one_at_a_time(self._net()).to(device).to(memory_format=torch.channels_last)
        return FastModel(net, self.card, device, choose_dtype(device, precision))

    def _net(self) -> TransformerNet:
        try:
            return load_net(self.weights, self.card)
        except WeightsError as error:
            raise WeightsError(f"{self.home}/{error}") from error


def load_model(uri: str, device: Device = "auto") -> FastModel:
    """The model of an output (the published one), or of a folder models/VERSION or a copy of one.

    Local or in a bucket.

    Raises:
        RecipeError: there is no model at `uri`.
        WeightsError: its files do not belong together.
    """
    return read_model(uri).on(choose_device(device))


def read_model(uri: str) -> ModelFiles:
    """The files of the model that `load_model` takes.

    Raises:
        RecipeError: there is no model at `uri`.
        WeightsError: a file is gone, or `model.json` is damaged.
    """
    folder = _find_model(uri)
    card = registry.read_folder_card(folder)
    if card is None:
        raise WeightsError(f"{folder.join(registry.CARD)}: is gone, and {registry.CURRENT} means it")
    version = str(card.get("version", PurePosixPath(folder.uri).name))
    return ModelFiles(version, card, registry.read_folder_weights(folder), folder.uri)


def read_start(uri: str, store: Store, key: str, otherwise: str) -> ModelFiles | None:
    """The model that something starts from; None where an output that has been begun has published none yet.

    That is this output in its first night, and it is said.

    Args:
        uri: of an output or of a version's folder.
        store: the output.
        key: of the recipe, that names the model.
        otherwise: what starts from what where there is none, for people.

    Raises:
        RecipeError: there is no such model or output, or its files do not belong together.
    """
    try:
        place = Store(uri)
        if (place.uri == store.uri or place.exists(SETTINGS)) and registry.current(place) is None:
            log(f"{key}: {uri} has no published model yet: {otherwise}")
            return None
        model = read_model(uri)
        model.on(torch.device("cpu"))
    except RecipeError as error:
        raise RecipeError(f"{key}: {error}") from error
    return model


def _find_model(uri: str) -> Store:
    """The folder that a model's address means.

    Raises:
        RecipeError: it is neither an output with a published model nor a model's folder.
    """
    store = Store(uri)
    if store.exists(registry.CARD):
        return store
    pointer = registry.current(store)
    if pointer is None:
        raise RecipeError(
            f"model {uri}: found neither models/CURRENT below it nor model.json in it; "
            "allowed: an output with a published model, or a model's folder"
        )
    return Store(store.join(f"models/{pointer['version']}"))


def stylize(
    images: Sequence[Pixels],
    style: Pixels,
    *,
    style_size: int = 256,
    iterations: int = 300,
    loss: Loss | None = None,
    optimizer: Optimizer = "lbfgs",
    device: Device = "auto",
    precision: Precision = "auto",
) -> list[Pixels]:
    """Slow transfer of pictures in memory, with the bundled VGG-16.

    Args:
        images: uint8 (H, W, 3) sRGB pictures; those of one size are optimised together.
        style: the painting, uint8 (H, W, 3) sRGB.
        style_size: its short side when it is looked at.
        iterations: steps for each image.
        loss: layers and weights; none: the defaults of a recipe.
        optimizer: `lbfgs` or `adam`.
        device: where to compute.
        precision: of VGG's convolutions.

    Returns:
        The stylized pictures, in the order and the sizes given.
    """
    objectives = Objectives.on(
        StyleImage.of_pixels(resize_short_side(style, style_size)),
        loss or Loss(),
        Vgg(),
        choose_device(device).type,
        precision,
        torch.get_num_threads(),
    )
    stylized: list[Pixels | None] = [None] * len(images)
    for shape in sorted({image.shape for image in images}):
        members = [index for index, image in enumerate(images) if image.shape == shape]
        content = to_tensor(np.stack([images[index] for index in members]), objectives.device)
        found = to_pixels(optimise(objectives.fast, content, iterations, optimizer).images)
        for index, picture in zip(members, found, strict=True):
            stylized[index] = picture
    return [picture for picture in stylized if picture is not None]
