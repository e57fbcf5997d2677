"""What a training's loss asks of VGG-16: content, style and the distance to the optimised image.

Their gradients are those of autograd. They are worked out by the written-out backward pass of `Vgg16`, which
the optimisation over pixels also uses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from batch_nst.engine.perceptual_loss import PerceptualLoss, as_full, gram, positions, squared_norm

_LEAST = 1e-12
"""Least mean square of a layer of the optimised image, by which its distance is divided."""
_BLOCK = 2**20
"""Values that a CPU widens to fp32 at once."""


class Terms(NamedTuple):
    """One value per image, each (B,), fp32 or better; see `perceptual_loss` and `image_metrics`."""

    content: Tensor
    """Unweighted content loss."""
    style: Tensor
    """Unweighted style loss."""
    distance: Tensor
    """`image_metrics.feature_distance` to the optimised image."""


def vgg_terms(
    objective: PerceptualLoss, image: Tensor, targets: dict[str, Tensor], wanted: dict[str, Tensor]
) -> Terms:
    """The terms of images, with gradients by the images.

    Args:
        objective: of the style.
        image: (B, 3, H, W), RGB, around 0..255.
        targets: `content_targets` of the photos; empty: content and style are not worked out, and are 0.
        wanted: activations of the optimised images by layer; empty: the distance is 0.
    """
    return Terms(*_Terms.apply(image, objective, targets, wanted))


class _Terms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        objective: PerceptualLoss,
        targets: dict[str, Tensor],
        wanted: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        recorded = objective.vgg.record(image)
        content, style, distance = (image.new_zeros(len(image)) for _ in Terms._fields)
        deviations: dict[str, Tensor] = {}
        from_photo = {name: recorded.activations[name] - target for name, target in targets.items()}
        for name, difference in from_photo.items():
            content += objective.loss.content_layers[name] * _mean_square(difference)
        for name, weight in objective.loss.style_layers.items() if targets else ():
            size = recorded.activations[name][0].numel()
            deviations[name] = gram(recorded.activations[name]) / size - objective.style_grams[name]
            style += weight * squared_norm(deviations[name]) / deviations[name][0].numel()
        norms = {name: _mean_square(target).clamp_min(_LEAST) for name, target in wanted.items()}
        from_optimised = {name: recorded.activations[name] - target for name, target in wanted.items()}
        for name, difference in from_optimised.items():
            distance += _mean_square(difference) / norms[name] / len(wanted)
        ctx.kept = objective, recorded, from_photo, from_optimised, deviations, norms
        return content, style, distance

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        objective, recorded, from_photo, from_optimised, deviations, norms = ctx.kept
        of_content, of_style, of_distance = slopes

        def add_slope(name: str, gradient: Tensor) -> None:
            activation = recorded.activations[name]
            size = activation[0].numel()
            if name in from_photo:
                factor = 2 * objective.loss.content_layers[name] / size * of_content
                _add_times(gradient, from_photo[name], factor)
            if name in from_optimised:
                factor = 2 / (size * len(from_optimised)) * of_distance / norms[name]
                _add_times(gradient, from_optimised[name], factor)
            if name in deviations:
                # The derivative of G = A A' in direction D is A D' + D A'; by symmetry, twice either of them.
                factor = (
                    4 * objective.loss.style_layers[name] / (deviations[name][0].numel() * size) * of_style
                )
                by_gram = factor[:, None, None] * deviations[name]
                rows = positions(activation)
                positions(gradient).baddbmm_(rows, by_gram.to(rows.dtype))

        return objective.vgg.pull_back(recorded, add_slope), None, None, None


def _mean_square(values: Tensor) -> Tensor:
    """Mean square of each image, (B,), fp32 or better; row by row, see `squared_norm`."""
    rows = positions(values)
    # A CPU widens bf16 block by block, so that fp32 stays in its cache.
    most = rows.shape[1] if values.is_cuda else max(1, _BLOCK // rows.shape[2])
    blocks = [torch.linalg.vector_norm(as_full(block), dim=2) for block in torch.split(rows, most, 1)]
    means: Tensor = torch.cat(blocks, 1).square().sum(1) / values[0].numel()
    return means


def _add_times(gradient: Tensor, values: Tensor, factors: Tensor) -> None:
    """Add the values of each image times its factor, (B,), in place.

    What is added has the gradient's type: torch adds fp32 to bf16 very slowly on CPUs.
    """
    for its_gradient, its_values, factor in zip(gradient, values, factors, strict=True):
        # A CPU multiplies bf16 by a single number in fp32. A GPU would round that number to bf16 first.
        wide = as_full(its_values) if its_values.is_cuda else its_values
        its_gradient += (wide * factor).to(its_gradient.dtype)
