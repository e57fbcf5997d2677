"""The arms of the ablation: how each trains, its photos, and a network that trains in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from batch_nst.data.dataset.sampler import Batch
from batch_nst.engine.baselines import plain_activations, train_step
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.pipelines.train.trainer import Trainer
from batch_nst.recipe import Quality, Schedule, Train, value_at

_FILTERED, _UNFILTERED = Quality(), Quality(max_deviation=None, min_change=None)


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    title: str
    train: Train
    """How; `steps` count for nothing: an arm has so much time, and its schedules are parts of that."""
    photos: int | None = 100
    """How many are trained on, at the most; None: all."""
    quality: Quality = _FILTERED
    """Which pairs are passed over."""
    peers: bool = False
    """Whether it is the usual programs' loop, in place of ours."""

    @property
    def pairs(self) -> bool:
        """Whether it looks at optimised images."""
        return any(map(_counts, (self.train.feature_weight, self.train.pixel_weight)))


def _counts(schedule: Schedule) -> bool:
    """Whether a weight is ever above 0."""
    return any(point[1] for point in schedule) if isinstance(schedule, list) else schedule > 0


def _our_train(**settings: Any) -> Train:
    """A recipe's defaults, but for crops, as photos are few, and batches for few cores.

    The checkerboard counts in one arm alone, which shows what that costs.
    """
    return Train(**({"batch_size": 2, "crop_size": 80, "checkerboard_weight": 0.0} | settings))


_TOGETHER = _our_train()

ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "peers": Arm(
            "the peers' way: perceptual loss",
            Train(
                batch_size=4,
                precision="fp32",
                learning_rate=1e-3,
                feature_weight=0.0,
                checkerboard_weight=0.0,
                average=0.0,
            ),
            photos=None,
            peers=True,
        ),
        "perceptual": Arm("perceptual loss", _our_train(feature_weight=0.0), photos=None),
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
        "unfiltered": Arm("both, no quality filter", _TOGETHER, quality=_UNFILTERED),
        "together-25": Arm("both, 25 photos", _TOGETHER, photos=25),
        "together-300": Arm("both, 300 photos", _TOGETHER, photos=300),
        "whole": Arm("both, whole pictures", _our_train(batch_size=4, crop_size=None, feature_weight=5.0)),
        "small": Arm("both, small network", _our_train(network="small")),
    }
)
"""By name, in the order in which they run."""


@dataclass(frozen=True)
class Student:
    """A network under way."""

    net: TransformerNet
    step: Callable[[Batch, float], bool]
    """With the next batch, when this part of the training is done, 0..1. Whether the step was taken."""
    weights: Callable[[], dict[str, Tensor]]
    """Those that would become the model now."""
    threads: int
    """Of torch's that the thread which calls `step` shall have."""


def our_student(settings: Train, objectives: Objectives, threads: int) -> Student:
    """A worker of `fit`, alone; but that nothing is measured which weighs nothing.

    Args:
        settings: `steps` and those of workers are not used.
        objectives: the style's, in the precision to train in.
        threads: of the machine.
    """
    of_image = max(1, threads // settings.batch_size)
    training = Trainer(settings, objectives, _net(settings, objectives), of_image, threads // of_image)

    def step(batch: Batch, part: float) -> bool:
        before = training.skipped
        training.train_step(batch, part, skip_unweighted=True)
        return training.skipped == before

    on_gpu = objectives.device.type == "cuda"
    return Student(training.net, step, lambda: training.average.weights, threads if on_gpu else 1)


def peers_student(settings: Train, objectives: Objectives, threads: int) -> Student:
    """The usual programs' loop: see `engine.peers.train_step`.

    Args:
        settings: network, seed and learning rate, which is a number, are used.
        objectives: the style's; fp32 is taken.
        threads: of the machine.
    """
    net = _net(settings, objectives)
    network = plain_activations(objectives.exact.vgg)
    optimizer = torch.optim.Adam(net.parameters(), lr=value_at(settings.learning_rate, 0.0))

    def step(batch: Batch, _part: float) -> bool:
        photos = to_tensor(batch.content, objectives.device)
        train_step(net, objectives.exact, network, optimizer, photos)
        return True

    return Student(net, step, lambda: dict(net.state_dict()), threads)


def _net(settings: Train, objectives: Objectives) -> TransformerNet:
    torch.manual_seed(settings.seed)
    return TransformerNet(settings.width, settings.network).to(objectives.device)
