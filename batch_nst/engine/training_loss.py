"""Fast transfer (Johnson, Alahi and Fei-Fei 2016): the perceptual loss over the weights of a network.

Departures from the paper: the network also learns from pairs, by the distance of its output to the optimised
image in VGG features. In a short training the perceptual loss alone covers the photo's objects with texture;
the distance keeps them, at the same objective. The content may count for more than in the objective, because
a network gives up more of the photo than the optimisation does to reach the same style. The loss also counts
the checkerboard artefact, which the perceptual loss does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.image_metrics import checkerboard
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.vgg_terms import vgg_terms

GEOMETRIC = ("objective", "content", "style")
"""Parts of the training loss whose logarithms are averaged, so that the log has geometric means."""


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the training loss, each at least 0."""

    perceptual: float
    """Weight of the logarithm of the perceptual loss, which spans three decades over photos and training."""
    feature: float
    """Weight of the distance to the optimised image in VGG features."""
    pixel: float
    """Weight of the distance to the optimised image in pixels."""
    checkerboard: float
    """Weight of the checkerboard artefact, per grey level."""
    content_factor: float = 1.0
    """Factor of the content within the perceptual loss; 1 is the objective's own."""


def training_loss(
    net: Callable[[Tensor], Tensor],
    objective: PerceptualLoss,
    weights: Weights,
    content: Tensor,
    optimised: Tensor,
    skip_unweighted: bool = False,
    paired: Sequence[bool] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean training loss of a batch of pairs. Nothing is copied from the device.

    Args:
        net: maps RGB in 0..1 to RGB around 0..1, not clamped.
        objective: the objective of the style.
        weights: weights of the parts.
        content: photos (B, 3, H, W), RGB, 0..255.
        optimised: their optimised images, same shape and range; they do not matter where only the perceptual
            loss has a weight and `skip_unweighted` is set.
        skip_unweighted: do not compute parts whose weight is 0: it saves time, but the log lacks them.
        paired: for each photo whether `optimised` is its optimised image. If not, that image does not matter,
            and the distances to it are 0. Empty: all are.

    Returns:
        The loss to minimise, and its computed parts for the log, each of shape () and a mean over the batch.
        `objective`, `content` and `style` are means of logarithms.
    """
    stylized = net(content / 255) * 255
    each = stylized.new_zeros(len(content))
    parts: dict[str, Tensor] = {}
    perceptual = weights.perceptual > 0 or not skip_unweighted
    feature = weights.feature > 0 or not skip_unweighted
    known = 1.0 if all(paired) else content.new_tensor([float(each) for each in paired])
    if perceptual or feature:
        with torch.no_grad():
            targets = objective.content_targets(content) if perceptual else {}
            wanted = objective.vgg(optimised) if feature and (not paired or any(paired)) else {}
        terms = vgg_terms(objective, stylized, targets, wanted)
    if perceptual:
        losses = objective.weighted(stylized, terms.content, terms.style)
        parts = {
            "objective": losses.total.clamp_min(1e-6).log(),
            "content": losses.content.clamp_min(1e-6).log(),
            "style": losses.style.clamp_min(1e-6).log(),
        }
        more = (weights.content_factor - 1) * objective.loss.content_weight * losses.content
        each = each + weights.perceptual * (losses.total + more).clamp_min(1e-6).log()
    if feature:
        parts["feature"] = known * terms.distance
        each = each + weights.feature * parts["feature"]
    if weights.pixel > 0 or not skip_unweighted:
        parts["pixel"] = known * (stylized - optimised).abs().flatten(1).mean(1) / 255
        each = each + weights.pixel * parts["pixel"]
    if weights.checkerboard > 0 or not skip_unweighted:
        parts["checkerboard"] = checkerboard(stylized)
        each = each + weights.checkerboard * parts["checkerboard"]
    loss = each.mean()
    return loss, {"loss": loss.detach()} | {name: part.detach().mean() for name, part in parts.items()}


class Average:
    """An exponential moving average of a network's weights, which generalises better than the last ones."""

    def __init__(self, net: TransformerNet, decay: float) -> None:
        """Start from the weights of `net`; `decay` is in [0, 1), where 0 keeps only the last weights."""
        self._decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Add the weights after step `step` (from 1 on); in early steps the average is shorter."""
        decay = min(self._decay, step / (step + 10))
        for name, tensor in net.state_dict().items():
            self.weights[name].lerp_(tensor, 1 - decay)
