"""held-out photos -> score against the optimisation: one sentence of Ray Data and its callable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import ray.data
import torch

from batch_nst.data.images import decode_stored
from batch_nst.data.style import StylePicture
from batch_nst.engine.gatys import optimise
from batch_nst.engine.johnson import feature_distance
from batch_nst.engine.model_files import load_net, stylize_image
from batch_nst.engine.perceptual_loss import Losses
from batch_nst.engine.ssim import ssim
from batch_nst.engine.timing import wait_for
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.pipelines.cluster import Workers
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.recipe import Recipe

Row = dict[str, Any]


def score_photos(
    rows: list[Row],
    weights: bytes,
    card: dict[str, Any],
    style: StylePicture,
    recipe: Recipe,
    workers: Workers,
) -> Iterator[Row]:
    """Score the model on held-out photos, a photo a task.

    Args:
        rows: `name`, `uri`, `content` and `stylized` (encoded) of each photo.
        weights: `model.safetensors`.
        card: `model.json`.
        style: the painting.
        recipe: loss, vgg, generate and evaluate are used.
        workers: what an actor that holds VGG-16 gets.

    Yields:
        For each photo: `name`, `uri`; `curve`, the objective after 0, 1, ... iterations; `photo`, `optimised`
        and `model`, each with content, style, total, and distance and SSIM to `X`; `painted`, the model's
        picture as raw pixels; seconds.
    """
    return iter(
        ray.data.from_items(rows)
        .repartition(target_num_rows_per_block=1)
        .map(
            Scorer,
            fn_constructor_args=(weights, card, style, recipe, workers),
            compute=workers.pool(recipe.generate.actors, len(rows)),
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus or None,
        )
        .iter_rows()
    )


class Scorer:
    """Holds VGG-16, the painting's Gram matrices and the fast model."""

    def __init__(
        self, weights: bytes, card: dict[str, Any], style: StylePicture, recipe: Recipe, workers: Workers
    ) -> None:
        """Nothing is loaded yet: for the reason, see `Stylizer`."""
        self._weights, self._card, self._style = weights, card, style
        self._recipe, self._workers = recipe, workers

    @cached_property
    def _objectives(self) -> Objectives:
        return Objectives.on(
            self._style,
            self._recipe.loss,
            self._recipe.vgg,
            self._workers.device,
            self._recipe.generate.precision,
            self._workers.threads,
        )

    @cached_property
    def _net(self) -> TransformerNet:
        return load_net(self._weights, self._card).to(self._objectives.device)

    def __call__(self, row: Row) -> Row:
        """Optimise one photo and paint it; measure both, and the photo itself, in fp32."""
        device = self._objectives.device
        photo, optimised = decode_stored(row["content"]), decode_stored(row["stylized"])
        stylize_image(self._net, torch.from_numpy(photo), device)  # the first call chooses kernels
        start = time.perf_counter()
        painted = stylize_image(self._net, torch.from_numpy(photo), device).numpy()
        model_seconds = time.perf_counter() - start
        content = to_tensor(photo[None], device)
        start = time.perf_counter()
        found = optimise(
            self._objectives.fast,
            content,
            self._recipe.evaluate.iterations,
            self._recipe.generate.optimizer,
        )
        wait_for(device)
        optimised_seconds = time.perf_counter() - start
        measured = self._measure(content, to_tensor(np.stack([photo, optimised, painted]), device))
        return {
            "name": row["name"],
            "uri": row["uri"],
            "curve": found.curve[:, 0].tolist(),
            **dict(zip(("photo", "optimised", "model"), measured, strict=True)),
            "painted": painted.tobytes(),
            "side": len(painted),
            "model_seconds": model_seconds,
            "optimised_seconds": optimised_seconds,
        }

    @torch.no_grad()
    def _measure(self, content: torch.Tensor, pictures: torch.Tensor) -> list[dict[str, float]]:
        """Losses of pictures of one photo, and how far they are from the second of them, which is `X`."""
        objective = self._objectives.exact
        activations = objective.vgg(pictures)
        targets = objective.content_targets(content.expand_as(pictures))
        losses: Losses = objective.of_activations(pictures, activations, targets)
        wanted = {name: activation[1:2].expand_as(activation) for name, activation in activations.items()}
        distances = feature_distance(activations, wanted)
        likeness = ssim(pictures, pictures[1:2].expand_as(pictures))
        return [
            {
                "content": float(losses.content[index]),
                "style": float(losses.style[index]),
                "total": float(losses.total[index]),
                "distance": float(distances[index]),
                "ssim": float(likeness[index]),
            }
            for index in range(len(pictures))
        ]
