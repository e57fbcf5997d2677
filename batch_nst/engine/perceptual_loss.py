"""The perceptual loss of both phases: over pixels in `slow_transfer`, over weights in `training_loss`.

`L(C, S, X) = content_weight * L_content(C, X) + style_weight * L_style(S, X) + tv_weight * TV(X)`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from batch_nst.engine.losses import content_loss, gram_matrix, style_loss, total_variation
from batch_nst.engine.vgg import Vgg16
from batch_nst.recipe import Loss


class Losses(NamedTuple):
    """One value an image: the parts, unweighted, and the weighted total; each (B,), fp32 or better."""

    content: Tensor
    style: Tensor
    total: Tensor


@dataclass(frozen=True)
class PerceptualLoss:
    """A style's objective: VGG-16, the weights of the recipe and the Gram matrices of the painting."""

    vgg: Vgg16
    loss: Loss
    style_grams: dict[str, Tensor]

    @property
    def least_side(self) -> int:
        """Of an image, in pixels."""
        return self.vgg.least_side

    @staticmethod
    def layers(loss: Loss) -> set[str]:
        """The VGG-16 layers that an objective looks at."""
        return {*loss.content_layers, *loss.style_layers}

    @classmethod
    def of_style(cls, vgg: Vgg16, loss: Loss, style: Tensor) -> PerceptualLoss:
        """The objective for a painting: its Gram matrices are taken once.

        Args:
            vgg: holds at least `PerceptualLoss.layers(loss)`.
            loss: layers and weights.
            style: (1, 3, H, W), RGB, 0..255, of any size that the deepest layer can see.

        Raises:
            ValueError: another shape, too small, or pixels that are no numbers.
        """
        check_images("style", style, vgg.least_side)
        with torch.no_grad():
            activations = vgg(style)
            grams = {
                name: gram(activations[name]) / activations[name][0].numel() for name in loss.style_layers
            }
            return cls(vgg, loss, grams)

    def content_targets(self, content: Tensor) -> dict[str, Tensor]:
        """Activations of the photos (B, 3, H, W), 0..255, that the content loss compares with."""
        with torch.no_grad():
            activations: dict[str, Tensor] = self.vgg(content, self.loss.content_layers.keys())
            return activations

    def __call__(self, image: Tensor, targets: dict[str, Tensor]) -> Losses:
        """The losses of images (B, 3, H, W), RGB, 0..255, against `content_targets` of the same batch."""
        return self.of_activations(image, self.vgg(image), targets)

    def of_activations(
        self, image: Tensor, activations: dict[str, Tensor], targets: dict[str, Tensor]
    ) -> Losses:
        """As calling, for a caller that has the activations of `image` already."""
        # Departure from the paper's raw sums: both losses are divided by their number of elements, and a
        # Gram matrix by the C*H*W of its own picture, so that a weight means the same at every resolution.
        zero = image.new_zeros(len(image))
        content = sum(
            (
                weight
                * content_loss(_full(activations[name]), _full(targets[name]))
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
        total = self.loss.content_weight * content + self.loss.style_weight * style
        if self.loss.tv_weight:
            total = total + self.loss.tv_weight * total_variation(image)
        return Losses(content, style, total)

    @torch.no_grad()
    def value_and_gradient(self, image: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The total losses of images and their gradients, as `__call__` and autograd give them, in less time.

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
            difference = _full(recorded.activations[name]) - targets[name]
            factor = self.loss.content_weight * weight / difference[0].numel()
            total += factor * _squared_norm(difference)
            by_activation[name] = difference.mul_(2 * factor).to(self.vgg.dtype)
        for name, weight in self.loss.style_layers.items():
            size = recorded.activations[name][0].numel()
            difference = gram(recorded.activations[name]) / size - self.style_grams[name]
            factor = self.loss.style_weight * weight / difference[0].numel()
            total += factor * _squared_norm(difference)
            # Of G = A A' the derivative in direction D is A D' + D A': symmetry makes it twice one of them.
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
    """Refuse what no loss can be taken of.

    Raises:
        ValueError: no images, another shape than (B, 3, H, W), a side below `least_side`, or a NaN.
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
        raise ValueError(f"{name}: pixels of image {wrong[0]} are no numbers; allowed: 0..255")


def _full(activation: Tensor) -> Tensor:
    """At least fp32: half precision neither holds a Gram matrix nor a sum of squares."""
    return activation if activation.dtype == torch.float64 else activation.float()


def _normalised_gram(activation: Tensor) -> Tensor:
    return gram_matrix(_full(activation)) / activation[0].numel()


def _squared_norm(a: Tensor) -> Tensor:
    """Of each image, (B,): row by row, since a sum over all of one image is divided among threads."""
    rows = positions(a) if a.dim() == 4 else a
    return rows.square().sum(2).sum(1)


_BLOCK = 2**17
"""Numbers of an image that are widened at once: they stay in the processor's cache."""


def gram(activation: Tensor) -> Tensor:
    """`losses.gram_matrix`, without gradients.

    A product of two bf16 numbers is exact in fp32. Multiplying in half precision and adding up in fp32 thus
    loses nothing, and is several times faster than widening the activation and multiplying in fp32.

    Args:
        activation: (B, C, H, W), bf16, fp32 or fp64, channels_last.

    Returns:
        (B, C, C), fp32 or better.
    """
    rows = positions(activation)
    if activation.dtype != torch.bfloat16:
        # One by one: a product over a batch is divided among threads in another way than that of one image.
        return torch.cat([torch.bmm(image.mT, image) for image in torch.split(rows, 1)])
    if activation.is_cuda:
        return torch.bmm(rows.mT, rows, out_dtype=torch.float32)
    # On a CPU torch multiplies bf16 into bf16 only. oneDNN, if told so, takes fp32 for bf16 and adds in fp32.
    images, _, channels = rows.shape
    sums = torch.zeros(images, channels, channels)
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    precision, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        for block in torch.split(rows, _BLOCK // channels, dim=1):
            wide = block.float()
            sums.baddbmm_(wide.mT, wide)
    finally:
        matmul.fp32_precision = precision
    return sums


def positions(activation: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H*W, C): a row for each position; a view in channels_last."""
    return activation.permute(0, 2, 3, 1).flatten(1, 2)
