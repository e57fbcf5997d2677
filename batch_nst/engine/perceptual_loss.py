"""The perceptual loss: minimised over pixels in `slow_transfer`, and over weights in `training_loss`.

`L(C, S, X) = content_weight * L_content(C, X) + style_weight * L_style(S, X) + tv_weight * TV(X)`
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from batch_nst.engine.losses import content_loss, gram_matrix, style_loss, total_variation
from batch_nst.engine.vgg import Vgg16
from batch_nst.recipe import Loss


class Losses(NamedTuple):
    """One value per image: the unweighted parts and the weighted total; each (B,), fp32 or better."""

    content: Tensor
    style: Tensor
    total: Tensor


@dataclass(frozen=True)
class PerceptualLoss:
    """The objective of a style: VGG-16, the recipe's weights, and the Gram matrices of the style image.

    objective = PerceptualLoss.of_style(vgg, Loss(), style)
    losses = objective(image, objective.content_targets(photo))
    """

    vgg: Vgg16
    loss: Loss
    style_grams: dict[str, Tensor]

    @property
    def least_side(self) -> int:
        """Smallest side of an image in pixels."""
        return self.vgg.least_side

    @staticmethod
    def layers(loss: Loss) -> set[str]:
        """The VGG-16 layers that an objective uses."""
        return {*loss.content_layers, *loss.style_layers}

    @classmethod
    def of_style(cls, vgg: Vgg16, loss: Loss, style: Tensor) -> PerceptualLoss:
        """The objective for a style image, whose Gram matrices are computed once.

        Args:
            vgg: holds at least `PerceptualLoss.layers(loss)`.
            loss: layers and weights.
            style: (1, 3, H, W), RGB, 0..255, H and W at least `vgg.least_side`.

        Raises:
            ValueError: the shape is wrong, the image is too small, or pixels are NaN or infinite.
        """
        check_images("style", style, vgg.least_side)
        with torch.no_grad():
            activations = vgg(style)
            grams = {
                name: gram(activations[name]) / activations[name][0].numel() for name in loss.style_layers
            }
            return cls(vgg, loss, grams)

    def content_targets(self, content: Tensor) -> dict[str, Tensor]:
        """Activations of photos (B, 3, H, W), RGB, 0..255, that the content loss compares with."""
        with torch.no_grad():
            activations: dict[str, Tensor] = self.vgg(content, self.loss.content_layers.keys())
            return activations

    def __call__(self, image: Tensor, targets: dict[str, Tensor]) -> Losses:
        """The losses of images (B, 3, H, W), RGB, 0..255, against `content_targets` of the same batch."""
        return self.of_activations(image, self.vgg(image), targets)

    def of_activations(
        self, image: Tensor, activations: dict[str, Tensor], targets: dict[str, Tensor]
    ) -> Losses:
        """The same as `__call__`, for a caller that already has the activations of `image`."""
        # Departure from the paper's raw sums: both losses are divided by their number of elements, and a
        # Gram matrix by the C*H*W of its own picture, so that a weight means the same at every resolution.
        zero = image.new_zeros(len(image))
        content = sum(
            (
                weight
                * content_loss(as_full(activations[name]), as_full(targets[name]))
                / targets[name][0].numel()
                for name, weight in self.loss.content_layers.items()
            ),
            start=zero,
        )
        style = sum(
            (
                weight
                * style_loss(_normalised_gram(activations[name]), self.style_grams[name])
                / self.style_grams[name].numel()
                for name, weight in self.loss.style_layers.items()
            ),
            start=zero,
        )
        return self.weighted(image, content, style)

    def weighted(self, image: Tensor, content: Tensor, style: Tensor) -> Losses:
        """The losses of images (B, 3, H, W) whose unweighted parts, each (B,), are known."""
        total = self.loss.content_weight * content + self.loss.style_weight * style
        if self.loss.tv_weight:
            total = total + self.loss.tv_weight * total_variation(image)
        return Losses(content, style, total)

    @torch.no_grad()
    def value_and_gradient(self, image: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The total losses of images and their gradients: as with `__call__` and autograd, but faster.

        Args:
            image: (B, 3, H, W), RGB, 0..255.
            targets: `content_targets` of the same batch.

        Returns:
            (B,) and (B, 3, H, W), fp32 or better. No image's gradient depends on its neighbours.
        """
        recorded = self.vgg.record(image)
        total = image.new_zeros(len(image))
        by_activation: dict[str, Tensor] = {}
        by_gram: dict[str, Tensor] = {}
        for name, weight in self.loss.content_layers.items():
            difference = as_full(recorded.activations[name]) - targets[name]
            factor = self.loss.content_weight * weight / difference[0].numel()
            total += factor * squared_norm(difference)
            by_activation[name] = difference.mul_(2 * factor).to(self.vgg.dtype)
        for name, weight in self.loss.style_layers.items():
            size = recorded.activations[name][0].numel()
            difference = gram(recorded.activations[name]) / size - self.style_grams[name]
            factor = self.loss.style_weight * weight / difference[0].numel()
            total += factor * squared_norm(difference)
            # The derivative of G = A A' in direction D is A D' + D A'; by symmetry, twice either of them.
            by_gram[name] = difference.mul_(4 * factor / size)

        def add_slope(name: str, gradient: Tensor) -> None:
            if name in by_activation:
                gradient.add_(by_activation[name])
            if name in by_gram:
                rows = positions(recorded.activations[name])
                positions(gradient).baddbmm_(rows, by_gram[name].to(rows.dtype))

        slope = self.vgg.pull_back(recorded, add_slope)
        if self.loss.tv_weight:
            with torch.enable_grad():
                pixels = image.detach().requires_grad_()
                variation = total_variation(pixels)
                (roughness,) = torch.autograd.grad(variation.sum(), pixels)
            total += self.loss.tv_weight * variation.detach()
            slope += self.loss.tv_weight * roughness
        return total, slope


