"""A network that learns in this process, a step at a time: as `fit` teaches it, and as the peers do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from batch_nst.engine.johnson import Average
from batch_nst.engine.peers import plain_activations, train_step
from batch_nst.engine.transformer_net import TransformerNet
from batch_nst.pipelines.fit import gradient_of, mean_of, rate_at, take_step, weights_at
from batch_nst.pipelines.objective import Objectives
from batch_nst.recipe import Train, value_at

Step = Callable[[Tensor, Tensor, float, int], bool]


@dataclass(frozen=True)
class Student:
    """A network under way."""

    net: TransformerNet
    step: Step
    """From photos and their optimised images, both (B, 3, H, W), 0..255, the part of the training that is
    done, 0..1, and the number of the step, from 1 on. Whether it was taken."""
    weights: Callable[[], dict[str, Tensor]]
    """Those that would become the model now."""
    threads: int
    """Of torch's that the thread which calls `step` shall have."""


@contextmanager
def ours(settings: Train, objectives: Objectives, threads: int) -> Iterator[Student]:
    """A step is that of `fit` with one worker, but that nothing is measured which weighs nothing.

    Args:
        settings: `steps`, `workers` and `device` are not used.
        objectives: the style's, in the precision to train in.
        threads: of the machine.
    """
    on_gpu = objectives.device.type == "cuda"
    pieces = 1 if on_gpu else settings.batch_size
    net = _net(settings, objectives)
    average, parameters = Average(net, settings.average), list(net.parameters())
    optimizer = torch.optim.Adam(parameters, lr=value_at(settings.learning_rate, 0.0))
    objective = objectives.fast
    with ThreadPoolExecutor(
        min(pieces, threads), initializer=torch.set_num_threads, initargs=(max(1, threads // pieces),)
    ) as pool:
        each = map if on_gpu else pool.map

        def step(content: Tensor, optimised: Tensor, part: float, number: int) -> bool:
            weighted = partial(gradient_of, net, objective, weights_at(settings, part), measure_all=False)
            gradient, _ = mean_of(each(weighted, content.chunk(pieces), optimised.chunk(pieces)))
            taken = take_step(optimizer, parameters, gradient, rate_at(settings, part, number))
            if taken:
                average.update(net, number)
            return taken

        yield Student(net, step, lambda: average.weights, threads if on_gpu else 1)


@contextmanager
def peers(settings: Train, objectives: Objectives, threads: int) -> Iterator[Student]:
    """The usual programs' loop: see `engine.peers.train_step`. Of the settings, its network, seed and rate.

    Args:
        settings: `learning_rate` is a number.
        objectives: the style's; fp32 is taken.
        threads: of the machine.
    """
    net = _net(settings, objectives)
    network = plain_activations(objectives.exact.vgg)
    optimizer = torch.optim.Adam(net.parameters(), lr=value_at(settings.learning_rate, 0.0))

    def step(content: Tensor, _optimised: Tensor, _part: float, _number: int) -> bool:
        train_step(net, objectives.exact, network, optimizer, content)
        return True

    yield Student(net, step, net.state_dict, threads)


def _net(settings: Train, objectives: Objectives) -> TransformerNet:
    torch.manual_seed(settings.seed)
    return TransformerNet(settings.width, settings.network).to(objectives.device)
