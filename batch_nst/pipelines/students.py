"""A network that learns in this process, a step at a time: as ours does, and as the peers' do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from batch_nst.data.pairs import Batch
from batch_nst.engine.peers import plain_activations, train_step
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.pipelines.objective import Objectives, to_tensor
from batch_nst.pipelines.training import Training
from batch_nst.recipe import Train, value_at


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


def ours(settings: Train, objectives: Objectives, threads: int) -> Student:
    """A worker of `fit`, alone; but that nothing is measured which weighs nothing.

    Args:
        settings: `steps` and those of workers are not used.
        objectives: the style's, in the precision to train in.
        threads: of the machine.
    """
    of_image = max(1, threads // settings.batch_size)
    training = Training(settings, objectives, _net(settings, objectives), of_image, threads // of_image)

    def step(batch: Batch, part: float) -> bool:
        before = training.skipped
        training.advance(batch, part, measure_all=False)
        return training.skipped == before

    on_gpu = objectives.device.type == "cuda"
    return Student(training.net, step, lambda: training.average.weights, threads if on_gpu else 1)


def peers(settings: Train, objectives: Objectives, threads: int) -> Student:
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
