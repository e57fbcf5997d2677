"""What the ablation measures of a model on the held-out photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batch_nst.data.images.codec import Pixels
from batch_nst.engine.image_metrics import checkerboard, feature_distance, ssim
from batch_nst.engine.model_io import stylize_image
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.statistics import geometric_mean
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.pipelines.benchmark.ablation_pairs import Pairs
from batch_nst.pipelines.objective import to_tensor

Figures = dict[str, Any]

AT_ONCE = 8
"""Held-out photos that are measured together."""


@dataclass
class Exam:
    """What is measured of a model, or of any pictures of the held-out photos."""

    objective: PerceptualLoss
    """In fp32."""
    pictures: Pairs

    @cached_property
    def _wanted(self) -> list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]]:
        """Of each few photos: targets of the content loss, activations of `X`, and `X`."""
        found = []
        for part in self._parts():
            content, optimised = (to_tensor(each[part], self._device) for each in self.pictures[:2])
            with torch.no_grad():
                wanted = self.objective.vgg(optimised)
            found.append((self.objective.content_targets(content), wanted, optimised))
        return found

    @property
    def _device(self) -> torch.device:
        return next(iter(self.objective.style_grams.values())).device

    def _parts(self) -> list[slice]:
        photos = len(self.pictures.content)
        return [slice(first, first + AT_ONCE) for first in range(0, photos, AT_ONCE)]

    def references(self) -> Figures:
        """Of the photos themselves, and of `X`."""
        return {"photo": self.mark(self.pictures.content), "X": self.mark(self.pictures.optimised)}

    def paint(self, net: TransformerNet, weights: dict[str, Tensor]) -> Pixels:
        """What a network makes of the photos with other weights than its own, as it is stored."""
        painter = TransformerNet(net.width, net.network).to(self._device)
        painter.load_state_dict(weights)
        images = torch.from_numpy(np.array(self.pictures.content))
        painted = [stylize_image(painter, images[part], self._device) for part in self._parts()]
        pixels: Pixels = torch.cat(painted).numpy()
        return pixels

    @torch.no_grad()
    def mark(self, pictures: Pixels) -> Figures:
        """Of all photos: geometric means of the objective, its parts and the distance to `X`; else means."""
        figures: dict[str, list[float]] = {}
        for part, (targets, wanted, optimised) in zip(self._parts(), self._wanted, strict=True):
            stack = to_tensor(pictures[part], self._device)
            activations = self.objective.vgg(stack)
            losses = self.objective.of_activations(stack, activations, targets)
            marks = {
                "objective": losses.total,
                "content": losses.content,
                "style": losses.style,
                "distance": feature_distance(activations, wanted),
                "ssim": ssim(stack, optimised),
                "checkerboard": checkerboard(stack),
            }
            for name, values in marks.items():
                figures.setdefault(name, []).extend(values.tolist())
        return {name: _mean(name, values) for name, values in figures.items()}


def _mean(name: str, values: Sequence[float]) -> float | None:
    """The geometric mean, 0 where a value is 0; the mean of SSIM, which may be below 0, and checkerboard."""
    if name in ("ssim", "checkerboard"):
        return sum(values) / len(values)
    return 0.0 if 0 in values else geometric_mean(values)
