"""held-out photos -> score against the optimisation: one sentence of Ray Data and its callable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import ray.data
import torch

from batch_nst.data.images.codec import Pixels, decode_stored
from batch_nst.data.images.style import StyleImage
from batch_nst.engine.baselines import run_baseline
from batch_nst.engine.image_metrics import checkerboard, feature_distance, ssim
from batch_nst.engine.model_io import load_net, stylize_image
from batch_nst.engine.slow_transfer import optimise
from batch_nst.engine.timing import wait_for
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.pipelines.cluster.connect import Workers, result_of
from batch_nst.pipelines.evaluate.speed import measure_speed
from batch_nst.pipelines.objective import Objectives, to_pixels, to_tensor
from batch_nst.recipe import Recipe

Row = dict[str, Any]

_SHOWN = ("optimised", "model")
"""Pictures that a score comes with."""


def score_photos(
    rows: list[Row],
    weights: bytes,
    card: dict[str, Any],
    style: StyleImage,
    recipe: Recipe,
    workers: Workers,
) -> Iterator[Row]:
    """Score the model on held-out photos, a photo a task.

    Args:
        rows: `id`, `name`, `uri`, `content` and `stylized` (encoded; empty: `X` is what the `iterations`
            make), `iterations`, and whether the `baseline` runs, of each photo.
        weights: `model.safetensors`.
        card: `model.json`.
        style: the painting.
        recipe: loss, vgg and generate are used.
        workers: what an actor that holds VGG-16 gets.

    Yields:
        For each photo: `id`, `name`, `uri`, `side` in pixels; `curve`, the objective after 0, 1, ...
        iterations; `photo`, `model` and `optimised`, which is `X`, each with content, style, total,
        checkerboard, and distance and SSIM to `X`; `lbfgs`, the curve of the baseline, where it ran;
        `pictures`, `optimised` and the `model`'s as raw pixels; seconds. Or, of a photo without `X`, why it
        is `left_out`.
    """
    scored = (
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
    return ({**json.loads(row["figures"]), "pictures": {who: row[who] for who in _SHOWN}} for row in scored)


def time_sizes(
    picture: bytes,
    weights: bytes,
    card: dict[str, Any],
    style: StyleImage,
    recipe: Recipe,
    workers: Workers,
) -> dict[str, Any]:
    """`measure_speed` on a worker, at `evaluate.sizes`; `picture` is an encoded photo."""
    # One call: its process ends with it, and gives back the device before the scoring begins.
    trial = ray.remote(num_cpus=workers.num_cpus, num_gpus=workers.num_gpus, max_calls=1)(_time_sizes)
    scorer = Scorer(weights, card, style, recipe, workers)
    speed: dict[str, Any] = result_of(trial.remote(picture, scorer))
    return speed


def _time_sizes(picture: bytes, scorer: Scorer) -> dict[str, Any]:
    return scorer.speed(decode_stored(picture))


class Scorer:
    """Holds VGG-16, the painting's Gram matrices and the fast model."""

    def __init__(
        self, weights: bytes, card: dict[str, Any], style: StyleImage, recipe: Recipe, workers: Workers
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

    def speed(self, picture: Pixels) -> dict[str, Any]:
        """See `measure_speed`."""
        return measure_speed(self._objectives, self._net, picture, self._recipe.evaluate.sizes)

    def __call__(self, row: Row) -> Row:
        """Score one photo; `figures` are JSON, since those of one differ from those of another."""
        try:
            figures, pictures = self._score(row)
        except torch.OutOfMemoryError:
            if row["stylized"]:  # of a size that was optimised before
                raise
            figures, pictures = {"left_out": "needs_memory"}, {}
        about = {name: row[name] for name in ("id", "name", "uri")}
        raw = {who: pictures[who].tobytes() if pictures else b"" for who in _SHOWN}
        return {"figures": json.dumps({**about, **figures}), **raw}

    def _score(self, row: Row) -> tuple[dict[str, Any], dict[str, Pixels]]:
        """Optimise one photo and paint it; measure both, and the photo itself, in fp32."""
        device = self._objectives.device
        photo = decode_stored(row["content"])
        stylize_image(self._net, torch.from_numpy(photo), device)  # the first call chooses kernels
        start = time.perf_counter()
        painted = stylize_image(self._net, torch.from_numpy(photo), device).numpy()
        model_seconds = time.perf_counter() - start
        content = to_tensor(photo[None], device)
        wait_for(device)
        start = time.perf_counter()
        found = optimise(self._objectives.fast, content, row["iterations"], self._recipe.generate.optimizer)
        wait_for(device)
        optimised_seconds = time.perf_counter() - start
        optimised = decode_stored(row["stylized"]) if row["stylized"] else to_pixels(found.images)[0]
        pictures = {"photo": photo, "model": painted, "optimised": optimised}
        figures: dict[str, Any] = {
            "side": len(photo),
            "curve": found.curve[:, 0].tolist(),
            **self._measure(content, pictures),
            "model_seconds": model_seconds,
            "optimised_seconds": optimised_seconds,
        }
        if row["baseline"]:
            # Its first evaluation is the photo's own.
            usual, _ = run_baseline(self._objectives.exact, content, row["iterations"] + 1, "lbfgs")
            figures["lbfgs"] = [loss for _, loss in usual]
            figures["lbfgs_seconds"] = usual[-1][0]
        return figures, pictures

    @torch.no_grad()
    def _measure(self, content: torch.Tensor, pictures: dict[str, Pixels]) -> dict[str, dict[str, float]]:
        """Losses of pictures of one photo, and how far they are from the one that is `X`."""
        objective = self._objectives.exact
        stack = to_tensor(np.stack(list(pictures.values())), content.device)
        activations = objective.vgg(stack)
        targets = objective.content_targets(content.expand_as(stack))
        figures = objective.of_activations(stack, activations, targets)._asdict()
        figures["checkerboard"] = checkerboard(stack)
        x = list(pictures).index("optimised")
        wanted = {name: each[x : x + 1].expand_as(each) for name, each in activations.items()}
        figures["distance"] = feature_distance(activations, wanted)
        figures["ssim"] = ssim(stack, stack[x : x + 1].expand_as(stack))
        return {
            who: {part: float(values[index]) for part, values in figures.items()}
            for index, who in enumerate(pictures)
        }
