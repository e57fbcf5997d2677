"""The arms of the ablation: how each trains, on which photos, and its training loop in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch

from batch_nst.data.dataset.sampler import Batch
from batch_nst.data.models.files import read_model
from batch_nst.engine.baselines import plain_activations, train_step
from batch_nst.engine.fast_model.transformer_net import TransformerNet
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.pipelines.train.trainer import Trainer, first_net
from batch_nst.recipe import Network, Quality, Schedule, Train, value_at

_FILTERED, _UNFILTERED = Quality(), Quality(max_deviation=None, min_change=None)


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    title: str
    train: Train
    """Settings of the training, except `steps`: time limits an arm, and schedules follow the time spent."""
    photos: int | None = 100
    """Maximum number of photos to train on; None: all."""
    iterations: int | None = None
    """Iterations of the optimisation that makes its pairs; None: those of the ablation."""
    quality: Quality = _FILTERED
    """Filter of the pairs."""
    alone: bool = False
    """Whether it is also trained on all other photos, without pairs: `train.unpaired` of each batch."""
    baseline: bool = False
    """Whether it is trained by the baseline's loop (pytorch/examples) instead of ours."""

    @property
    def pairs(self) -> bool:
        """Whether its loss uses optimised images."""
        return any(map(_counts, (self.train.feature_weight, self.train.pixel_weight)))


def _counts(schedule: Schedule) -> bool:
    """Whether the weight of a schedule is ever above 0."""
    return any(point[1] for point in schedule) if isinstance(schedule, list) else schedule > 0


def _our_train(
    optimizer: Literal["adam", "muon"] = "adam", network: Network = "johnson", **settings: Any
) -> Train:
    """A recipe's defaults, except for crops, as photos are few, and small batches for few cores.

    The checkerboard loss is used in one arm only, which shows what it costs; Muon, and another network than
    Johnson's, in those that name them.
    """
    ours = {"batch_size": 2, "crop_size": 80, "checkerboard_weight": 0.0} | settings
    return Train(optimizer=optimizer, network=network, **ours)


_TOGETHER = _our_train()
_SKIP = _our_train(optimizer="muon", network="skip")

ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "peers": Arm(
            "baseline: perceptual loss",
            Train(
                network="johnson",
                batch_size=4,
                precision="fp32",
                learning_rate=1e-3,
                feature_weight=0.0,
                checkerboard_weight=0.0,
                average=0.0,
                optimizer="adam",
            ),
            photos=None,
            baseline=True,
        ),
        "perceptual": Arm("perceptual loss", _our_train(feature_weight=0.0), photos=None),
        "content": Arm(
            "perceptual loss, more content", _our_train(feature_weight=0.0, content_factor=3.0), photos=None
        ),
        "pixels": Arm(
            "pairs, in pixels", _our_train(pixel_weight=1.0, feature_weight=0.0, perceptual_weight=0.0)
        ),
        "features": Arm("pairs, in VGG features", _our_train(feature_weight=5.0, perceptual_weight=0.0)),
        "then": Arm(
            "pairs, then perceptual loss",
            _our_train(
                feature_weight=[[0.0, 5.0], [0.5, 5.0], [0.5, 0.0]],
                perceptual_weight=[[0.0, 0.0], [0.5, 0.0], [0.5, 1.0]],
            ),
        ),
        "together": Arm("both together", _TOGETHER),
        "even": Arm(
            "both, no checkerboard",
            _our_train(checkerboard_weight=Train.model_fields["checkerboard_weight"].default),
        ),
        "muon": Arm("both, by Muon", _our_train(optimizer="muon")),
        "half": Arm("both, by Muon, half network", _our_train(optimizer="muon", network="half")),
        "white": Arm("both, by Muon, white network", _our_train(optimizer="muon", network="white")),
        "skip": Arm("both, by Muon, skip network", _SKIP),
        "skip-mixed": Arm(
            "both, by Muon, skip network, the other photos without pairs",
            _SKIP,
            alone=True,
        ),
        # As many iterations in all as 100 photos have, 60 each.
        "skip-mixed-20x300": Arm(
            "the same, 20 photos of 300 iterations",
            _SKIP,
            photos=20,
            iterations=300,
            alone=True,
        ),
        "skip-mixed-300x20": Arm(
            "the same, 300 photos of 20 iterations",
            _SKIP,
            photos=300,
            iterations=20,
            alone=True,
        ),
        "skip-mixed-init": Arm(
            "both, by Muon, skip network, the others without pairs, from the zoo's great wave",
            _our_train(optimizer="muon", network="skip", init="model:zoo:great_wave"),
            alone=True,
        ),
        "unfiltered": Arm("both, no quality filter", _TOGETHER, quality=_UNFILTERED),
        "together-25": Arm("both, 25 photos", _TOGETHER, photos=25),
        "together-300": Arm("both, 300 photos", _TOGETHER, photos=300),
        "mixed-25": Arm("both, 25 photos, the others without pairs", _TOGETHER, photos=25, alone=True),
        "mixed": Arm("both, the other photos without pairs", _TOGETHER, alone=True),
        "whole": Arm("both, whole pictures", _our_train(batch_size=4, crop_size=None, feature_weight=5.0)),
        "small": Arm("both, small network", _our_train(network="small")),
    }
)
"""The arms by name, in the order in which they run."""


@dataclass(frozen=True)
class TrainingLoop:
    """A network in training."""

    net: TransformerNet
    step: Callable[[Batch, float], bool]
    """Take a step with a batch, at a fraction 0..1 of the training; returns False if the step was skipped."""
    model: Callable[[], TransformerNet]
    """Returns the model, were the training to end now."""
    threads: int
    """Number of threads of torch in the thread that calls `step`."""


def own_loop(settings: Train, objectives: Objectives, threads: int) -> TrainingLoop:
    """The loop of `train` with one worker, except that parts of the loss without weight are not measured.

    Args:
        settings: all but `steps` and the settings of workers are used.
        objectives: the style's, in the precision to train in.
        threads: threads of the machine.
    """
    of_image = max(1, threads // settings.batch_size)
    trainer = Trainer(settings, objectives, _net(settings, objectives), of_image, threads // of_image)

    def step(batch: Batch, part: float) -> bool:
        before = trainer.skipped
        trainer.train_step(batch, part, skip_unweighted=True)
        return trainer.skipped == before

    on_gpu = objectives.device.type == "cuda"
    return TrainingLoop(trainer.net, step, trainer.model, threads if on_gpu else 1)


def baseline_loop(settings: Train, objectives: Objectives, threads: int) -> TrainingLoop:
    """The loop of pytorch/examples, see `engine.baselines.train_step`.

    Args:
        settings: network, seed and a constant learning rate are used.
        objectives: the style's; the fp32 one is used.
        threads: threads of the machine.
    """
    net = _net(settings, objectives)
    network = plain_activations(objectives.exact.vgg)
    optimizer = torch.optim.Adam(net.parameters(), lr=value_at(settings.learning_rate, 0.0))

    def step(batch: Batch, _part: float) -> bool:
        photos = to_tensor(batch.content, objectives.device)
        train_step(net, objectives.exact, network, optimizer, photos)
        return True

    return TrainingLoop(net, step, lambda: net, threads)


def _net(settings: Train, objectives: Objectives) -> TransformerNet:
    start = read_model(settings.init_model) if settings.init_model else None
    return first_net(settings, start).to(objectives.device)
