"""A trial of a few training steps and iterations on one device, without Ray: what the steps take here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from batch_nst.data.dataset.sampler import Batch
from batch_nst.data.images.codec import Pixels, crop
from batch_nst.engine.baselines import run_baseline
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.engine.timing import iteration_seconds, seconds, wait_for
from batch_nst.pipelines.cost.steps import StepRates
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.pipelines.train.trainer import Trainer
from batch_nst.recipe import Recipe, Train

_WARM_UP, _TIMED = 2, 3
_BASELINE = 4
"""Evaluations of the baseline."""


def pair_rate(objectives: Objectives, side: int, batch: int) -> float:
    """Device-seconds of an iteration for each pixel, in batches of the style image's square centre."""
    content = to_tensor(np.stack([_square(objectives, side)] * batch), objectives.device)
    return iteration_seconds(objectives.fast, content, _WARM_UP, _TIMED) / side**2


def step_rates(recipe: Recipe, scoring: Objectives, training: Objectives, threads: int) -> StepRates:
    """Measure training and scoring; what a picture shows does not matter, so the style image serves.

    Args:
        recipe: its sizes are those of the trial.
        scoring: the objective on the device that scores.
        training: the objective on a training worker's device.
        threads: CPU threads of that worker.
    """
    side = recipe.generate.image_size
    photo = to_tensor(_square(scoring, side)[None], scoring.device)
    curve, _ = run_baseline(scoring.exact, photo, _BASELINE, "lbfgs")
    return StepRates(
        source="calibration",
        training=_training(recipe.train, training, min(recipe.train.crop_size or side, side), threads),
        scoring=iteration_seconds(scoring.fast, photo, _WARM_UP, _TIMED) / side**2,
        baseline=curve[-1][0] / _BASELINE / side**2,
    )


def _training(settings: Train, objectives: Objectives, side: int, threads: int) -> float:
    """Device-seconds of a training step for each pixel of its batch."""
    share = -(-settings.batch_size // settings.worker_range[1])
    each = max(1, threads // share)  # as in `ray_train`
    at_once = max(1, threads // each)
    net = TransformerNet(settings.width, settings.network).to(objectives.device)
    trainer = Trainer(settings, objectives, net, each, at_once)
    # On a CPU images take the same time, however many are in a batch.
    count = share if objectives.device.type == "cuda" else min(share, at_once)
    pictures = np.stack([_square(objectives, side)] * count)

    def step() -> None:
        trainer.train_step(Batch(pictures, pictures[:, :, ::-1]))
        wait_for(objectives.device)

    return _least(step) / (count * side**2)


def _least(run: Callable[[], None]) -> float:
    """Seconds of the faster one of two calls, after one that chooses kernels."""
    run()
    return min(seconds(run) for _ in range(2))


def _square(objectives: Objectives, side: int) -> Pixels:
    return crop(objectives.style.pixels, side)