def check_images(name: str, images: Tensor, least_side: int) -> None:
    """Refuse images whose loss is not defined.

    Raises:
        ValueError: the shape is not (B, 3, H, W) with B at least 1, a side is below `least_side`, or a pixel
            is NaN or infinite.
    """
    if images.dim() != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(
            f"{name}: given shape {tuple(images.shape)}; allowed: (B, 3, H, W) with B of 1 or more"
        )
    if min(images.shape[2:]) < least_side:
        height, width = images.shape[2:]
        raise ValueError(
            f"{name}: given {width} x {height} pixels; "
            f"the deepest layer of the loss needs {least_side} x {least_side}"
        )
    wrong = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(f"{name}: pixels of image {wrong[0]} are NaN or infinite; allowed: 0..255")


def as_full(activation: Tensor) -> Tensor:
    """The activation in fp32 or better: half precision cannot hold a Gram matrix or a sum of squares."""
    return activation if activation.dtype == torch.float64 else activation.float()


def _normalised_gram(activation: Tensor) -> Tensor:
    return gram_matrix(as_full(activation)) / activation[0].numel()


def squared_norm(a: Tensor) -> Tensor:
    """Squared norm of each image, (B,). Summed row by row: threads would split one sum over a whole image."""
    rows = positions(a) if a.dim() == 4 else a
    return rows.square().sum(2).sum(1)


_BLOCK = 2**17
"""Values of an image that are widened to fp32 at once: they stay in the processor's cache."""


def gram(activation: Tensor) -> Tensor:
    """The same as `losses.gram_matrix`, without gradients, and faster for bf16.

    A product of two bf16 numbers is exact in fp32. So multiplying in bf16 and summing in fp32 loses nothing,
    and is several times faster than widening the activation and multiplying in fp32.

    Args:
        activation: (B, C, H, W), bf16, fp32 or fp64, channels_last.

    Returns:
        (B, C, C), fp32 or better.
    """
    rows = positions(activation)
    if activation.dtype != torch.bfloat16:
        # One image at a time: threads split a batched product differently, and round differently.
        return torch.cat([torch.bmm(image.mT, image) for image in torch.split(rows, 1)])
    if activation.is_cuda:
        return torch.bmm(rows.mT, rows, out_dtype=torch.float32)
    # On a CPU torch multiplies bf16 into bf16 only. This makes oneDNN round fp32 input to bf16, and sum in
    # fp32.
    images, _, channels = rows.shape
    sums = torch.zeros(images, channels, channels)
    with _FACTORS_IN_BF16:
        for block in torch.split(rows, _BLOCK // channels, dim=1):
            wide = block.float()
            sums.baddbmm_(wide.mT, wide)
    return sums


class _FactorsInBf16:
    """While a thread is inside, oneDNN rounds the factors of fp32 products to bf16.

    The setting is one of the process. So the first thread in makes it and the last one out takes it back.
    Were each to restore what it found, one could restore what another had set.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, ""

    def __enter__(self) -> None:
        matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        with self._lock:
            if not self._inside:
                self._before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        with self._lock:
            self._inside -= 1
            if not self._inside:
                matmul.fp32_precision = self._before


_FACTORS_IN_BF16 = _FactorsInBf16()


def positions(activation: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H*W, C), one row per position; a view if the input is channels_last."""
    return activation.permute(0, 2, 3, 1).flatten(1, 2)
