"""From a recipe to the engine's tensors: the objective of a style on this device."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from batch_nst.data.images.codec import Pixels, as_stored
from batch_nst.data.images.style import StyleImage
from batch_nst.data.vgg_weights import read_weights
from batch_nst.engine.device import Precision, choose_device, choose_dtype, keep_freed_memory
from batch_nst.engine.perceptual_loss import Losses, PerceptualLoss
from batch_nst.engine.slow_transfer import losses_of, optimise
from batch_nst.engine.vgg import Vgg16
from batch_nst.recipe import Generate, Loss, Recipe, Vgg


@dataclass
class Objectives:
    """A style's objective on one device: `fast` to optimise with, `exact` (fp32) to measure with."""

    style: StyleImage
    loss: Loss
    vgg: Vgg
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def on(
        cls, style: StyleImage, loss: Loss, vgg: Vgg, device: str, precision: Precision, threads: int
    ) -> Objectives:
        """Choose device and precision, and set this process's threads: Ray gives an actor one by default."""
        torch.set_num_threads(threads)
        keep_freed_memory()
        chosen = choose_device("cuda" if device == "cuda" else "cpu")
        return cls(style, loss, vgg, chosen, choose_dtype(chosen, precision))

    @classmethod
    def of_recipe(cls, recipe: Recipe, style: StyleImage, device: str, threads: int) -> Objectives:
        """`on`, with the loss, the weights and the precision that a recipe generates with."""
        return cls.on(style, recipe.loss, recipe.vgg, device, recipe.generate.precision, threads)

    @property
    def engine(self) -> str:
        """Device and precision in words, for a row's `engine` column."""
        return f"{self.device.type} {'bf16' if self.dtype == torch.bfloat16 else 'fp32'}"

    @cached_property
    def fast(self) -> PerceptualLoss:
        """The objective in the chosen precision."""
        return self.exact if self.dtype == torch.float32 else self._build(self.dtype)

    @cached_property
    def exact(self) -> PerceptualLoss:
        """The objective in fp32."""
        return self._build(torch.float32)

    def load(self) -> None:
        """Build both objectives now, so that it counts as start-up and not as work."""
        _ = self.fast, self.exact

    def _build(self, dtype: torch.dtype) -> PerceptualLoss:
        network = load_vgg(self.vgg, PerceptualLoss.layers(self.loss)).at(self.device, dtype)
        return PerceptualLoss.of_style(network, self.loss, to_tensor(self.style.pixels[None], self.device))


class Found(NamedTuple):
    """The results of `optimise_photos`, in the order of the photos."""

    pictures: Pixels
    """Optimised images, uint8 (B, H, W, 3), as a reader of the dataset will decode them."""
    losses: Losses
    """Losses of these pictures, in fp32."""
    curve: Tensor
    """(iterations + 1, B): the loss after each iteration."""
    again: frozenset[int]
    """Indices of images whose loss became NaN or infinite; they were restarted from their photos in fp32."""
    good: list[bool]
    """For each photo, whether all its losses are finite."""


def optimise_photos(
    objectives: Objectives,
    photos: Pixels,
    settings: Generate,
    start: Tensor | None = None,
    on_iteration: Callable[[int], None] | None = None,
) -> Found:
    """Optimise photos of one size as one batch; they do not influence each other.

    Args:
        objectives: the objective of the style.
        photos: uint8 (B, H, W, 3).
        settings: `iterations`, `optimizer` and `encoding` are used.
        start: see `optimise`.
        on_iteration: see `optimise`; not called for images that are restarted.
    """
    content = to_tensor(photos, objectives.device)
    steps, optimizer = settings.iterations, settings.optimizer
    images, curve = optimise(objectives.fast, content, steps, optimizer, on_iteration, start)
    again = frozenset((~curve.isfinite().all(0)).nonzero().flatten().tolist())
    for index in again:
        alone = optimise(objectives.exact, content[index : index + 1], steps, optimizer)
        images[index], curve[:, index] = alone.images[0], alone.curve[:, 0]
    pictures = np.stack([as_stored(picture, settings.encoding) for picture in to_pixels(images)])
    losses = losses_of(objectives.exact, to_tensor(pictures, content.device), content)
    good = (curve.isfinite().all(0) & losses.total.isfinite()).tolist()
    return Found(pictures, losses, curve, again, good)


def load_vgg(vgg: Vgg, layers: Collection[str]) -> Vgg16:
    """The recipe's VGG-16 on the CPU in fp32.

    Raises:
        WeightsError: the file cannot be read, or a layer is missing or of a wrong shape.
    """
    return Vgg16(read_weights(vgg), layers, vgg.input, f"vgg.weights: {vgg.weights}")


def to_tensor(pixels: Pixels, device: torch.device | str = "cpu") -> Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W), 0..255."""
    return torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2).float().contiguous()


def to_pixels(image: Tensor) -> Pixels:
    """Float (B, 3, H, W), 0..255, to uint8 (B, H, W, 3), clamped and rounded to the nearest."""
    rounded = image.clamp(0, 255).round().to(torch.uint8)
    pixels: Pixels = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
