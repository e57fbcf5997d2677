"""Fast transfer (Johnson, Alahi and Fei-Fei 2016): the perceptual loss over the weights of a network.

Departures from the paper: the network also learns from pairs. The distance of its output to the optimised
image, in VGG features, keeps the photo's objects where the perceptual loss alone, in a short training,
paints a texture at the same objective. And its checkerboard counts, which the perceptual loss does not see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from batch_nst.engine.image_metrics import checkerboard, feature_distance
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.transformer_net import TransformerNet

GEOMETRIC = ("objective", "content", "style")
"""Parts of the training loss that are logged as geometric means."""


@dataclass(frozen=True)
class Weights:
    """Of the parts of the training loss; each may be 0."""

    perceptual: float
    """Of the logarithm of the perceptual loss: it spans three decades over photos and training."""
    feature: float
    """Of the distance to the optimised image in VGG features."""
    pixel: float
    """Of the distance to the optimised image in pixels."""
    checkerboard: float
    """Of a grey level of the checkerboard."""


def training_loss(
    net: Callable[[Tensor], Tensor],
    objective: PerceptualLoss,
    weights: Weights,
    content: Tensor,
    optimised: Tensor,
    skip_unweighted: bool = False,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch of pairs, a mean over its images.

    Args:
        net: 0..1 to 0..1, not clamped.
        objective: the style's.
        weights: of the parts.
        content: photos (B, 3, H, W), RGB, 0..255.
        optimised: their stylized images, the same shape and range; none of them is looked at where only the
            perceptual loss is.
        skip_unweighted: do not compute parts whose weight is 0: it saves time, but the log lacks them.

    Returns:
        The loss to minimise, (), and its parts for the log: objective, content and style as geometric
        means over the batch, feature and pixel distances, and the checkerboard; those that were measured.
    """
    stylized = net(content / 255) * 255
    each = stylized.new_zeros(len(content))
    parts: dict[str, Tensor] = {}
    perceptual = weights.perceptual > 0 or not skip_unweighted
    feature = weights.feature > 0 or not skip_unweighted
    if perceptual or feature:
        activations = objective.vgg(stylized)
    if perceptual:
        targets = objective.content_targets(content)
        losses = objective.of_activations(stylized, activations, targets)
        parts = {
            "objective": losses.total.clamp_min(1e-6).log(),
            "content": losses.content.clamp_min(1e-6).log(),
            "style": losses.style.clamp_min(1e-6).log(),
        }
        each = each + weights.perceptual * parts["objective"]
    if feature:
        with torch.no_grad():
            wanted = objective.vgg(optimised)
        parts["feature"] = feature_distance(activations, wanted)
        each = each + weights.feature * parts["feature"]
    if weights.pixel > 0 or not skip_unweighted:
        parts["pixel"] = (stylized - optimised).abs().flatten(1).mean(1) / 255
        each = each + weights.pixel * parts["pixel"]
    if weights.checkerboard > 0 or not skip_unweighted:
        parts["checkerboard"] = checkerboard(stylized)
        each = each + weights.checkerboard * parts["checkerboard"]
    means = {name: float(part.detach().mean()) for name, part in {"loss": each, **parts}.items()}
    for name in means.keys() & set(GEOMETRIC):
        means[name] = float(torch.tensor(means[name]).exp())
    return each.mean(), means


class Average:
    """A moving average of a network's weights, which generalises better than the last step's."""

    def __init__(self, net: TransformerNet, decay: float) -> None:
        """`decay` in [0, 1): 0 keeps the last weights."""
        self._decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps (from 1 on); early on the average is shorter."""
        decay = min(self._decay, step / (step + 10))
        for name, tensor in net.state_dict().items():
            self.weights[name].lerp_(tensor, 1 - decay)
