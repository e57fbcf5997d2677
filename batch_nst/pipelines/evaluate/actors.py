"""The Ray Data pipeline of `evaluate` (one row per held-out photo) and its actor."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import ray.data
import torch

from batch_nst.data.images.codec import Pixels, decode_stored
from batch_nst.data.images.style import StyleImage
from batch_nst.data.models.evaluation import Independent, Losses, SpeedTable
from batch_nst.data.models.files import ModelFiles
from batch_nst.data.models.holdout import HeldOutPhoto
from batch_nst.engine.baselines import PEERS_WEIGHTS, run_baseline, white_noise
from batch_nst.engine.image_metrics import checkerboard, feature_distance, ssim
from batch_nst.engine.slow_transfer import optimise
from batch_nst.engine.timing import wait_for
from batch_nst.pipelines.cluster.connect import Workers, result_of
from batch_nst.pipelines.cluster.rows import rows_at_once
from batch_nst.pipelines.evaluate.independent import IndependentMeasure, is_installed
from batch_nst.pipelines.evaluate.scores import LeftOut, Score, from_row, to_row
from batch_nst.pipelines.evaluate.speed import measure_speed
from batch_nst.pipelines.inference import FastModel, painter
from batch_nst.pipelines.objective import Objectives, to_pixels, to_tensor
from batch_nst.recipe import Recipe


def score_photos(
    photos: Sequence[HeldOutPhoto], model: ModelFiles, style: StyleImage, recipe: Recipe, workers: Workers
) -> Iterator[Score | LeftOut]:
    """Score the model on held-out photos, one photo per task.

    Args:
        photos: the held-out photos.
        model: the fast model.
        style: the style image.
        recipe: its sections loss, vgg, generate and evaluate are used.
        workers: resources of an actor that holds VGG-16.

    Yields:
        The score of each photo, in no order; or the reason why a photo was left out.
    """
    scored = (
        # A block for each photo, and so a task; `repartition` would need a whole CPU beside the actor.
        ray.data.from_items([asdict(photo) for photo in photos], override_num_blocks=len(photos)).map(
            Scorer,
            fn_constructor_args=(model, style, recipe, workers),
            compute=workers.pool(recipe.generate.actors, len(photos)),
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus or None,
        )
    )
    return map(from_row, rows_at_once(scored, "evaluate"))


def time_sizes(
    picture: bytes, model: ModelFiles, style: StyleImage, recipe: Recipe, workers: Workers
) -> SpeedTable:
    """`measure_speed` on a worker, at `evaluate.sizes`; `picture` is an encoded photo."""
    # One call per process: the process then ends and frees the device before scoring starts.
    trial = ray.remote(num_cpus=workers.num_cpus, num_gpus=workers.num_gpus, max_calls=1)(_time_sizes)
    speed: SpeedTable = result_of(trial.remote(picture, Scorer(model, style, recipe, workers)))
    return speed


def _time_sizes(picture: bytes, scorer: Scorer) -> SpeedTable:
    return scorer.speed(decode_stored(picture))


class Scorer:
    """An actor that holds VGG-16, the Gram matrices of the style image, and the fast model."""

    def __init__(self, model: ModelFiles, style: StyleImage, recipe: Recipe, workers: Workers) -> None:
        """Nothing is loaded yet: for the reason, see `Stylizer`."""
        self._model, self._style = model, style
        self._recipe, self._workers = recipe, workers

    @cached_property
    def _objectives(self) -> Objectives:
        workers = self._workers
        return Objectives.of_recipe(self._recipe, self._style, workers.device, workers.threads_here())

    @cached_property
    def _painter(self) -> FastModel:
        """The fast model as users have it."""
        return painter(self._model, self._objectives.device)

    @cached_property
    def _independent(self) -> IndependentMeasure | None:
        """None where its packages are not installed."""
        style = self._objectives.style.pixels[None]
        return IndependentMeasure(to_tensor(style, self._objectives.device)) if is_installed() else None

    def speed(self, picture: Pixels) -> SpeedTable:
        """See `measure_speed`."""
        return measure_speed(self._objectives, self._painter, picture, self._recipe.evaluate.sizes)

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        """`score` for Ray Data: a row holds the fields of a `HeldOutPhoto`."""
        return to_row(self.score(HeldOutPhoto(**row)))

    def score(self, photo: HeldOutPhoto) -> Score | LeftOut:
        """Score one photo; leave it out if it does not fit into memory."""
        try:
            return self._score(photo)
        except torch.OutOfMemoryError:
            if photo.stylized:  # its size was optimised before
                raise
            return LeftOut(photo.id, photo.name, "needs_memory")

    def _score(self, photo: HeldOutPhoto) -> Score:
        """Optimise one photo and stylize it; measure both images and the photo in fp32."""
        device, iterations = self._objectives.device, photo.iterations
        pixels = decode_stored(photo.content)
        self._painter(pixels)  # the first call chooses kernels
        start = time.perf_counter()
        stylized = self._painter(pixels)
        model_seconds = time.perf_counter() - start
        content = to_tensor(pixels[None], device)
        wait_for(device)
        start = time.perf_counter()
        found = optimise(self._objectives.fast, content, iterations, self._recipe.generate.optimizer)
        wait_for(device)
        optimised_seconds = time.perf_counter() - start
        reached = to_pixels(found.images)[0]
        optimised = decode_stored(photo.stylized) if photo.stylized else reached
        pictures = {"photo": pixels, "model": stylized, "optimised": optimised, "reached": reached}
        losses = self._measure(content, pictures)
        baseline_curve, baseline_seconds = self._baseline(photo, content)
        noise_curve, noise_seconds = self._from_noise(photo, content)
        return Score(
            id=photo.id,
            name=photo.name,
            uri=photo.uri,
            side=len(pixels),
            curve=found.curve[:, 0].tolist(),
            photo=losses["photo"],
            model=losses["model"],
            optimised=losses["optimised"],
            reached=losses["reached"],
            painter=self._painter.engine,
            engine=self._objectives.engine,
            model_seconds=model_seconds,
            optimised_seconds=optimised_seconds,
            optimised_picture=optimised.tobytes(),
            model_picture=stylized.tobytes(),
            baseline_curve=baseline_curve,
            baseline_seconds=baseline_seconds,
            noise_curve=noise_curve,
            noise_seconds=noise_seconds,
            noise_objective=sum(weight * losses["model"][part] for part, weight in PEERS_WEIGHTS.items()),
            independent=self._by_another_network(content, {"model": stylized, "reached": reached}),
        )

    def _by_another_network(
        self, content: torch.Tensor, pictures: dict[str, Pixels]
    ) -> dict[str, Independent] | None:
        if not self._independent:
            return None
        tensors = {name: to_tensor(pixels[None], content.device) for name, pixels in pictures.items()}
        return self._independent.measure(content, tensors)

    def _baseline(self, photo: HeldOutPhoto, content: torch.Tensor) -> tuple[list[float] | None, float]:
        """Curve and seconds of the baseline; (None, 0) if it does not run."""
        if not photo.baseline:
            return None, 0.0
        # The first evaluation is that of the photo.
        found, _ = run_baseline(self._objectives.exact, content, photo.iterations + 1, "lbfgs")
        return [loss for _, loss in found], found[-1][0]

    def _from_noise(self, photo: HeldOutPhoto, content: torch.Tensor) -> tuple[list[float] | None, float]:
        """Curve and seconds of the baseline as slow_neural_style runs it; (None, 0) if it does not run."""
        if not photo.from_noise:
            return None, 0.0
        exact = self._objectives.exact
        weights = {f"{part}_weight": weight for part, weight in PEERS_WEIGHTS.items()}
        peers = replace(exact, loss=exact.loss.model_copy(update={**weights, "tv_weight": 0.0}))
        found, _ = run_baseline(
            peers, content, photo.iterations + 1, "lbfgs", white_noise(exact.vgg, content)
        )
        return [loss for _, loss in found], found[-1][0]

    @torch.no_grad()
    def _measure(self, content: torch.Tensor, pictures: dict[str, Pixels]) -> dict[str, Losses]:
        """Losses of the images of one photo, and their distances to the optimised image."""
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
            who: cast(Losses, {part: float(values[index]) for part, values in figures.items()})
            for index, who in enumerate(pictures)
        }
