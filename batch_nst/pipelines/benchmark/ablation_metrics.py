"""What the ablation measures of a model on the held-out photos."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from batch_nst.data.images.codec import Pixels
from batch_nst.engine.fast_model.model_io import stylize_image
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.image_metrics import checkerboard, feature_distance, ssim
from batch_nst.engine.perceptual_loss import PerceptualLoss
from batch_nst.engine.statistics import mean_figure
from batch_nst.pipelines.benchmark.ablation_pairs import Pairs
from batch_nst.pipelines.benchmark.ablation_records import Metrics, References
from batch_nst.pipelines.objective import to_tensor

_BATCH = 8
"""Held-out photos that are measured together."""


@dataclass
class EvaluationSet:
    """The held-out photos and their optimised images, to measure models against."""

    objective: PerceptualLoss
    """The style's objective in fp32."""
    pictures: Pairs

    @cached_property
    def _wanted(self) -> list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]]:
        """For each batch: targets of the content loss, activations and pixels of the optimised images."""
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
        return [slice(first, first + _BATCH) for first in range(0, photos, _BATCH)]

    def references(self) -> References:
        """Metrics of the photos themselves, and of their optimised images."""
        return {"photo": self.measure(self.pictures.content), "X": self.measure(self.pictures.optimised)}

    def stylize(self, net: TransformerNet) -> Pixels:
        """The photos stylized by a network, uint8 (n, H, W, 3)."""
        images = torch.from_numpy(np.array(self.pictures.content))
        stylized = [stylize_image(net, images[part], self._device) for part in self._parts()]
        pixels: Pixels = torch.cat(stylized).numpy()
        return pixels

    @torch.no_grad()
    def measure(self, pictures: Pixels) -> Metrics:
        """Metrics of pictures of the held-out photos, uint8 (n, H, W, 3)."""
        values: dict[str, list[float]] = defaultdict(list)
        for part, (targets, wanted, optimised) in zip(self._parts(), self._wanted, strict=True):
            stack = to_tensor(pictures[part], self._device)
            activations = self.objective.vgg(stack)
            losses = self.objective.of_activations(stack, activations, targets)
            values["objective"] += losses.total.tolist()
            values["content"] += losses.content.tolist()
            values["style"] += losses.style.tolist()
            values["distance"] += feature_distance(activations, wanted).tolist()
            values["ssim"] += ssim(stack, optimised).tolist()
            values["checkerboard"] += checkerboard(stack).tolist()
        return {
            "objective": mean_figure("objective", values["objective"]),
            "content": mean_figure("content", values["content"]),
            "style": mean_figure("style", values["style"]),
            "distance": mean_figure("distance", values["distance"]),
            "ssim": mean_figure("ssim", values["ssim"]),
            "checkerboard": mean_figure("checkerboard", values["checkerboard"]),
        }
